"""Correlation of cosines and scores, with intervals from resampling whole first texts.

Spearman's is Pearson's of ranks; of equal values each has their mean rank. Values are sorted once:
a draw is a weight a row, its ranks come from one cumulated sum. A model that gives all pairs one
cosine has correlation 0. Shapes: M rows, N draws at once, G groups.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from embsearch.evaluate.auc import Floats, checked, groups
from embsearch.evaluate.bootstrap import percentiles, resamples
from embsearch.values import Interval

Statistic = Callable[[Floats], Floats]  # (N, M) weights of rows -> (N,)


def pearson(cosines: ArrayLike, scores: ArrayLike) -> Statistic:
    """Return Pearson's correlation of two columns as a function of the rows' weights.

    Raises ValueError on NaN.
    """
    x_M, y_M = _columns(cosines, scores)
    return lambda weights_NM: _correlation(x_M[None], y_M[None], weights_NM)


def spearman(cosines: ArrayLike, scores: ArrayLike) -> Statistic:
    """Return Spearman's in the same way."""
    x, y = (_ranks(column_M) for column_M in _columns(cosines, scores))
    return lambda weights_NM: _correlation(x(weights_NM), y(weights_NM), weights_NM)


def value_of(statistic: Statistic, rows: int) -> float:
    """Return the value where every row counts once."""
    return float(statistic(np.ones((1, rows)))[0])


def interval(
    statistic: Statistic, group: ArrayLike, draws: int, seed: int, level: float = 0.95
) -> Interval:
    """Return a correlation, or a difference of two, with its interval."""
    group_M = groups(group)
    many = int(group_M.max()) + 1
    drawn = [
        statistic(counts_NG[:, group_M].astype(np.float64))
        for counts_NG in resamples(many, len(group_M), draws, seed)
    ]
    return percentiles(value_of(statistic, len(group_M)), drawn, level, worst=-1.0)


def gain(mine: Statistic, theirs: Statistic) -> Statistic:
    """Return how much more one correlation is than the other on the same weights: paired."""
    return lambda weights_NM: mine(weights_NM) - theirs(weights_NM)


def _columns(cosines: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    x_M, _ = checked(cosines, np.zeros(len(np.asarray(scores))))
    return x_M, np.asarray(scores, dtype=np.float64)


def _correlation(x_NM: Floats, y_NM: Floats, weights_NM: Floats) -> Floats:
    total_N1 = weights_NM.sum(1, keepdims=True)
    x_NM = x_NM - (weights_NM * x_NM).sum(1, keepdims=True) / total_N1
    y_NM = y_NM - (weights_NM * y_NM).sum(1, keepdims=True) / total_N1
    both_N = (weights_NM * x_NM * y_NM).sum(1)
    alone_N = (weights_NM * x_NM**2).sum(1) * (weights_NM * y_NM**2).sum(1)
    some_N = alone_N > 1e-24 * total_N1[:, 0] ** 2  # else one of the columns is constant
    return np.where(some_N, both_N / np.sqrt(np.where(some_N, alone_N, 1.0)), 0.0)


def _ranks(value_M: Floats) -> Statistic:
    """Return the mean ranks of the rows, up to a constant, as a function of their weights."""
    distinct, block_M = np.unique(value_M, return_inverse=True)
    order = np.argsort(block_M, kind="stable")
    ends = np.searchsorted(block_M[order], np.arange(len(distinct)), side="right")

    def ranks(weights_NM: Floats) -> Floats:
        through_NK = np.cumsum(weights_NM[:, order], axis=1)[:, ends - 1]
        below_NK = np.pad(through_NK[:, :-1], ((0, 0), (1, 0)))
        rank_NM: Floats = ((below_NK + through_NK) / 2)[:, block_M]
        return rank_NM

    return ranks
