"""A study's data as arrays over distinct texts: made once, saved, shared by every trial.

Texts are known by id from here on. No torch here: the coordinator reads this too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from embsearch import checksums, disk
from embsearch.codec import Json, JsonObject
from embsearch.errors import DataError

Ids = NDArray[np.int32]


def _no_twos() -> NDArray[np.float32]:
    return np.empty((0, 2), np.float32)


@dataclass(frozen=True)
class Triplets:
    """Training rows, one a row: text ids of the query, a better and a worse title.

    ``negative`` is -1 where a row has none. ``weight`` is 1 unless the data say otherwise.
    ``score`` says of scored pairs how alike query and positive are, from 0 to 1; else it is empty.
    ``grade`` and ``teacher`` are of the positive and the negative: what they were judged, and a
    teacher's scores, NaN where a row has none. Empty where no row has any.
    """

    anchor: Ids  # (N,)
    positive: Ids  # (N,)
    negative: Ids  # (N,)
    weight: NDArray[np.float32]  # (N,)
    score: NDArray[np.float32] = field(
        default_factory=lambda: np.empty(0, np.float32)
    )  # (N,), (0,)
    grade: NDArray[np.float32] = field(default_factory=_no_twos)  # (N, 2), (0, 2)
    teacher: NDArray[np.float32] = field(default_factory=_no_twos)  # (N, 2), (0, 2)

    def __len__(self) -> int:
        return len(self.anchor)

    def where(self, kept_N: NDArray[np.bool_]) -> Triplets:
        """Return the rows where ``kept_N`` is true."""
        columns = {name: column[kept_N] for name, column in vars(self).items() if len(column)}
        return replace(self, **columns)


@dataclass(frozen=True)
class JudgedRows:
    """Evaluation rows: every (query, shown title) once, with its grade.

    ``query`` numbers the queries of this split from 0 (equal ignoring case and blanks: one
    query); rows of one query stand together. ``relevant`` is grade >= data.positive_grade.
    ``segment`` indexes ``segments``, -1 where the row has none.
    """

    query: Ids  # (M,)
    text: Ids  # (M,) text id of the query
    title: Ids  # (M,) text id of the title
    grade: NDArray[np.float32]  # (M,)
    relevant: NDArray[np.bool_]  # (M,)
    segment: Ids  # (M,)
    segments: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.query)

    def where(self, kept_M: NDArray[np.bool_]) -> JudgedRows:
        """Return the rows where ``kept_M`` is true; queries keep their numbers."""
        return replace(self, **{name: getattr(self, name)[kept_M] for name in JUDGED_COLUMNS})


class Rows(Protocol):
    """Rows of a split that models are judged by."""

    def __len__(self) -> int:
        """Return the number of rows."""


class TaskData(Protocol):
    """The part of a study's data that every task has: items by id, and triplets of them to train
    on.
    """

    @property
    def texts(self) -> tuple[str, ...]:
        """The items by id."""

    @property
    def train(self) -> Triplets:
        """The training rows."""

    @property
    def known(self) -> Ids:
        """(K, 2) every (query, title) that is a positive anywhere in the data, by id."""

    @property
    def fingerprint(self) -> str:
        """A sha256 over the rows."""

    @property
    def report(self) -> Json:
        """The findings of reading the files."""


DataT = TypeVar("DataT", bound=TaskData)


@dataclass(frozen=True)
class Dataset:
    """Everything a study trains on and is judged by.

    ``known`` holds every (query text id, title text id) that is a positive anywhere in the
    data, sorted by row: the click graph that masks in-batch negatives. ``fingerprint`` is a
    sha256 over the rows, so equal data have equal fingerprints wherever the files lie.
    ``report`` is what reading found (rows, dropped, overlap of splits, ...), plain JSON.
    """

    texts: tuple[str, ...]
    train: Triplets
    valid: JudgedRows
    test: JudgedRows
    known: Ids  # (K, 2)
    fingerprint: str
    report: JsonObject = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write to ``folder`` whole or not at all; a folder already there is left as it is."""
        arrays = {f"train.{name}": column for name, column in vars(self.train).items()}
        for split in ("valid", "test"):
            rows = getattr(self, split)
            arrays |= {f"{split}.{k}": getattr(rows, k) for k in JUDGED_COLUMNS}
        head = {
            "texts": self.texts,
            "segments": {"valid": self.valid.segments, "test": self.test.segments},
            "fingerprint": self.fingerprint,
            "report": self.report,
        }
        write_arrays(folder, {"known": self.known, **arrays}, head)

    @staticmethod
    def load(folder: Path) -> Dataset:
        """Return the dataset that ``save`` wrote. Raises DataError."""
        head, arrays = read_arrays(folder)
        judged = {
            split: JudgedRows(
                **{k: arrays[f"{split}.{k}"] for k in JUDGED_COLUMNS},
                segments=tuple(head["segments"][split]),
            )
            for split in ("valid", "test")
        }
        trained = (name for name in arrays if name.startswith("train."))
        train = Triplets(**{name.removeprefix("train."): arrays[name] for name in trained})
        data = Dataset(
            texts=tuple(head["texts"]),
            train=train,
            known=arrays["known"],
            fingerprint=head["fingerprint"],
            report=head["report"],
            **judged,
        )
        return data if data.symmetric else data.by_role()

    @property
    def symmetric(self) -> bool:
        """True where both texts of a row have one role, that of a query."""
        return self.report.get("format") == "scored"

    def by_role(self) -> Dataset:
        """Return the same data, where a text has one role: query or title.

        A text of both gets a second id as title, behind all others; other ids stay as they are.
        """
        train, judged = self.train, (self.valid, self.test)
        titles = [train.positive, train.negative[train.negative >= 0], self.known[:, 1]]
        shown = np.unique(np.concatenate([*titles, *(rows.title for rows in judged)]))
        both = shown[queries_of(self)[shown]]
        if not len(both):
            return self
        count = len(self.texts)
        # one more place, so that -1 stays -1
        title_id = np.append(np.arange(count, dtype=np.int32), np.int32(-1))
        title_id[both] = np.arange(count, count + len(both))
        known = np.stack([self.known[:, 0], title_id[self.known[:, 1]]], axis=1)
        return replace(
            self,
            texts=(*self.texts, *(self.texts[i] for i in both)),
            train=replace(
                train, positive=title_id[train.positive], negative=title_id[train.negative]
            ),
            valid=replace(self.valid, title=title_id[self.valid.title]),
            test=replace(self.test, title=title_id[self.test.title]),
            known=np.unique(known, axis=0),
        )


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[np.generic]], head: Json) -> None:
    """Write to ``folder`` whole or not at all; a folder already there is left as it is."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with disk.draft_of(folder) as draft:
        np.savez(draft / "arrays.npz", **arrays)  # type: ignore[arg-type]  # of any type
        (draft / "dataset.json").write_text(json.dumps(head, ensure_ascii=False), encoding="utf-8")
        checksums.put(draft, folder)


def read_arrays(folder: Path) -> tuple[JsonObject, NpzFile]:
    """Return the head and the arrays that ``write_arrays`` wrote.

    Raises DataError where they are not there as they were written.
    """
    if fault := checksums.damage(folder):
        raise DataError(
            f"{folder}: {fault}; the same command makes these data again from their files"
        )
    head = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    return head, np.load(folder / "arrays.npz")


def roles_of(data: TaskData) -> tuple[Sequence[str], NDArray[np.intp]]:
    """Return the roles of texts, and (N,) the place of each text's own among them.

    A role is ``query`` or ``document``, of several sets of data ``products_query`` and the like.
    """
    found: tuple[Sequence[str], NDArray[np.intp]] | None = getattr(data, "roles", None)
    return found or (("query", "document"), np.where(queries_of(data), 0, 1))


def queries_of(data: TaskData) -> NDArray[np.bool_]:
    """Return (N,) true for the texts that are queries; the others are documents."""
    if hasattr(data, "roles"):
        names, role_N = roles_of(data)
        return np.array([name.endswith("query") for name in names])[role_N]
    if getattr(data, "symmetric", False):
        return np.ones(len(data.texts), dtype=bool)
    found = np.zeros(len(data.texts), dtype=bool)
    found[data.train.anchor] = found[data.known[:, 0]] = True
    if isinstance(data, Dataset):
        found[data.valid.text] = found[data.test.text] = True
    return found


def with_negatives(data: DataT) -> DataT:
    """Return the data with the training rows alone that have a negative; all where none has."""
    rows = data.train
    kept_N = rows.negative >= 0
    if kept_N.all() or not kept_N.any():
        return data
    # every task's data are a record
    return replace(data, train=rows.where(kept_N))  # type: ignore[type-var]


JUDGED_COLUMNS = ("query", "text", "title", "grade", "relevant", "segment")


def steps_of(texts: int, rows: Triplets, batch_size: int) -> int:
    """Return the steps that show at least ``texts`` texts; an epoch's last batch may be short."""
    epoch = 2 * len(rows) + int((rows.negative >= 0).sum())
    epochs, left = divmod(texts, epoch)
    batch = epoch * min(batch_size, len(rows)) / len(rows)
    return epochs * math.ceil(len(rows) / batch_size) + math.ceil(left / batch)


