"""The certainty of an AUC: intervals from resampling whole queries.

Rows of one query are not independent (one click explains the other titles' lack of clicks), so
queries are drawn, with replacement, and a query drawn twice counts twice with all its rows. The
interval is the percentile one (Efron and Tibshirani 1993, chapter 13). With few queries, say below
30, percentile intervals are too narrow; with one query, nothing is known about other queries, and
the interval is the whole range.

Scores are sorted once. A draw is then a weight a query, and its AUC one cumulated sum.
Shapes: M rows, Q queries, N draws at once, P relevant rows, I irrelevant rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embsearch.evaluate.auc import Floats, checked, groups, roc_auc
from embsearch.values import Interval

CHUNK = 1 << 21  # weights held at once: 16 MB, several times that with the sums made of them


def auc_interval(
    scores: ArrayLike,
    relevant: ArrayLike,
    query: ArrayLike,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the pooled ROC AUC with its interval.

    ``Interval.draws`` counts the draws with both classes.

    Raises ValueError as ``roc_auc`` does.
    """
    value = roc_auc(scores, relevant)
    ranked = rank(scores, relevant, query)
    drawn = [ranked.auc(counts_NQ) for counts_NQ in _of_queries(ranked, draws, seed)]
    return percentiles(value, drawn, level, worst=0.0)


def auc_error(
    scores: ArrayLike, relevant: ArrayLike, query: ArrayLike, draws: int = 2000, seed: int = 0
) -> float:
    """Return the standard error of the pooled ROC AUC: the deviation of its resamples.

    Infinite where no resample has both classes.
    """
    ranked = rank(scores, relevant, query)
    drawn = np.concatenate(
        [*(ranked.auc(counts_NQ) for counts_NQ in _of_queries(ranked, draws, seed)), np.empty(0)]
    )
    usable = drawn[~np.isnan(drawn)]
    return float(usable.std()) if len(usable) else float("inf")


