"""Nearest class: the class whose centre has the highest cosine with a text.

A centre is the mean of its texts' vectors of length 1. Shapes: M rows, R texts of centres,
C classes, E dimensions, N draws at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embsearch.data.dataset import Ids
from embsearch.evaluate.auc import Floats, Vectors
from embsearch.evaluate.bootstrap import percentiles, resamples
from embsearch.evaluate.ranking import CHUNK
from embsearch.evaluate.score import unit_vectors
from embsearch.values import Interval


def nearest(
    vectors_ME: Vectors,
    label_M: Ids,
    vectors_RE: Vectors,
    label_R: Ids,
    classes: int,
) -> tuple[Ids, NDArray[np.float32]]:
    """Return (M,) the nearest class of each row, and the share of other classes that are further
    away than its own: a tie counts half.
    """
    centres_CE = np.zeros((classes, vectors_RE.shape[1]), dtype=np.float32)
    np.add.at(centres_CE, label_R, unit_vectors(vectors_RE))
    centres_CE = unit_vectors(centres_CE)
    unit_ME = unit_vectors(vectors_ME)
    nearest_M = np.empty(len(label_M), dtype=np.int32)
    auc_M = np.empty(len(label_M), dtype=np.float32)
    step = max(1, CHUNK // classes)
    for start in range(0, len(label_M), step):
        here = slice(start, start + step)
        cosine_BC = unit_ME[here] @ centres_CE.T
        if np.isnan(cosine_BC).any():
            raise ValueError("cosines are NaN: the model's vectors are not finite")
        own_B1 = np.take_along_axis(cosine_BC, label_M[here][:, None].astype(np.int64), axis=1)
        below_B = (cosine_BC < own_B1).sum(1)
        tied_B = (cosine_BC == own_B1).sum(1) - 1
        nearest_M[here] = cosine_BC.argmax(1)
        auc_M[here] = (below_B + tied_B / 2) / max(classes - 1, 1)
    return nearest_M, auc_M


class Confusion:
    """The class of each row, and the one that a model gives it."""

    def __init__(
        self,
        label_M: Ids,
        guess_M: Ids,
        classes: int,
    ) -> None:
        self.label_MC = np.eye(classes, dtype=np.float32)[label_M]
        self.guess_MC = np.eye(classes, dtype=np.float32)[guess_M]

    def macro_f1(self, weights_NM: Floats) -> Floats:
        """Return (N,) the mean F1 of the classes that rows have or are given, by their weights."""
        right_NC = weights_NM @ (self.label_MC * self.guess_MC)
        either_NC = weights_NM @ (self.label_MC + self.guess_MC)
        f1_NC = 2 * right_NC / np.where(either_NC > 0, either_NC, 1)
        found_N: Floats = f1_NC.sum(1) / (either_NC > 0).sum(1)
        return found_N


def macro_f1(label_M: Ids, guess_M: Ids, classes: int) -> float:
    """Return the mean F1 of the classes, scikit-learn's ``f1_score`` with ``average="macro"``."""
    confusion = Confusion(label_M, guess_M, classes)
    return float(confusion.macro_f1(np.ones((1, len(label_M))))[0])


def macro_f1_gain(
    label_M: Ids,
    mine_M: Ids,
    theirs_M: Ids,
    classes: int,
    draws: int,
    seed: int,
) -> Interval:
    """Return how much more macro-F1 one model has than another, paired."""
    mine, theirs = (Confusion(label_M, guess_M, classes) for guess_M in (mine_M, theirs_M))
    every = np.ones((1, len(label_M)))
    value = float(mine.macro_f1(every)[0] - theirs.macro_f1(every)[0])
    drawn = []
    for counts_NM in resamples(
        len(label_M),
        len(label_M),
        draws,
        seed,
    ):
        weights_NM = counts_NM.astype(np.float64)
        drawn.append(mine.macro_f1(weights_NM) - theirs.macro_f1(weights_NM))
    return percentiles(
        value,
        drawn,
        0.95,
        worst=-1.0,
    )
