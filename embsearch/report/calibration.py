"""The meaning of a cosine: how scores of relevant and irrelevant rows lie, and where to cut between
them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Cut(NamedTuple):
    """Rows that score at least ``threshold`` are taken for relevant: with this precision, recall
    and F1.
    """

    threshold: float
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        return 2 * self.precision * self.recall / max(self.precision + self.recall, 1e-12)


def quantiles(
    scores_M: NDArray[np.float32], relevant_M: NDArray[np.bool_]
) -> dict[str, list[float]]:
    """Return quantiles of the relevant and of the irrelevant rows; of a class without rows nothing."""
    parts = {"relevant": scores_M[relevant_M], "irrelevant": scores_M[~relevant_M]}
    return {
        name: np.quantile(part, QUANTILES).tolist() for name, part in parts.items() if len(part)
    }


def best_cut(scores_M: NDArray[np.float32], relevant_M: NDArray[np.bool_]) -> Cut:
    """Return the threshold with the highest F1, in two decimals: a third one would be the sample's.

    There must be a relevant row.
    """
    return max(
        (cut_at(t, scores_M, relevant_M) for t in np.arange(-100, 101) / 100),
        key=lambda cut: cut.f1,
    )


def cut_at(threshold: float, scores_M: NDArray[np.float32], relevant_M: NDArray[np.bool_]) -> Cut:
    """Return how well a threshold does. Precision is 1 where nothing is taken."""
    taken_M = scores_M >= threshold
    right = int(np.count_nonzero(taken_M & relevant_M))
    taken, relevant = int(np.count_nonzero(taken_M)), int(np.count_nonzero(relevant_M))
    return Cut(float(threshold), right / taken if taken else 1.0, right / max(relevant, 1))
