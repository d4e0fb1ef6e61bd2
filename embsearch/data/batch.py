"""Rows to batches: which rows a step sees, each distinct text once, known positives marked.

The order is a function of (seed, epoch), so a position in it is one number and a resumed
trial draws what the uninterrupted one would have drawn.
Shapes: B rows, D distinct texts, C distinct titles of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from embsearch.data.dataset import Ids, TaskData, Triplets


def onto(device: torch.device, tensor: Tensor) -> Tensor:
    """Return ``tensor`` on ``device``.

    A GPU copies from pinned memory, so the host does not wait for it.
    """
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else tensor.to(device)
    )


@dataclass(frozen=True)
class Batch:
    """One step's rows. ``anchor_B`` and the like index ``text_D``; ``negative_B`` is -1 where none.

    ``score_B``, ``grade_B2`` and ``teacher_B2`` are as of ``Triplets``: empty where rows have none.

    ``known_BC[b, c]``: title c of ``title_C`` is a positive of row b's query somewhere in the
    data (its own positive included), so it must not serve as its negative.
    """

    text_D: Ids
    anchor_B: Tensor
    positive_B: Tensor
    negative_B: Tensor
    weight_B: Tensor
    title_C: Tensor
    known_BC: Tensor
    score_B: Tensor = field(default_factory=lambda: torch.empty(0))
    grade_B2: Tensor = field(default_factory=lambda: torch.empty(0, 2))
    teacher_B2: Tensor = field(default_factory=lambda: torch.empty(0, 2))
    of: str = ""  # the set that its rows are of, where there are several

    def to(self, device: torch.device) -> Batch:
        """Return the same batch with its tensors on ``device``."""
        if device.type == "cpu":
            return self
        moved: dict[str, Any] = {
            name: onto(device, value)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    @property
    def texts_seen(self) -> int:
        """Texts this batch spends of the budget: two a row, three with a negative."""
        return 2 * len(self.anchor_B) + int((self.negative_B >= 0).sum())


class ClickGraph:
    """The titles that are positives of each query, by text id, as sorted keys."""

    def __init__(self, dataset: TaskData) -> None:
        self._size = max(len(dataset.texts), 1)
        self._keys = np.unique(self._key(dataset.known[:, 0], dataset.known[:, 1]))

    def _key(self, query: Ids, title: Ids) -> np.ndarray:
        return query.astype(np.int64) * self._size + title

    def known(self, query_B: Ids, title_C: Ids) -> np.ndarray:
        """Return (B, C) bool: title c is a positive of query b."""
        if not len(self._keys):
            return np.zeros((len(query_B), len(title_C)), dtype=bool)
        keys = self._key(query_B[:, None], title_C[None, :])
        at = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        found: np.ndarray = self._keys[at] == keys
        return found


class Known(Protocol):
    """Knows which texts are positives of which."""

    def known(self, query_B: Ids, title_C: Ids) -> np.ndarray:
        """Return (B, C) bool: title c is a positive of query b."""


def make_batch(rows: Triplets, take: np.ndarray, graph: Known) -> Batch:
    """Return the batch of the rows numbered ``take``."""
    columns = np.stack([rows.anchor[take], rows.positive[take], rows.negative[take]])
    text_D = np.unique(columns[columns >= 0])
    title_ids = np.unique(columns[1:][columns[1:] >= 0])
    local = np.searchsorted(text_D, columns)
    local[columns < 0] = -1

    def taken(column: np.ndarray) -> Tensor:
        return torch.from_numpy(column[take] if len(column) else column)

    return Batch(
        text_D=text_D,
        anchor_B=torch.from_numpy(local[0]),
        positive_B=torch.from_numpy(local[1]),
        negative_B=torch.from_numpy(local[2]),
        weight_B=torch.from_numpy(rows.weight[take]),
        title_C=torch.from_numpy(np.searchsorted(text_D, title_ids)),
        known_BC=torch.from_numpy(graph.known(columns[0], title_ids)),
        score_B=taken(rows.score),
        grade_B2=taken(rows.grade),
        teacher_B2=taken(rows.teacher),
    )


def side_by_side(group_N: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Return an order of N rows in which those of a group lie together, ``most`` at a time."""
    by_group = np.argsort(group_N, kind="stable")
    starts = np.flatnonzero(np.diff(group_N[by_group], prepend=-1))
    place = np.arange(len(group_N)) - np.repeat(starts, np.diff(np.append(starts, len(group_N))))
    chunk = np.cumsum((place % most) == 0) - 1
    drawn = random.permutation(int(chunk[-1]) + 1)
    return by_group[np.argsort(drawn[chunk], kind="stable")]


def batches(
    rows: Triplets, graph: ClickGraph, size: int, seed: int, start: int = 0, lists: int = 0
) -> Iterator[Batch]:
    """Yield batches without end from batch number ``start``: shuffled epochs, every row once in
    each.

    The last batch of an epoch is short when ``size`` does not divide the rows. ``lists``: so
    many rows of a query lie side by side, so that a batch has several titles of it.
    """
    per_epoch = -(-len(rows) // size)
    number = start
    while True:
        epoch, first = divmod(number, per_epoch)
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(rows))
        if lists:
            order = order[side_by_side(rows.anchor[order], lists, random)]
        for at in range(first, per_epoch):
            yield make_batch(rows, order[at * size : (at + 1) * size], graph)
        number = (epoch + 1) * per_epoch


def triplet_batches(
    data: TaskData, size: int, seed: int, start: int = 0, lists: int = 0
) -> Iterator[Batch]:
    """Return ``batches`` of the training triplets of ``data``."""
    return batches(data.train, ClickGraph(data), size, seed, start, lists)
