"""A model of how good configurations are: a Gaussian process over a whole conditional space.

Values are taken in logits, v = log(value / (1 - value)). The value of configuration x at evaluation
r of a trial, where a share s_r of its texts was seen, is modelled as

    v(x, r) = c_r + sum_k w_k e_k(x) + f(x) + (1 - s_r) g(x) + noise

``e_k`` is what earlier study k says of x (hpo/earlier.py): by how much it is better than the
config's own point, times the study's share. Its weight ``w_k`` is 1 before anything was measured,
so that the first trials follow what held elsewhere; measurements overrule it. ``f`` and ``g`` are
Gaussian processes with a Matern 5/2 kernel (Rasmussen and Williams 2006, chapters 2.2, 2.7 and
4.2): what is particular to these data, and by how much configurations are ahead or behind early
on. ``c_r`` is free. All of it is linear and Gaussian, so the posterior is one solve of as many
equations as there are measurements.

How fast values change along a setting (``LOG``, ``LENGTHS``) was measured on six data sets, 66 configurations
each (benchmarks/record_curves.py); fitted to the first few trials is nothing but how large ``f`` is.

Shapes: N measurements, C configurations, D columns, K earlier studies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embsearch.hpo.space import Dimension, Space
from embsearch.values import Scalar

Floats = NDArray[np.float64]
Point = Mapping[str, Scalar]
Told = Callable[[Sequence[Point]], Floats]  # (C, K) what earlier studies say of configurations

# The distance over which values change, of logarithms (LOG) and of numbers, and between two choices.
# Other settings: the width of their range; 1 between choices.
LOG = {"train.lr": 3.2, "train.batch_size": 5.0, "train.l2": 70.0, "objective.temperature": 7.0}
LENGTHS = {
    "train.warmup": 3.0,
    "train.schedule": 10.0,
    "objective.name": 2.5,
    "objective.margin": 1.8,
    "objective.symmetric": 6.0,
    "model.freeze_layers": 2.5,
}
EDGE = 1e-4  # nearer to 0 and 1 no value is taken
OWN, EARLY = 0.25, 0.15  # standard deviations of f and g, in logits
NOISE = 0.05  # between seeds, in logits
SCALES = (0.5, 1.0, 2.0, 4.0)  # of f and g; the likeliest is taken
FREE = 2.0  # standard deviation of c_r
TRUST = 1.5  # standard deviation of w_k


def in_values(gain: float, values: Sequence[float]) -> float:
    """Return a small gain in logits over the best of ``values`` as one of the metric."""
    best = max(values)
    return gain * ((1 - best**2) / 2 if min(values) < 0 else best * (1 - best))


def in_logits(values: Sequence[float]) -> Floats:
    """Return values in logits; those of a metric from -1 to 1 are first put between 0 and 1."""
    found = np.array(values, dtype=float)
    if len(found) and found.min() < 0:
        found = (1 + found) / 2
    found = np.clip(found, EDGE, 1 - EDGE)
    return np.log(found / (1 - found))


class Coordinates:
    """The columns that stand for a configuration of a space. A number that a configuration does not
    have stands at the middle of its range, a choice at none of them.
    """

    def __init__(self, space: Space) -> None:
        self.space = space

    def of(self, points: Sequence[Point]) -> Floats:
        """Return (C, D) columns, in units of these lengths."""
        columns = [column for d in self.space.dimensions for column in self._columns(d, points)]
        return np.array(columns, dtype=float).reshape(len(columns), len(points)).T

    def _columns(self, dimension: Dimension, points: Sequence[Point]) -> list[Floats]:
        found = [point.get(dimension.path) for point in points]
        if not dimension.is_number:
            length = LENGTHS.get(dimension.path, 1.0) * math.sqrt(2)
            return [
                np.array([float(value == choice) for value in found]) / length
                for choice in dimension.values
            ]
        low, high = float(dimension.values[0]), float(dimension.values[-1])
        logs = low > 0 and (dimension.is_log or dimension.path in LOG)
        middle = math.sqrt(low * high) if logs else (low + high) / 2
        numbers = np.array([middle if value is None else value for value in found], dtype=float)
        numbers = np.clip(numbers, low, high)  # the range may have been narrowed
        if logs:
            numbers, low, high = np.log(numbers), math.log(low), math.log(high)
        known = LOG if logs else LENGTHS
        return [numbers / known.get(dimension.path, (high - low) or 1.0)]


def matern(a_CD: Floats, b_ND: Floats) -> Floats:
    """Return (C, N) Matern 5/2 correlations."""
    squared = (a_CD**2).sum(1)[:, None] + (b_ND**2).sum(1) - 2 * a_CD @ b_ND.T
    d = np.sqrt(5 * np.maximum(squared, 0))
    return (1 + d + d * d / 3) * np.exp(-d)


@dataclass(frozen=True)
class Measured:
    """Measurements: ``values[i]``, in logits, of configuration ``points[i]`` at evaluation
    ``rungs[i]``.
    """

    points: Sequence[Point]
    rungs: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class Inputs:
    """Measurements as the model sees them: evaluation, columns, the words of earlier studies."""

    rung_N: NDArray[np.int64]
    column_ND: Floats
    told_NK: Floats


class Surrogate:
    """The posterior, given what was measured at the shares ``at`` of the texts, the last one 1."""

    def __init__(self, space: Space, at: Sequence[float], told: Told, measured: Measured) -> None:
        self._space, self._at, self._measured = space, at, measured
        self._coordinates, self._told = Coordinates(space), told
        self._left = 1 - np.array(at)  # of a trial, at each evaluation
        self._known = self._inputs(measured.points, np.array(measured.rungs, dtype=np.int64) - 1)
        v_N = np.array(measured.values)
        self._mean = float(v_N.mean()) if len(v_N) else 0.0
        rest_N = v_N - self._mean - self._known.told_NK.sum(1)
        fixed_NN, own_NN = self._terms(self._known, self._known)
        fixed_NN += NOISE**2 * np.eye(len(v_N))
        scaled = {scale: fixed_NN + scale**2 * own_NN for scale in SCALES}
        self._scale = max(SCALES, key=lambda scale: _likelihood(scaled[scale], rest_N, scale))
        self._inverse_NN = np.linalg.inv(scaled[self._scale])
        self._weights_N = self._inverse_NN @ rest_N

    def ends(self, points: Sequence[Point]) -> Floats:
        """Return (C,) the expected values of configurations at their end, in logits."""
        return self._expected(self._ends(points))

    def improvement(self, points: Sequence[Point], tried: Sequence[Point]) -> Floats:
        """Return (C,) the expected improvement of configurations over the best of those ``tried``
        (Jones et al. 1998), in logits.
        """
        best = int(np.argmax(self.ends(tried)))
        ahead, sd = self.ahead(points, tried[best])
        z = ahead / sd
        below = np.array([0.5 * (1 + math.erf(one / math.sqrt(2))) for one in z])
        found: Floats = ahead * below + sd * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return found

    def ahead(self, points: Sequence[Point], of: Point) -> tuple[Floats, Floats]:
        """Return (C,) by how much configurations are expected to end above one; its deviation."""
        asked = self._ends(points)
        one = self._ends([of])
        ahead: Floats = self._expected(asked) - self._expected(one)
        variance = self._variance(asked) + self._variance(one)
        variance -= 2 * self._posterior(asked, one)[:, 0]
        deviation = np.sqrt(np.maximum(variance, 1e-12))
        return ahead, deviation

    def awaiting(self, points: Sequence[Point]) -> Surrogate:
        """Return the surrogate where configurations whose values are still to come are as good as
        it expects: so nothing near them is tried meanwhile.
        """
        known, last = self._measured, len(self._at)
        more = Measured(
            [*known.points, *points],
            [*known.rungs, *[last] * len(points)],
            [*known.values, *self.ends(points)],
        )
        return Surrogate(self._space, self._at, self._told, more)

    def _ends(self, points: Sequence[Point]) -> Inputs:
        return self._inputs(points, np.full(len(points), len(self._left) - 1))

    def _inputs(self, points: Sequence[Point], rung_N: NDArray[np.int64]) -> Inputs:
        return Inputs(rung_N, self._coordinates.of(points), self._told(points))

    def _expected(self, asked: Inputs) -> Floats:
        found: Floats = self._covariance(asked, self._known) @ self._weights_N
        return found + self._mean + asked.told_NK.sum(1)

    def _covariance(self, mine: Inputs, theirs: Inputs) -> Floats:
        """Return what the sum of all terms but the noise has before any measurement."""
        fixed, own = self._terms(mine, theirs)
        return fixed + self._scale**2 * own

    def _terms(self, mine: Inputs, theirs: Inputs) -> tuple[Floats, Floats]:
        """Return the covariance of ``c_r`` and the earlier studies, and that of ``f`` and ``g``."""
        early = np.outer(self._left[mine.rung_N], self._left[theirs.rung_N])
        own: Floats = matern(mine.column_ND, theirs.column_ND) * (OWN**2 + EARLY**2 * early)
        same = FREE**2 * (mine.rung_N[:, None] == theirs.rung_N)
        fixed: Floats = same + TRUST**2 * mine.told_NK @ theirs.told_NK.T
        return fixed, own

    def _posterior(self, mine: Inputs, theirs: Inputs) -> Floats:
        to_mine = self._covariance(mine, self._known)
        to_theirs = self._covariance(self._known, theirs)
        return self._covariance(mine, theirs) - to_mine @ self._inverse_NN @ to_theirs

    def _variance(self, asked: Inputs) -> Floats:
        """Return the diagonal of ``_posterior``; all configurations are at their end."""
        to_asked = self._covariance(asked, self._known)
        before = FREE**2 + TRUST**2 * (asked.told_NK**2).sum(1) + (self._scale * OWN) ** 2
        found: Floats = before - ((to_asked @ self._inverse_NN) * to_asked).sum(1)
        return found


def _likelihood(covariance_NN: Floats, rest_N: Floats, scale: float) -> float:
    """Return how likely ``rest_N`` is where ``f`` and ``g`` are ``scale`` times as large.

    It is a logarithm, but for a constant; twice or half as large is one standard deviation.
    """
    factor_NN = np.linalg.cholesky(covariance_NN)
    fit = np.linalg.solve(factor_NN, rest_N)
    before = 0.5 * math.log2(scale) ** 2
    return float(-0.5 * fit @ fit - np.log(factor_NN.diagonal()).sum() - before)
