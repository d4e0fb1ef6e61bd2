"""Expected improvement of value and costs together, after ParEGO (Knowles 2006).

Every suggestion draws weights w, by the trial's seed: a third of them for the value alone, which is
what is reported, the others evenly for all. It improves

    t(x) = -max_j w_j r_j(x) - EVEN * sum_j w_j r_j(x)

``r_0`` is by how much the value stays below the best that is expected of what was tried, in shares
of what the best of the cheapest stays below it; ``r_j`` how far the logarithm of cost j is above
the least, in shares of the range that was seen. The value is the surrogate's. A cost is what a
Gaussian process over the settings that change it expects: of an encoder that was tried, what was
measured.

Shapes: N trials, C configurations, J costs, with the value in ``_worth``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embsearch.config.catalogue import COSTS
from embsearch.config.schema import Config
from embsearch.history.trial import Trial
from embsearch.hpo.costs import ALIKE, settled
from embsearch.hpo.space import Space
from embsearch.hpo.surrogate import NOISE, Coordinates, Floats, Point, Surrogate, matern

EVEN = 0.05  # Knowles' rho
ALONE = 1 / 3  # of the suggestions are for the value alone
CHEAP = 0.05  # of the range of a cost: who is nearer to the least is one of the cheapest
JITTER = 1e-3  # of equal encoders' costs, which are equal already
NODES, SHARES = np.polynomial.hermite_e.hermegauss(16)  # of a normal variable
SHARES = SHARES / SHARES.sum()


@dataclass(frozen=True)
class LogCost:
    """The logarithm of one cost, as the costs of tried configurations let expect it."""

    coordinates: Coordinates
    known_ND: Floats  # what was tried
    weights_N: Floats
    mean: float
    low: float
    high: float

    def regret(self, points: Sequence[Point]) -> Floats:
        """Return (C,) how far above the least cost, in shares of the range that was seen."""
        asked_CD = self.coordinates.of(points)
        kernel_CN = matern(asked_CD, self.known_ND)
        expected_C = self.mean + kernel_CN @ self.weights_N
        above_C: Floats = expected_C - self.low
        return above_C / (self.high - self.low)


def log_cost(space: Space, points: Sequence[Point], costs: Sequence[float]) -> LogCost:
    """Return what configurations of ``space`` are expected to cost, by those that were tried."""
    coordinates = Coordinates(space)
    known_ND = coordinates.of(points)
    kernel_NN = matern(known_ND, known_ND)
    kernel_NN += JITTER * np.eye(len(costs))
    logs_N = np.log(costs)
    mean = logs_N.mean()
    weights_N = np.linalg.solve(kernel_NN, logs_N - mean)
    return LogCost(
        coordinates=coordinates,
        known_ND=known_ND,
        weights_N=weights_N,
        mean=mean,
        low=logs_N.min(),
        high=logs_N.max(),
    )


def log_costs(trials: Mapping[int, Trial], space: Space, config: Config) -> list[LogCost]:
    """Return the costs that the study names and in which its trials differ."""
    found = []
    for name in config.evaluate.costs:
        known = settled(trials, name)
        costs = list(known.values())
        if not costs or max(costs) <= ALIKE * min(costs):
            continue
        changing = COSTS[name].changed_by
        dimensions = [one for one in space.dimensions if one.path in changing]
        points = []
        for number in known:
            params = trials[number].params
            points.append(space.fill(params, config))
        own = Space(tuple(dimensions))
        found.append(log_cost(own, points, costs))
    return found


@dataclass(frozen=True)
class Scale:
    """The way from values and regrets of costs to ``t``."""

    weights_J: Floats
    top: float  # the best value that is expected of what was tried
    span: float

    def worth(self, value_C: Floats, costs_CJ: Floats) -> Floats:
        """Return (C,) ``t`` of configurations."""
        regret_C = (self.top - value_C) / self.span
        every_CJ = np.column_stack([regret_C, costs_CJ])
        every_CJ *= self.weights_J
        most_C = every_CJ.max(1)
        sum_C = every_CJ.sum(1)
        worth_C: Floats = -most_C - EVEN * sum_C
        return worth_C


class Scalarised:
    """The surrogate and the costs as one: what a sampler of expected improvement asks."""

    def __init__(self, surrogate: Surrogate, costs: Sequence[LogCost], seed: int) -> None:
        self._surrogate = surrogate
        self._costs = costs
        dice = np.random.default_rng((seed, len(costs)))
        self._weights_J = np.zeros(1 + len(costs))
        if dice.random() < ALONE:
            self._weights_J[0] = 1
        else:
            self._weights_J[:] = dice.dirichlet(np.ones(1 + len(costs)))

    def improvement(self, points: Sequence[Point], tried: Sequence[Point]) -> Floats:
        """Return (C,) the expected improvement over the best of those ``tried``, by the weights."""
        ends = self._surrogate.ends(tried)
        costs = self._regrets(tried)
        scale = self._scale(ends, costs)
        worth = scale.worth(ends, costs)
        best = int(np.argmax(worth))
        ahead_C, sd_C = self._surrogate.ahead(points, tried[best])
        middle_C = ends[best] + ahead_C
        costs_CJ = self._regrets(points)
        found_C = np.zeros(len(points))
        for node, share in zip(NODES, SHARES, strict=True):
            worth_C = scale.worth(middle_C + node * sd_C, costs_CJ)
            gain_C = worth_C - worth[best]
            found_C += share * np.maximum(gain_C, 0)
        return found_C

    def _scale(self, ends: Floats, costs: Floats) -> Scale:
        """Return the scale of what was tried: from the best to the best of the cheapest."""
        top = ends.max()
        lowest = top - NOISE
        for cost in costs.T:
            cheap = cost <= cost.min() + CHEAP
            lowest = min(lowest, ends[cheap].max())
        return Scale(self._weights_J, top, top - lowest)

    def _regrets(self, points: Sequence[Point]) -> Floats:
        every = [cost.regret(points) for cost in self._costs]
        return np.column_stack(every)
