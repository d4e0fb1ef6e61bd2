"""Metrics of a threshold on the cosine: which rows are taken for relevant, whatever their query.

Shapes: M rows, K distinct scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from embsearch.evaluate.auc import Floats, checked


def average_precision(scores: ArrayLike, relevant: ArrayLike) -> float:
    """Return the mean precision at the thresholds that take in each relevant row: the area under
    the precision-recall curve in steps, scikit-learn's ``average_precision_score``.

    Raises ValueError on NaN, or without a relevant row.
    """
    right_K, taken_K = _at_thresholds(scores, relevant)
    gained_K = np.diff(right_K, prepend=0) / right_K[-1]
    return float((gained_K * right_K / taken_K).sum())


def best_f1(scores: ArrayLike, relevant: ArrayLike) -> float:
    """Return the highest F1 that a threshold reaches on these very rows."""
    right_K, taken_K = _at_thresholds(scores, relevant)
    return float((2 * right_K / (taken_K + right_K[-1])).max())


def _at_thresholds(scores: ArrayLike, relevant: ArrayLike) -> tuple[Floats, Floats]:
    """Return (K,) how many relevant rows, and how many rows, score at least each distinct score."""
    scores_M, relevant_M = checked(scores, relevant)
    if not relevant_M.any():
        raise ValueError("precision and recall need a relevant row")
    order = np.argsort(-scores_M, kind="stable")
    falling_M = scores_M[order]
    last_K = np.flatnonzero(np.diff(falling_M, append=np.nan) != 0)
    right_K: Floats = np.cumsum(relevant_M[order])[last_K].astype(np.float64)
    return right_K, (last_K + 1).astype(np.float64)
