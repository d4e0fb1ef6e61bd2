"""The places of the right titles: among those shown for a query, and in the whole pool.

One rule for ties, everywhere: the worse title first. A model that gives every text one vector
thus gets the worst score, not the luck of the row order. Queries without any relevant title
(nDCG: without any grade above 0) have no right answer and are left out; ValueError if all are.

Shapes: M shown rows, Q queries, P pool titles, R (query, relevant title) pairs, E dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embsearch.evaluate.auc import Floats, Vectors, checked, groups

ByQuery = dict[str, Floats]  # metric -> (Q,) one value a query
CHUNK = 1 << 23  # scores held at once: 32 MB in fp32, three times that with the copies made of them


def mrr_at_k(scores: ArrayLike, relevant: ArrayLike, query: ArrayLike, k: int = 10) -> float:
    """Mean over queries of 1 / place of the first relevant shown title, 0 beyond place k."""
    found_Q = mrr_by_query(scores, relevant, query, k)
    _some_relevant(found_Q[~np.isnan(found_Q)])
    return float(np.nanmean(found_Q))


def mrr_by_query(scores: ArrayLike, relevant: ArrayLike, query: ArrayLike, k: int = 10) -> Floats:
    """Return (Q,) the values that ``mrr_at_k`` averages; NaN for a query without a relevant title."""
    scores_M, relevant_M = checked(scores, relevant)
    group_M = groups(query)
    place_M = places(scores_M, relevant_M, group_M)
    first_Q = np.full(group_M.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first_Q, group_M[relevant_M], place_M[relevant_M])
    some_Q = np.bincount(group_M, weights=relevant_M) > 0
    return np.where(some_Q, np.where(first_Q <= k, 1 / first_Q, 0.0), np.nan)


def recall_at_k(scores: ArrayLike, relevant: ArrayLike, query: ArrayLike, k: int) -> float:
    """Mean over queries of the share of their relevant shown titles in the first k places.

    With k below a query's number of relevant titles the best possible is below 1.
    """
    scores_M, relevant_M = checked(scores, relevant)
    group_M = groups(query)
    place_M = places(scores_M, relevant_M, group_M)
    return _recall(place_M[relevant_M], group_M[relevant_M], k)


def ndcg_at_k(scores: ArrayLike, grade: ArrayLike, query: ArrayLike, k: int = 10) -> float:
    """Mean over queries of DCG@k / best possible DCG@k, with DCG = sum (2^grade - 1) / log2(1 +
    place).

    The exponential gain of Burges et al. 2005 that web search uses; scikit-learn's ``ndcg_score``
    has gain = grade, the same for grades 0 and 1. A grade below 0 gains nothing.
    """
    found_Q = ndcg_by_query(scores, grade, query, k)
    if np.isnan(found_Q).all():
        raise ValueError(f"nDCG needs a query with a grade above 0; none of {len(found_Q)} has one")
    return float(np.nanmean(found_Q))


def ndcg_by_query(scores: ArrayLike, grade: ArrayLike, query: ArrayLike, k: int = 10) -> Floats:
    """Return (Q,) the values that ``ndcg_at_k`` averages; NaN for a query without a grade above 0."""
    scores_M, _ = checked(scores, np.asarray(grade) > 0)
    grade_M = np.asarray(grade, dtype=np.float64)
    group_M = groups(query)
    gain_M = _gain(grade_M, group_M)
    found_Q = _dcg(gain_M, places(scores_M, grade_M, group_M), group_M, k)
    best_Q = _dcg(gain_M, places(grade_M, grade_M, group_M), group_M, k)
    with np.errstate(invalid="ignore"):
        share_Q: Floats = np.where(best_Q > 0, found_Q / best_Q, np.nan)
    return share_Q


def places(scores_M: Floats, worth_M: np.ndarray, group_M: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (M,) each row's place in its group by falling score, from 1; of equal scores the least
    worth first.
    """
    order = np.lexsort((worth_M, -scores_M, group_M))
    starts = np.flatnonzero(np.diff(group_M[order], prepend=-1))
    place_M = np.empty(len(order), dtype=np.int64)
    place_M[order] = np.arange(len(order)) - starts[group_M[order]] + 1
    return place_M


