"""Samplers, made anew for every trial from (seed, trial number).

Optuna never stores a sampler's random state, so a resumed study repeats its first suggestion
(measured: 3 of 3 resumes). Seeding by the trial's number makes the suggestion a function of
the study's history instead of the process's.
"""

from __future__ import annotations

import hashlib
import math
import warnings

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from embsearch.config.schema import SamplerConfig
from embsearch.errors import ConfigError
from embsearch.search.space import Dimension, Space
from embsearch.values import Scalar

GRID_POINTS = 4  # values of a continuous range on a grid


def make(config: SamplerConfig, space: Space, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that suggests trial ``number``. Raises ConfigError for a space it cannot search."""
    seed = int.from_bytes(hashlib.sha256(f"{config.seed} {number}".encode()).digest()[:4], "big")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match config.name:
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "grid":
                return Grid(grid(space), seed=config.seed)
            case "qmc":
                return Sobol(config.seed, space, number)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=config.startup_trials)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(
                    seed=seed,
                    n_startup_trials=config.startup_trials,
                    warn_independent_sampling=False,
                )
        # group: each branch of a conditional space has its own joint distribution
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=config.startup_trials,
            multivariate=True,
            group=True,
            constant_liar=True,
        )


class Grid(optuna.samplers.GridSampler):
    """Optuna's grid, without its wish to stop the study: that is for the budget to say."""

    def after_trial(self, *args: object, **kwargs: object) -> None:
        pass


class Sobol(optuna.samplers.QMCSampler):
    """Point ``number`` of one scrambled sequence over the whole space.

    Optuna's own counts points in the study's attributes and takes its axes from the first
    trial, so a trial that is asked for again moves on, and a parameter that trial 0 lacks
    would be drawn from the same seed every time.
    """

    def __init__(self, seed: int, space: Space, number: int) -> None:
        super().__init__(seed=seed, scramble=True, warn_independent_sampling=False)
        self._axes = {d.name: d.distribution for d in space.dimensions}
        self._number = number

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {name: d for name, d in self._axes.items() if not d.single()}

    def _find_sample_id(
        self, study: optuna.Study, search_space: dict[str, BaseDistribution]
    ) -> int:
        return self._number


def trials_of(sampler: SamplerConfig, space: Space, known: int) -> int | None:
    """Return after how many trials a sampler has nothing new to suggest.

    A grid of n points: n more than the ``known`` points tried first. None for the others.
    """
    if sampler.name != "grid":
        return None
    return known + math.prod(len(values) for values in grid(space).values())


def grid(space: Space) -> dict[str, list[Scalar]]:
    """Return the values of each parameter. Raises ConfigError where parameters are conditional."""
    conditional = [d.path for d in space.dimensions if d.when]
    if conditional:
        raise ConfigError(
            f"sampler=grid: {', '.join(conditional)} depend on other parameters, a grid has no place for that; "
            "use sampler=tpe, or search a space without conditions"
        )
    return {d.name: _points(d) for d in space.dimensions}


def _points(dimension: Dimension) -> list[Scalar]:
    """Return all choices; of a range its ends and what lies evenly between them, on its steps."""
    distribution = dimension.distribution
    if dimension.ordered or isinstance(distribution, CategoricalDistribution):
        return [dimension.to_optuna(value) for value in dimension.values]
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    step, log = distribution.step, distribution.log  # type: ignore[attr-defined]
    shares = [i / (GRID_POINTS - 1) for i in range(GRID_POINTS)]
    values = [low * (high / low) ** s if log else low + (high - low) * s for s in shares]
    values[-1] = high  # not a rounding error above it
    if step:
        values = sorted({low + round((v - low) / step) * step for v in values})
    return values
