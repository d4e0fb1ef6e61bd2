"""Samplers, made anew for every trial from (seed, trial number).

Optuna never stores a sampler's random state, so a resumed study repeats its first suggestion
(measured: 3 of 3 resumes). Seeding by the trial's number makes the suggestion a function of
the study's history instead of the process's.
"""

from __future__ import annotations

import hashlib
import warnings

import optuna
from optuna.distributions import BaseDistribution

from embsearch.config.schema import SamplerConfig
from embsearch.hpo.space import Space

GRID_POINTS = 4  # values of a continuous range on a grid
FURTHER = 4096  # points of a sequence between those of two asks


def make(
    config: SamplerConfig, space: Space, number: int, again: int = 0
) -> optuna.samplers.BaseSampler:
    """Return the sampler that suggests trial ``number``, asked ``again`` because what it suggested
    was tried before.
    """
    seed = seed_of(config, number, again)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match config.name:
            case "random" | "grid":  # the space of a grid has its points alone
                return optuna.samplers.RandomSampler(seed=seed)
            case "qmc":
                return Sobol(config.seed, space, number + FURTHER * again)
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


def seed_of(config: SamplerConfig, number: int, again: int = 0) -> int:
    """Return the seed of trial ``number``, asked ``again``."""
    words = f"{config.seed} {number} {again}" if again else f"{config.seed} {number}"
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")


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
