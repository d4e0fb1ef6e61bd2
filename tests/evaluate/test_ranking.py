"""Ranking metrics against sorting each query by hand, and nDCG against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from embsearch.evaluate.ranking import (
    mrr_at_k,
    ndcg_at_k,
    ndcg_by_query,
    pool_by_query,
    pool_ranks,
    recall_at_k,
)

rows = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30
).filter(lambda rows: any(grade for _, grade, _ in rows))


def columns(rows):
    scores, grade, query = (np.array(column) for column in zip(*rows, strict=True))
    return scores.astype(float), grade, query


def rankings(rows):
    """The grades of each query's titles as a person would list them: best score first, and of
    equal scores the lower grade first. Queries without a grade above 0 are left out."""
    for one in sorted({query for *_, query in rows}):
        grades = [
            grade for _, grade in sorted((-score, grade) for score, grade, q in rows if q == one)
        ]
        if any(grades):
            yield grades


@given(rows, st.integers(1, 5))
def test_mrr_and_recall_are_those_of_lists_sorted_by_hand(rows, k):
    scores, grade, query = columns(rows)
    listed = list(rankings(rows))
    firsts = [next(place for place, grade in enumerate(grades, 1) if grade) for grades in listed]
    shares = [np.count_nonzero(grades[:k]) / np.count_nonzero(grades) for grades in listed]
    mrr = np.mean([1 / first if first <= k else 0 for first in firsts])
    assert mrr_at_k(scores, grade > 0, query, k) == pytest.approx(mrr, abs=1e-12)
    assert recall_at_k(scores, grade > 0, query, k) == pytest.approx(np.mean(shares), abs=1e-12)


@given(rows, st.integers(1, 5))
def test_ndcg_is_that_of_lists_sorted_by_hand(rows, k):
    def dcg(grades):
        return sum((2**grade - 1) / np.log2(1 + place) for place, grade in enumerate(grades[:k], 1))

    expected = np.mean(
        [dcg(grades) / dcg(sorted(grades, reverse=True)) for grades in rankings(rows)]
    )
    assert ndcg_at_k(*columns(rows), k) == pytest.approx(expected, abs=1e-12)


def test_ndcg_is_scikit_learns_with_exponential_gains():
    random = np.random.default_rng(0)
    scores, grade = random.normal(size=(20, 15)), random.integers(0, 4, size=(20, 15))
    expected = ndcg_score(2.0**grade - 1, scores, k=10)
    query = np.repeat(np.arange(20), 15)
    assert ndcg_at_k(scores.ravel(), grade.ravel(), query) == pytest.approx(expected, abs=1e-12)


def test_of_equal_scores_the_worse_title_stands_first_in_any_row_order():
    for grade in ([1, 0, 0], [0, 1, 0], [0, 0, 1]):
        assert mrr_at_k([0.5] * 3, grade, [0] * 3) == pytest.approx(1 / 3)
        assert recall_at_k([0.5] * 3, grade, [0] * 3, k=2) == 0.0
        assert ndcg_at_k([0.5] * 3, grade, [0] * 3) == pytest.approx(0.5)


def test_queries_without_a_relevant_title_are_left_out_and_their_absence_alone_is_an_error():
    scores, query = [0.9, 0.1, 0.8, 0.2], [0, 0, 1, 1]
    assert mrr_at_k(scores, [1, 0, 0, 0], query) == 1.0
    assert ndcg_at_k(scores, [1, 0, 0, 0], query) == 1.0
    for metric in (mrr_at_k, ndcg_at_k):
        with pytest.raises(ValueError, match=r"a relevant title|a query with a grade"):
            metric(scores, [0, 0, 0, 0], query)


def test_grades_that_are_click_counts_do_not_overflow_and_negative_ones_gain_nothing():
    assert ndcg_at_k([3.0, 2.0, 1.0], [5000, 4000, 0], [0, 0, 0]) == 1.0
    assert ndcg_at_k([3.0, 2.0], [-4, 1], [0, 0]) == pytest.approx(1 / np.log2(3))


def brute_ranks(scores_QP, query, title):
    """Irrelevant titles first among equals; equal relevant ones in the order given."""
    for q, t in zip(query, title, strict=True):
        mine = [other for asked, other in zip(query, title, strict=True) if asked == q]
        worse = [
            p
            for p in range(scores_QP.shape[1])
            if p not in mine and scores_QP[q, p] >= scores_QP[q, t]
        ]
        better = [p for p in mine if scores_QP[q, p] > scores_QP[q, t]]
        before = [p for p in mine[: mine.index(t)] if scores_QP[q, p] == scores_QP[q, t]]
        yield 1 + len(worse) + len(better) + len(before)


@given(st.integers(0, 10_000), st.sampled_from([1, 20, 50, 1 << 20]))
def test_pool_ranks_are_those_of_the_whole_matrix_whatever_the_chunk(seed, chunk):
    random = np.random.default_rng(seed)
    # small integers: products are exact and ties common
    queries, pool = random.integers(-1, 2, size=(6, 3)), random.integers(-1, 2, size=(17, 3))
    pairs = random.permutation(6 * 17)[: random.integers(1, 25)]
    query, title = pairs // 17, pairs % 17
    ranks = pool_ranks(queries.astype(float), pool.astype(float), query, title, chunk)
    assert ranks.tolist() == list(brute_ranks(queries @ pool.T, query, title))


def test_pool_metrics_count_queries_alike():
    # query 4: ranks 1 and 12; query 9: rank 2
    found = pool_by_query(np.array([12, 2, 1]), np.ones(3), np.array([4, 9, 4]))
    assert {name: values.mean() for name, values in found.items()} == {
        # of query 4 the first of two is found, of query 9 its only one at place 2
        "pool_ndcg_10": (1 / (1 + 1 / np.log2(3)) + 1 / np.log2(3)) / 2,
        "pool_mrr_10": 0.75,
        "pool_recall_1": 0.25,
        "pool_recall_10": 0.75,
    }


@given(st.integers(0, 10_000))
def test_ndcg_of_the_pool_is_that_of_all_its_titles_shown_for_every_query(seed):
    random = np.random.default_rng(seed)
    scores = random.normal(size=(4, 15))
    grades = random.integers(0, 3, size=(4, 15))
    grades[:, 0] = 2
    queries = np.repeat(np.arange(4), 15)
    query, title = np.nonzero(grades)
    ranks = pool_ranks(scores, np.eye(15), query, title)
    found = pool_by_query(ranks, grades[query, title], query)["pool_ndcg_10"]
    every = ndcg_by_query(scores.ravel(), grades.ravel(), queries)
    assert found == pytest.approx(every)


def test_vectors_with_nan_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        pool_ranks(np.full((1, 2), np.nan), np.ones((3, 2)), [0], [0])
