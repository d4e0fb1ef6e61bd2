"""The data of several sets as one: items numbered set after set, and whose turn a batch is.

Equal texts of two sets are two items, because a set may have prompts of its own. Rows keep the
numbers of their set. No torch here: the coordinator reads this too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embsearch.codec import JsonObject
from embsearch.data.dataset import Ids, Rows, TaskData, Triplets, queries_of

GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, lie evenly on any stretch of them


@dataclass(frozen=True)
class SeveralRows:
    """Rows of several sets; ``first`` is the id of each set's first text among all."""

    sets: Mapping[str, Rows]
    first: Mapping[str, int]

    def __len__(self) -> int:
        return sum(map(len, self.sets.values()))

    @property
    def places(self) -> Iterator[tuple[str, slice]]:
        """Yield each set that has rows, and where these stand among all."""
        begin = 0
        for name, rows in self.sets.items():
            if len(rows):
                yield name, slice(begin, begin + len(rows))
            begin += len(rows)


@dataclass(frozen=True)
class SeveralData:
    """The data of several sets, by name."""

    sets: Mapping[str, TaskData]

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The items by id."""
        return tuple(text for data in self.sets.values() for text in data.texts)

    @cached_property
    def first(self) -> dict[str, int]:
        """The id of each set's first text."""
        counts = [len(data.texts) for data in self.sets.values()]
        return dict(zip(self.sets, np.cumsum([0, *counts]).tolist(), strict=False))

    @cached_property
    def train(self) -> Triplets:
        """The training rows of all sets; the scores of a set stay with the set."""
        every = [(data.train, self.first[name]) for name, data in self.sets.items()]
        ids = [
            [np.where(column >= 0, column + first, -1) for column in columns_of(rows)]
            for rows, first in every
        ]
        anchor, positive, negative = (
            np.concatenate(column).astype(np.int32) for column in zip(*ids, strict=True)
        )
        return Triplets(anchor, positive, negative, np.concatenate([r.weight for r, _ in every]))

    @cached_property
    def known(self) -> Ids:
        """(K, 2) the positives of every set, by id."""
        every = [data.known + self.first[name] for name, data in self.sets.items()]
        return np.concatenate(every).astype(np.int32)

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 over the names and the rows of the sets."""
        words = json.dumps([[name, data.fingerprint] for name, data in self.sets.items()])
        return hashlib.sha256(words.encode()).hexdigest()

    @property
    def report(self) -> JsonObject:
        """The findings of reading the files of each set."""
        every = {name: dict(data.report) for name, data in self.sets.items()}
        return {"sets": every, "files": [file for one in every.values() for file in one["files"]]}

    @property
    def roles(self) -> tuple[Sequence[str], NDArray[np.intp]]:
        """As ``roles_of``: the queries and documents of each set have a role of their own."""
        names = [f"{name}_{role}" for name in self.sets for role in ("query", "document")]
        place = [
            np.where(queries_of(data), 2 * number, 2 * number + 1)
            for number, data in enumerate(self.sets.values())
        ]
        return names, np.concatenate(place)

    @property
    def valid(self) -> SeveralRows:
        """The validation rows."""
        return self.rows("valid")

    @property
    def test(self) -> SeveralRows:
        """The test rows."""
        return self.rows("test")

    def rows(self, split: str) -> SeveralRows:
        """Return the rows of a split."""
        return SeveralRows({n: getattr(data, split) for n, data in self.sets.items()}, self.first)


def columns_of(rows: Triplets) -> tuple[Ids, Ids, Ids]:
    """Return the text ids of training rows."""
    return rows.anchor, rows.positive, rows.negative


def turns(shares: Sequence[float], seed: int, numbers: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the set, by place, whose turn each batch number is.

    A function of the number alone. Of any stretch of numbers each set has its share, to within a
    few batches, and no set waits long.
    """
    drawn = (np.random.default_rng(seed).random() + numbers * GOLDEN) % 1
    ends = np.cumsum(shares) / np.sum(shares)
    return np.searchsorted(ends[:-1], drawn, side="right")
