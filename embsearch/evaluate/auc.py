"""The share of better titles that score above worse ones: over all rows, and within each query.

Shapes: M rows, Q queries. ``query_M`` may hold any integers, in any order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Vectors = NDArray[np.floating]


def roc_auc(scores: ArrayLike, relevant: ArrayLike) -> float:
    """Return share of all (relevant, irrelevant) pairs of rows where the relevant one scores
    higher.

    A tie counts half: scikit-learn's ``roc_auc_score``, the area under the ROC curve. Pairs of
    different queries count too, so it also asks whether scores mean the same across queries. O(M
    log M). Raises ValueError on NaN, or when one class is missing.
    """
    scores_M, relevant_M = checked(scores, relevant)
    pairs = count_pairs(scores_M, relevant_M, np.zeros(len(scores_M), dtype=np.int64))
    if not pairs.total.sum():
        raise ValueError(
            f"AUC needs relevant and irrelevant rows, and {relevant_M.sum()} of {len(relevant_M)} are relevant"
        )
    return float((pairs.won[0] + pairs.tied[0] / 2) / pairs.total[0])


def query_auc(scores: ArrayLike, relevant: ArrayLike, query: ArrayLike) -> float:
    """Mean of the AUC within each query, every query alike, a tie counts half.

    Queries whose rows are all relevant or all irrelevant are left out; ValueError if all are.
    """
    pairs = _of_queries(scores, relevant, query)
    return float(np.mean((pairs.won + pairs.tied / 2) / pairs.total))


def triplet_accuracy(scores: ArrayLike, relevant: ArrayLike, query: ArrayLike) -> float:
    """Return share of the (relevant, irrelevant) pairs of one query where the relevant one scores
    strictly higher: a tie is wrong, so a model that gives every text one vector gets 0.

    Every pair counts alike, so queries with more rows count more (``query_auc`` is the other way).
    """
    pairs = _of_queries(scores, relevant, query)
    return float(pairs.won.sum() / pairs.total.sum())


class Pairs(NamedTuple):
    """(relevant, irrelevant) pairs of each query: all, those the relevant row wins, and ties."""

    won: NDArray[np.int64]  # (Q,)
    tied: NDArray[np.int64]
    total: NDArray[np.int64]


def count_pairs(
    scores_M: Floats, relevant_M: NDArray[np.bool_], group_M: NDArray[np.int64]
) -> Pairs:
    """Return pairs of each group; groups are 0..Q-1.

    Rows are sorted by group and score. A relevant row then beats the irrelevant ones between its
    group's start and its block of equal scores, and ties with those inside the block.
    """
    order = np.lexsort((scores_M, group_M))
    scores_M, relevant_M, group_M = scores_M[order], relevant_M[order], group_M[order]
    new_group = np.diff(group_M, prepend=-1) != 0
    new_block = new_group | np.r_[True, scores_M[1:] != scores_M[:-1]][: len(scores_M)]
    before = np.r_[0, np.cumsum(~relevant_M)]  # irrelevant rows before each position
    block = np.flatnonzero(new_block)
    of_block = np.cumsum(new_block) - 1
    at_start = before[block][of_block]
    at_end = before[np.r_[block[1:], len(scores_M)]][of_block]
    at_group = before[np.flatnonzero(new_group)][np.cumsum(new_group) - 1]

    def total(values: np.ndarray) -> NDArray[np.int64]:
        # bincount adds in float64: exact up to 2^53 pairs
        return np.bincount(group_M, weights=values).astype(np.int64)

    positives, negatives = total(relevant_M), total(~relevant_M)
    return Pairs(
        won=total((at_start - at_group) * relevant_M),
        tied=total((at_end - at_start) * relevant_M),
        total=positives * negatives,
    )


def checked(scores: ArrayLike, relevant: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Return both as arrays of one length. Raises ValueError on NaN, which no order can place."""
    scores_M = np.asarray(scores, dtype=np.float64)
    relevant_M = np.asarray(relevant).astype(bool)
    if scores_M.ndim != 1 or scores_M.shape != relevant_M.shape:
        raise ValueError(
            f"scores and relevant are one column of equal length, not {scores_M.shape} and {relevant_M.shape}"
        )
    if missing := int(np.isnan(scores_M).sum()):
        raise ValueError(
            f"{missing} of {len(scores_M)} scores are NaN: the model's vectors are not finite"
        )
    return scores_M, relevant_M


def groups(query: ArrayLike) -> NDArray[np.int64]:
    """Return (M,) queries numbered 0..Q-1."""
    return np.unique(np.asarray(query), return_inverse=True)[1].astype(np.int64)


def _of_queries(scores: ArrayLike, relevant: ArrayLike, query: ArrayLike) -> Pairs:
    pairs = count_pairs(*checked(scores, relevant), groups(query))
    both = pairs.total > 0
    if not both.any():
        raise ValueError(
            "a score within queries needs a query with a relevant and an irrelevant row; "
            f"none of {len(both)} has both"
        )
    return Pairs(*(column[both] for column in pairs))