def pool_ranks(
    queries_QE: Vectors,
    pool_PE: Vectors,
    query_R: ArrayLike,
    title_R: ArrayLike,
    chunk: int = CHUNK,
) -> NDArray[np.int64]:
    """Return (R,) the rank, from 1, of each relevant title among all P titles for its query.

    ``query_R`` and ``title_R`` are rows of the two matrices, no pair twice. The similarity is the
    dot product: give unit vectors for cosines. Titles nobody judged count as irrelevant. About
    ``chunk`` similarities are held at once.
    """
    query_R, title_R = np.asarray(query_R, dtype=np.int64), np.asarray(title_R, dtype=np.int64)
    order = np.argsort(query_R, kind="stable")
    query, title = query_R[order], title_R[order]
    own, above = np.empty(len(query)), np.empty(len(query), dtype=np.int64)
    step = max(1, chunk // max(len(pool_PE), 1))
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        rows = np.unique(query[part])
        scores_QP = queries_QE[rows] @ pool_PE.T
        if np.isnan(scores_QP).any():
            raise ValueError("similarities to the pool are NaN: the model's vectors are not finite")
        at = np.searchsorted(rows, query[part])
        own[part] = scores_QP[at, title[part]]
        # irrelevant titles that stand before it; the relevant ones are put in order below
        whole = slice(
            np.searchsorted(query, rows[0]), np.searchsorted(query, rows[-1], side="right")
        )
        scores_QP[np.searchsorted(rows, query[whole]), title[whole]] = -np.inf
        above[part] = np.count_nonzero(scores_QP[at] >= own[part, None], axis=1)
    rank_R = np.empty(len(query), dtype=np.int64)
    rank_R[order] = above + places(own, np.zeros(len(own)), groups(query))
    return rank_R


def pool_by_query(rank_R: NDArray[np.int64], grade_R: ArrayLike, query_R: ArrayLike) -> ByQuery:
    """Return by metric (Q,) the values of the queries with a relevant title, from the ranks that
    ``pool_ranks`` found.

    ``grade_R``: of the relevant titles; all others of the pool count as grade 0 in nDCG.
    """
    grade_R = np.asarray(grade_R, dtype=np.float64)
    group_R = np.unique(np.asarray(query_R), return_inverse=True)[1]
    relevant_Q = np.bincount(group_R)
    first_Q = np.full(len(relevant_Q), np.iinfo(np.int64).max)
    np.minimum.at(first_Q, group_R, rank_R)
    gain_R = _gain(grade_R, group_R)
    best_Q = _dcg(gain_R, places(grade_R, grade_R, group_R), group_R, 10)
    found_Q = _dcg(gain_R, rank_R, group_R, 10)
    return {
        "pool_ndcg_10": np.divide(found_Q, best_Q, out=np.zeros_like(found_Q), where=best_Q > 0),
        "pool_mrr_10": np.where(first_Q <= 10, 1 / first_Q, 0.0),
        "pool_recall_1": np.bincount(group_R, weights=rank_R <= 1) / relevant_Q,
        "pool_recall_10": np.bincount(group_R, weights=rank_R <= 10) / relevant_Q,
    }


def _recall(place_R: NDArray[np.int64], group_R: NDArray[np.int64], k: int) -> float:
    _some_relevant(place_R)
    relevant_Q = np.bincount(group_R)
    found_Q = np.bincount(group_R, weights=place_R <= k)
    some = relevant_Q > 0
    return float(np.mean(found_Q[some] / relevant_Q[some]))


def _some_relevant(found: np.ndarray) -> None:
    if not len(found):
        raise ValueError("ranking metrics need a relevant title, and no query has one")


def _gain(grade_M: Floats, group_M: NDArray[np.int64]) -> Floats:
    """Return 2^grade - 1, over 2^(the query's highest grade): nDCG is a ratio within the query, and
    so grades that are click counts do not overflow.
    """
    if not len(grade_M):
        return grade_M
    grade_M = grade_M.clip(min=0)
    top_Q = np.zeros(group_M.max() + 1)
    np.maximum.at(top_Q, group_M, grade_M)
    return np.exp2(grade_M - top_Q[group_M]) - np.exp2(-top_Q[group_M])


def _dcg(gain_M: Floats, place_M: NDArray[np.int64], group_M: NDArray[np.int64], k: int) -> Floats:
    seen_M = np.where(place_M <= k, gain_M / np.log2(1.0 + place_M), 0.0)
    return np.bincount(group_M, weights=seen_M).astype(np.float64)  # ints where there are no rows
