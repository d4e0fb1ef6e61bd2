"""Batches of pairs of texts of one class, several pairs of a class together.

In an epoch every training text of a class with two or more is once the first of a pair and once the
second. Pairs are drawn anew in every epoch: the texts of a class are shuffled, and each stands with
the one some places on. TOGETHER pairs of a class lie side by side, so that a batch of 64 pairs has
about 16 classes with 8 texts each. The order is a function of (seed, epoch).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from embsearch.data.batch import Batch, make_batch, side_by_side
from embsearch.data.class_data import ClassData, pairs_of_classes
from embsearch.data.dataset import Ids, Triplets

TOGETHER = 4  # pairs of one class


class SameClass:
    """Texts that belong together by class: known positives of each other."""

    def __init__(self, label_T: Ids) -> None:
        self._label_T = label_T

    def known(self, query_B: Ids, title_C: Ids) -> np.ndarray:
        """Return (B, C) bool: text c is of the class of text b."""
        found: np.ndarray = self._label_T[query_B][:, None] == self._label_T[title_C][None, :]
        return found


def class_batches(
    data: ClassData, size: int, seed: int, start: int = 0, lists: int = 0
) -> Iterator[Batch]:
    """Yield batches of ``size`` pairs without end from batch number ``start``; the last one of an
    epoch may be short.
    """
    same = SameClass(data.label)
    per_epoch = -(-len(data.train) // size)
    number = start
    while True:
        epoch, first = divmod(number, per_epoch)
        rows, order = _epoch(data, np.random.default_rng([seed, epoch]))
        for at in range(first, per_epoch):
            yield make_batch(rows, order[at * size : (at + 1) * size], same)
        number = (epoch + 1) * per_epoch


def _epoch(data: ClassData, random: np.random.Generator) -> tuple[Triplets, np.ndarray]:
    """Return the pairs of an epoch, and their order."""
    shuffled = random.permutation(len(data.train))
    texts_N, weight_N = data.train.anchor[shuffled], data.train.weight[shuffled]
    shift = int(random.integers(1, 1 << 30))
    rows = pairs_of_classes(texts_N, data.label, weight_N, shift)
    return rows, side_by_side(data.label[texts_N], TOGETHER, random)