def stops_of(steps: int, at: Sequence[float]) -> list[int]:
    """Return the steps after which a trial of ``steps`` is measured, by the shares ``at``."""
    return [max(1, round(steps * share)) for share in at]


def subset(rows: JudgedRows, most: int) -> JudgedRows:
    """Return about ``most`` rows of whole queries, spread evenly; all rows for 0."""
    if not most or len(rows) <= most:
        return rows
    queries = int(rows.query.max()) + 1
    count = max(1, round(queries * most / len(rows)))
    return _of_queries(rows, np.linspace(0, queries - 1, count).astype(int))


def sample(rows: JudgedRows, queries: int) -> JudgedRows:
    """Return the rows of so many queries, always the same; a larger sample holds every smaller one.

    Every segment keeps its share of the queries. Within a segment, so do queries with titles of
    both classes and those of one class.
    """
    shown, relevant = np.bincount(rows.query), np.bincount(rows.query, rows.relevant)
    if queries >= len(shown):
        return rows
    classes = 2 * (relevant > 0) + (relevant < shown)
    stratum = 4 * rows.segment[np.unique(rows.query, return_index=True)[1]] + classes
    draw = np.random.default_rng(0)
    drawn = draw.permutation(len(shown))
    drawn = drawn[np.argsort(stratum[drawn], kind="stable")]
    # a stratum's n queries lie evenly on the way from 0 to 1: on any part of it there are about as many of each n
    sizes = np.unique(stratum, return_counts=True)[1]
    place = np.concatenate([(np.arange(size) + draw.random()) / size for size in sizes])
    return _of_queries(rows, drawn[np.argsort(place, kind="stable")[:queries]])


def _of_queries(rows: JudgedRows, queries: np.ndarray) -> JudgedRows:
    kept = np.isin(rows.query, queries)
    renumbered = np.unique(rows.query[kept], return_inverse=True)[1].astype(np.int32)
    return replace(rows.where(kept), query=renumbered)


def texts_of(rows: JudgedRows) -> Ids:
    """Return the distinct text ids of the rows, rising: the texts that an evaluation encodes."""
    return np.unique(np.concatenate([rows.text, rows.title]))
