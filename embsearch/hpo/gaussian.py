"""A sampler by expected improvement: what is expected to be best, or may well be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from embsearch.config.schema import Config
from embsearch.history.trial import Trial
from embsearch.hpo.memory_study import BLAMED
from embsearch.hpo.space import Space
from embsearch.hpo.surrogate import Floats, Measured, Point, Surrogate, Told, in_logits
from embsearch.values import Scalar

DRAWS = 768  # random configurations that are compared
KEPT = 24  # of these, from which as many again are bred
FAILED = 0.5  # logits below the lowest first evaluation
PRIOR = 10  # trials, after which a prior counts once
MANY = 300  # trials, from which on TPE is asked: the equations grow with the measurements


class Improves(Protocol):
    """The model that a sampler asks what would be better than what was ``tried``."""

    def improvement(self, points: Sequence[Point], tried: Sequence[Point]) -> Floats:
        """Return (C,) the expected improvement."""


class ExpectedImprovement(optuna.samplers.BaseSampler):
    """Suggests the configuration of highest expected improvement over those ``tried``.

    Candidates are random ones, and mixtures of the best of these. Conditions hold in both.
    """

    def __init__(
        self, seed: int, space: Space, surrogate: Improves, tried: Sequence[Point]
    ) -> None:
        self._dice, self._space = np.random.default_rng(seed), space
        self._surrogate, self._tried = surrogate, tried
        self.gain = math.inf  # what the last suggestion promises, in logits

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {d.name: d.distribution for d in self._space.dimensions}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Scalar]:
        best, self.gain = self.best()
        return self._space.to_optuna(best)

    def sample_independent(self, *asked: object) -> NoReturn:
        raise AssertionError("every parameter is sampled with the others")

    def best(self) -> tuple[dict[str, Scalar], float]:
        """Return the configuration to try, and its expected improvement in logits."""
        shares_CD = self._dice.random((DRAWS, len(self._space.dimensions)))
        worth_C = self._worth(shares_CD)
        best_KD = shares_CD[np.argsort(-worth_C)[:KEPT]]
        bred_CD = self._bred(best_KD)
        shares_CD = np.concatenate([shares_CD, bred_CD])
        worth_C = np.concatenate([worth_C, self._worth(bred_CD)])
        point = self._space.at(shares_CD[int(np.argmax(worth_C))])
        return point, float(self._surrogate.improvement([point], self._tried)[0])

    def _worth(self, shares_CD: Floats) -> Floats:
        """Return (C,) expected improvements, times the prior, which counts less with every trial
        (Hvarfner et al. 2022).
        """
        points = [self._space.at(shares_D) for shares_D in shares_CD]
        logs = np.array([self._space.log_prior(point) for point in points])
        gains: Floats = self._surrogate.improvement(points, self._tried)
        return gains * np.exp(logs * PRIOR / len(self._tried))

    def _bred(self, best_KD: Floats) -> Floats:
        """Return configurations that take each share from one of two of the best, a little moved."""
        count, width = DRAWS, best_KD.shape[1]
        parents = self._dice.integers(0, len(best_KD), (count, 2))
        first = self._dice.random((count, width)) < 0.5
        mixed = np.where(first, best_KD[parents[:, 0]], best_KD[parents[:, 1]])
        return np.clip(mixed + self._dice.normal(0, 0.05, mixed.shape), 0, 1)


def surrogate_of(
    trials: Mapping[int, Trial],
    space: Space,
    config: Config,
    told: Told,
    again: Sequence[tuple[Point, float]] = (),
) -> Surrogate:
    """Return the surrogate that knows what a study's trials measured.

    A trial that came to its end has its best value there, which is that of its model. One that its
    parameters made fail stands well below the lowest first evaluation; one that runs, and has
    measured nothing, where it is expected: so another worker tries something else.
    ``again``: further values of configurations at their end.
    """
    at, last = config.evaluate.at, len(config.evaluate.at)
    sound = [t for t in trials.values() if not t.failed_by(("bug", "killed", "hung"))]
    broken = [t for t in sound if t.failed_by(BLAMED)]
    seen: list[tuple[Point, int, float]] = [(point, last, value) for point, value in again]
    for trial in sound:
        if trial not in broken:
            seen += [(trial.params, rung, value) for rung, value in _measured(trial, last)]
    points, rungs, values = zip(*seen, strict=True) if seen else ((), (), ())
    logits = in_logits(values).tolist()
    first = [logit for logit, rung in zip(logits, rungs, strict=True) if rung == 1]
    if first:
        points += tuple(trial.params for trial in broken)
        rungs += (1,) * len(broken)
        logits += [min(first) - FAILED] * len(broken)
    whole = [space.fill(point, config) for point in points]
    found = Surrogate(space, at, told, Measured(whole, rungs, logits))
    awaited = [space.fill(t.params, config) for t in sound if not t.values and t not in broken]
    return found.awaiting(awaited) if awaited else found


def _measured(trial: Trial, last: int) -> Iterator[tuple[int, float]]:
    """Yield what a trial measured at each evaluation."""
    ended = trial.state == "complete" and trial.best is not None
    until = min(trial.rung, last) if ended else last + 1
    yield from ((rung, value) for rung, value in trial.values.items() if rung < until)
    if ended and trial.best is not None:
        yield last, trial.best
