"""Titles with their vectors in a folder, and the nearest of them by cosine.

Exact, in NumPy: 100,000 titles of 384 dimensions take what docs/guide/serving.md says, and what is
found is what the model thinks. The folder knows which model made it: vectors of another one
would be compared without a word and mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embsearch import __version__, checksums, disk
from embsearch.codec import Json
from embsearch.errors import DataError
from embsearch.model.pretrained import put

ABOUT, TITLES, VECTORS, CLASSES = "index.json", "titles.json", "vectors.npy", "classes.json"
MOST = 2**26  # scores in memory at once


@dataclass(frozen=True)
class Index:
    """``about`` names the model: ``model`` as people call it, ``digest`` over its files.

    ``classes`` has the class of each title, or is empty.
    """

    titles: Sequence[str]
    vectors: np.ndarray  # (T, E) float32, of length 1
    about: Json
    classes: Sequence[str] = ()

    def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (Q, k) cosines, the highest first, and the numbers of their titles; of equals the
        earlier title first.
        """
        k = min(k, len(self.titles))
        step = max(1, MOST // len(self.titles))
        found = [
            _top(unit_rows(queries[at : at + step]) @ self.vectors.T, k)
            for at in range(0, len(queries), step)
        ]
        return np.concatenate([scores for scores, _ in found]), np.concatenate(
            [ids for _, ids in found]
        )

    def save(self, folder: Path) -> None:
        """Write it whole or not at all; an index that was there is replaced."""
        with disk.draft_of(folder) as draft:
            np.save(draft / VECTORS, self.vectors)
            for name, texts in ((TITLES, self.titles), (CLASSES, self.classes)):
                text = json.dumps(texts, ensure_ascii=False)
                (draft / name).write_text(text, encoding="utf-8")
            about = {
                **self.about,
                "titles": len(self.titles),
                "width": self.vectors.shape[1],
                "embsearch": __version__,
            }
            (draft / ABOUT).write_text(
                json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
            )
            checksums.write(draft)
            put(draft, folder)

    @staticmethod
    def load(folder: Path) -> Index:
        """Return what ``save`` wrote. Raises DataError."""
        older = not (folder / checksums.FILE).exists()  # than these
        if not older and (fault := checksums.damage(folder)):
            raise DataError(f"index={folder}: {fault}; build it again with 'embsearch index'")
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            titles = json.loads((folder / TITLES).read_text(encoding="utf-8"))
            file = folder / CLASSES  # older indexes have none
            classes = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
            vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
            whole = (
                vectors.shape == (len(titles), about["width"])
                and len(titles) == about["titles"]
                and len(classes) in (0, len(titles))
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"index={folder}: no index here ({error}); expected what 'embsearch index output={folder}' wrote"
            ) from error
        if not whole:
            raise DataError(
                f"index={folder}: titles and vectors do not fit together; build it again"
            )
        return Index(titles, vectors, about, classes)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    found: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return found


def _top(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k highest of each row. Equal ones are decided by their number, also at the cut."""
    lowest = np.partition(scores, -k, axis=1)[:, -k]
    values, ids = np.empty((len(scores), k), scores.dtype), np.empty((len(scores), k), np.int64)
    for row, (line, least) in enumerate(zip(scores, lowest, strict=True)):
        near = np.flatnonzero(line >= least)
        ids[row] = near[np.argsort(-line[near], kind="stable")[:k]]
        values[row] = line[ids[row]]
    return values, ids
