"""One model's answers for every judged row, kept so that two models can be laid side by side
without either.

Shapes: M rows, Q queries, P pool titles, T texts, S texts of the sample, E dimensions.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from embsearch import disk
from embsearch.data.dataset import Ids, JudgedRows
from embsearch.evaluate.auc import Vectors
from embsearch.evaluate.ranking import CHUNK
from embsearch.evaluate.score import unit_vectors

TOP = 5  # titles kept of every query
SAMPLE = 200  # texts whose vectors are kept


@dataclass(frozen=True)
class Examined:
    """One model on the rows of one split. Titles and the sample are text ids."""

    similarity: NDArray[np.float32]  # (M,) cosine of each row's query and title
    top: Ids  # (Q, 5) the first titles of all that the rows name, best first; -1 where there are fewer
    place: NDArray[
        np.int32
    ]  # (Q,) of the first relevant title among them all, from 1; 0: the query has none
    sample: Ids  # (S,) some queries and the titles shown for them
    vectors: NDArray[np.float16]  # (S, E) of the sample, of length 1
    # (M,) place of each row's title in the pool, where a metric of the pool judged
    pool: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def answers(self) -> NDArray[np.float32]:
        """The answers of the task that made this."""
        return np.stack([self.similarity, self.pool], axis=1) if len(self.pool) else self.similarity

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        disk.make_folder(path.parent)
        with disk.whole(path) as draft, draft.open("wb") as file:
            np.savez_compressed(file, **asdict(self))

    @staticmethod
    def of_answers(answers_M: NDArray[np.float32]) -> Examined:
        """Return what is kept where a model has an answer for each row and nothing else."""
        no_ids = np.empty(0, dtype=np.int32)
        return Examined(
            answers_M.astype(np.float32),
            top=no_ids.reshape(0, TOP),
            place=no_ids,
            sample=no_ids,
            vectors=np.empty((0, 0), dtype=np.float16),
        )

    @staticmethod
    def load(path: Path) -> Examined:
        """Return what ``save`` wrote.

        Raises OSError or ValueError where it is missing or damaged.
        """
        try:
            with np.load(path) as arrays:
                names = [name for name in Examined.__dataclass_fields__ if name != "pool"]
                known = {name: arrays[name] for name in names}
                return Examined(**known, **({"pool": arrays["pool"]} if "pool" in arrays else {}))
        except (KeyError, EOFError, BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: damaged: {error}") from error


def examine(
    rows: JudgedRows, ids_T: Ids, vectors_TE: Vectors, similarity_M: NDArray[np.float32]
) -> Examined:
    """Return what is kept of a model.

    ``ids_T`` rises and holds every text of the rows; ``vectors_TE[i]`` is the vector of text
    ``ids_T[i]``.
    """
    unit_TE = unit_vectors(vectors_TE)
    pool_P = np.unique(rows.title)
    titles_PE = unit_TE[np.searchsorted(ids_T, pool_P)]
    asks_Q = np.unique(rows.query, return_index=True)[
        1
    ]  # where a query is spelt in several ways, by its first
    queries_QE = unit_TE[np.searchsorted(ids_T, rows.text[asks_Q])]
    top_QK = np.full((len(asks_Q), TOP), -1, dtype=np.int32)
    place_Q = np.zeros(len(asks_Q), dtype=np.int32)
    step = max(1, CHUNK // max(len(pool_P), 1))
    for start in range(0, len(asks_Q), step):
        scores_QP = queries_QE[start : start + step] @ titles_PE.T
        top_QK[start : start + step, : len(pool_P)] = pool_P[
            _first(scores_QP, min(TOP, len(pool_P)))
        ]
        here = rows.relevant & (rows.query >= start) & (rows.query < start + step)
        query_R, title_R = rows.query[here] - start, np.searchsorted(pool_P, rows.title[here])
        own_Q = np.full(len(scores_QP), -np.inf, dtype=np.float32)
        np.maximum.at(own_Q, query_R, scores_QP[query_R, title_R])
        some = np.isfinite(own_Q)
        scores_QP[query_R, title_R] = -np.inf
        above_Q = np.count_nonzero(
            scores_QP >= own_Q[:, None], axis=1
        )  # of equal ones the irrelevant first
        place_Q[start : start + step] = np.where(some, above_Q + 1, 0)
    sample = sampled(rows)
    at = np.searchsorted(ids_T, sample)
    return Examined(
        similarity_M.astype(np.float32), top_QK, place_Q, sample, unit_TE[at].astype(np.float16)
    )


def _first(scores_QP: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return (Q, count) the columns of each row's highest values, the highest first."""
    some = np.sort(np.argpartition(-scores_QP, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(scores_QP, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def sampled(rows: JudgedRows, most: int = SAMPLE) -> Ids:
    """Return at most ``most`` texts, or one query's: queries that have a relevant title, spread
    evenly, and the titles shown for them. The same whatever the model.
    """
    asking = np.unique(rows.query[rows.relevant])
    count = min(most, len(asking))
    while True:
        kept = np.isin(rows.query, asking[np.linspace(0, len(asking) - 1, count).astype(int)])
        texts = np.unique(np.concatenate([rows.text[kept], rows.title[kept]])).astype(np.int32)
        if len(texts) <= most or count == 1:
            return texts
        count = max(1, min(count - 1, count * most // len(texts)))
