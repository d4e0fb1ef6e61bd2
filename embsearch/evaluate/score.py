"""The metrics that a study records, from similarities over judged rows.

Names have no ``@``: MLflow refuses it. A metric that the rows do not define (AUC where every row
is relevant, ranking where no query has a relevant title) is left out rather than invented.
Shapes: M rows, T texts, E dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embsearch.data.dataset import Ids, JudgedRows
from embsearch.evaluate import ranking
from embsearch.evaluate.auc import Floats, Vectors, query_auc, roc_auc, triplet_accuracy
from embsearch.evaluate.ranking import ByQuery, mrr_at_k, ndcg_at_k, pool_ranks, recall_at_k
from embsearch.evaluate.threshold import average_precision, best_f1

METRICS = (
    "auc",
    "average_precision",
    "best_f1",
    "query_auc",
    "triplet_accuracy",
    "mrr_10",
    "ndcg_10",
    "recall_1",
    "recall_10",
)  # that ``score`` can return


def score(judged: JudgedRows, similarity: ArrayLike) -> dict[str, float]:
    """Return METRICS.

    The ranking ones are among the titles shown for a query; queries without a relevant title are
    left out of them. Raises ValueError on NaN.
    """
    scores = _checked(judged, similarity)
    relevant, query = judged.relevant, judged.query
    both = mixed(relevant)
    within = bool(np.isin(query[relevant], query[~relevant]).any())  # a query with both classes
    defined: list[tuple[str, bool, Callable[[], float]]] = [
        ("auc", both, lambda: roc_auc(scores, relevant)),
        ("average_precision", both, lambda: average_precision(scores, relevant)),
        ("best_f1", both, lambda: best_f1(scores, relevant)),
        ("query_auc", within, lambda: query_auc(scores, relevant, query)),
        ("triplet_accuracy", within, lambda: triplet_accuracy(scores, relevant, query)),
        ("mrr_10", bool(relevant.any()), lambda: mrr_at_k(scores, relevant, query, 10)),
        (
            "ndcg_10",
            bool((judged.grade > 0).any()),
            lambda: ndcg_at_k(scores, judged.grade, query, 10),
        ),
        ("recall_1", bool(relevant.any()), lambda: recall_at_k(scores, relevant, query, 1)),
        ("recall_10", bool(relevant.any()), lambda: recall_at_k(scores, relevant, query, 10)),
    ]
    return {name: metric() for name, possible, metric in defined if possible}


def by_segment(judged: JudgedRows, similarity: ArrayLike) -> dict[str, dict[str, float]]:
    """Return of each segment that has rows ``rows``, ``queries``, and ``auc`` where both classes
    exist.
    """
    scores = _checked(judged, similarity)
    found: dict[str, dict[str, float]] = {}
    for number, name in enumerate(judged.segments):
        here = judged.segment == number
        if not here.any():
            continue
        found[name] = {
            "rows": float(here.sum()),
            "queries": float(len(np.unique(judged.query[here]))),
        }
        if mixed(judged.relevant[here]):
            found[name]["auc"] = roc_auc(scores[here], judged.relevant[here])
    return found


def similarity(judged: JudgedRows, ids_T: Ids, vectors_TE: Vectors) -> NDArray[np.float32]:
    """Return (M,) cosine of each row's query and title; ``vectors_TE[i]`` is the vector of text
    ``ids_T[i]``.

    ``ids_T`` rises and holds every text of the rows.
    """
    unit_TE = unit_vectors(vectors_TE)
    text_ME, title_ME = unit_TE[_rows(ids_T, judged.text)], unit_TE[_rows(ids_T, judged.title)]
    cosine_M: NDArray[np.float32] = np.einsum("me,me->m", text_ME, title_ME)
    return cosine_M


def pool_places(
    judged: JudgedRows, ids_T: Ids, vectors_TE: Vectors, pool: Ids | None = None
) -> NDArray[np.int64]:
    """Return (M,) the place, from 1, of each relevant row's title among all of ``pool``; 0 for rows
    that are not relevant.

    ``pool`` holds text ids, every relevant title among them; None: the titles of the rows. Where a
    query is spelt in several ways its first spelling asks.
    """
    place_M = np.zeros(len(judged), dtype=np.int64)
    if not judged.relevant.any():
        return place_M
    pool = np.unique(judged.title if pool is None else pool)
    unit_TE = unit_vectors(vectors_TE)
    first_M = np.unique(judged.query, return_index=True)[1]
    asks = np.flatnonzero(judged.relevant)
    query_R = np.searchsorted(judged.query[first_M], judged.query[asks])
    title_R = _rows(pool, judged.title[asks])
    queries_QE = unit_TE[_rows(ids_T, judged.text[first_M])]
    place_M[asks] = pool_ranks(queries_QE, unit_TE[_rows(ids_T, pool)], query_R, title_R)
    return place_M


def pool_by_query(judged: JudgedRows, place_M: NDArray[np.int64]) -> ByQuery:
    """Return by metric of the pool its values for the queries with a relevant title, from
    ``pool_places``.
    """
    at = judged.relevant
    return ranking.pool_by_query(place_M[at], judged.grade[at], judged.query[at])


def score_pool(judged: JudgedRows, place_M: NDArray[np.int64]) -> dict[str, float]:
    """Return ``pool_ndcg_10``, ``pool_mrr_10``, ``pool_recall_1``, ``pool_recall_10`` from
    ``pool_places``: each query against every title of the pool.

    Empty where no query has a relevant title.
    """
    if not judged.relevant.any():
        return {}
    return {name: float(values.mean()) for name, values in pool_by_query(judged, place_M).items()}


def mixed(relevant: NDArray[np.bool_]) -> bool:
    """Return whether there are rows of both classes."""
    return bool(relevant.any() and not relevant.all())


def _checked(judged: JudgedRows, similarity: ArrayLike) -> Floats:
    scores = np.asarray(similarity, dtype=np.float64)
    if scores.shape != (len(judged),):
        raise ValueError(f"{len(judged)} rows need {len(judged)} similarities, not {scores.shape}")
    if missing := int(np.isnan(scores).sum()):
        raise ValueError(
            f"{missing} of {len(scores)} similarities are NaN: the model's vectors are not finite"
        )
    return scores


def unit_vectors(vectors_TE: Vectors) -> NDArray[np.float32]:
    """Return the vectors in fp32, each of length 1 (a zero vector stays one)."""
    exact_TE = np.asarray(vectors_TE, dtype=np.float32)
    unit_TE: NDArray[np.float32] = exact_TE / np.linalg.norm(exact_TE, axis=1, keepdims=True).clip(
        min=1e-6
    )
    return unit_TE


def _rows(ids_T: Ids, wanted: Ids) -> NDArray[np.int64]:
    """Return where each wanted text stands in ``ids_T``."""
    at = np.searchsorted(ids_T, wanted).clip(max=max(len(ids_T) - 1, 0))
    if not np.array_equal(np.asarray(ids_T)[at], wanted):
        raise ValueError("texts of the rows are missing from the ids given")
    return at