def auc_gain(
    candidate: ArrayLike,
    baseline: ArrayLike,
    relevant: ArrayLike,
    query: ArrayLike,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the AUC of ``candidate`` minus AUC of ``baseline``: two score columns of the same
    rows.

    Paired: both are measured on the same resamples, so what is hard about a query cancels. Equal
    scores give exactly 0, low and high.
    """
    value = roc_auc(candidate, relevant) - roc_auc(baseline, relevant)
    new, old = rank(candidate, relevant, query), rank(baseline, relevant, query)
    drawn = [new.auc(counts_NQ) - old.auc(counts_NQ) for counts_NQ in _of_queries(new, draws, seed)]
    return percentiles(value, drawn, level, worst=-1.0)


def mean_gain(
    candidate_Q: ArrayLike,
    baseline_Q: ArrayLike,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean over queries of what a ranking metric gained, paired: two columns of one value a query,
    NaN where the metric has none. A single query says nothing about others: its interval is -1 to
    1.
    """
    gain_Q = np.asarray(candidate_Q, dtype=np.float64) - np.asarray(baseline_Q, dtype=np.float64)
    return _mean_interval(gain_Q, draws, seed, level, worst=-1.0)


def mean_interval(
    value_Q: ArrayLike, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return the mean over queries of a ranking metric between 0 and 1, with its interval."""
    return _mean_interval(np.asarray(value_Q, dtype=np.float64), draws, seed, level, worst=0.0)


def mean_of(parts: Sequence[Interval], weights: Sequence[float]) -> Interval:
    """Return the weighted mean of figures of unrelated rows, with its interval.

    Each part has drawn within its own rows. What it may be off by, to either side, adds up as the
    root of squares (MOVER: Zou and Donner 2008, doi:10.1002/sim.3095).
    """
    share = np.asarray(weights) / np.sum(weights)
    ends = np.array([(one.low, one.value, one.high) for one in parts]).T
    value = ends[1] @ share
    below, above = (np.sqrt((((ends[1] - end) * share) ** 2).sum()) for end in (ends[0], ends[2]))
    draws = min(one.draws for one in parts)
    return Interval(float(value), float(value - below), float(value + above), parts[0].level, draws)


def _mean_interval(value_Q: Floats, draws: int, seed: int, level: float, worst: float) -> Interval:
    value_Q = value_Q[~np.isnan(value_Q)]
    if not len(value_Q):
        raise ValueError("a mean by query needs a query that has a value")
    random = np.random.default_rng(seed)
    step = max(1, CHUNK // len(value_Q))
    sizes = (
        [min(step, draws - start) for start in range(0, draws, step)] if len(value_Q) > 1 else []
    )
    drawn = [
        value_Q[random.integers(len(value_Q), size=(size, len(value_Q)))].mean(axis=1)
        for size in sizes
    ]
    return percentiles(float(value_Q.mean()), drawn, level, worst)


class Ranked(NamedTuple):
    """Scores, sorted: all that a weighted AUC needs of them."""

    queries: int
    relevant_P: NDArray[np.int64]  # query of each relevant row
    irrelevant_I: NDArray[np.int64]  # query of each irrelevant row, by rising score
    below_P: NDArray[np.int64]  # irrelevant rows that score below each relevant row
    through_P: NDArray[np.int64]  # and those that score the same or below

    def auc(self, counts_NQ: ArrayLike) -> Floats:
        """Return (N,) the AUC with each query's rows counted so often; NaN where a class has no
        weight.
        """
        weights_NQ = np.asarray(counts_NQ, dtype=np.float64)
        lost_NI = np.zeros((len(weights_NQ), len(self.irrelevant_I) + 1))
        np.cumsum(weights_NQ[:, self.irrelevant_I], axis=1, out=lost_NI[:, 1:])
        relevant_NP = weights_NQ[:, self.relevant_P]
        won_N = np.einsum("np,np->n", relevant_NP, lost_NI[:, self.below_P])
        won_or_tied_N = np.einsum("np,np->n", relevant_NP, lost_NI[:, self.through_P])
        total_N = relevant_NP.sum(1) * lost_NI[:, -1]
        with np.errstate(invalid="ignore"):
            auc_N: Floats = (won_N + won_or_tied_N) / 2 / total_N
        return auc_N


def rank(scores: ArrayLike, relevant: ArrayLike, query: ArrayLike) -> Ranked:
    """Sort once, draw often."""
    scores_M, relevant_M = checked(scores, relevant)
    group_M = groups(query)
    irrelevant = np.flatnonzero(~relevant_M)
    irrelevant = irrelevant[np.argsort(scores_M[irrelevant], kind="stable")]
    # relevant rows by score as well, so that reading the cumulated sums runs through memory
    relevant_rows = np.flatnonzero(relevant_M)
    relevant_rows = relevant_rows[np.argsort(scores_M[relevant_rows], kind="stable")]
    return Ranked(
        queries=int(group_M.max()) + 1,
        relevant_P=group_M[relevant_rows],
        irrelevant_I=group_M[irrelevant],
        below_P=np.searchsorted(scores_M[irrelevant], scores_M[relevant_rows], side="left"),
        through_P=np.searchsorted(scores_M[irrelevant], scores_M[relevant_rows], side="right"),
    )


def _of_queries(ranked: Ranked, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    rows = len(ranked.relevant_P) + len(ranked.irrelevant_I)
    return resamples(ranked.queries, rows, draws, seed)


def resamples(queries: int, rows: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Return chunks of (N, Q): how often each query is drawn; ``rows`` are those of all queries.

    Drawn one by one, so the numbers depend on seed and Q alone and not on how many draws fit a
    chunk.
    """
    if queries < 2:
        return
    random = np.random.default_rng(seed)
    step = max(1, CHUNK // rows)
    for start in range(0, draws, step):
        count = min(step, draws - start)
        picks = [random.integers(queries, size=queries) for _ in range(count)]
        yield np.stack([np.bincount(pick, minlength=queries) for pick in picks])


def percentiles(value: float, drawn: list[Floats], level: float, worst: float) -> Interval:
    """Return ``value`` with the interval of its resamples; without any, from ``worst`` to 1."""
    usable = np.concatenate(drawn) if drawn else np.empty(0)
    usable = usable[~np.isnan(usable)]
    if not len(usable):
        return Interval(value, low=worst, high=1.0, level=level)
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, len(usable))
