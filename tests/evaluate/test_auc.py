"""AUC against scikit-learn and against counting pairs one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from embsearch.evaluate.auc import query_auc, roc_auc, triplet_accuracy

# few distinct scores, so that ties are common
rows = st.lists(
    st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30
).filter(lambda rows: len({relevant for _, relevant, _ in rows}) == 2)


def columns(rows):
    scores, relevant, query = zip(*rows, strict=True)
    return np.array(scores, dtype=float), np.array(relevant), np.array(query) * 7 - 3


def duels(scores, relevant, query):
    """(query, lead) of every relevant row over every irrelevant row of its query."""
    for i, j in itertools.product(range(len(scores)), repeat=2):
        if query[i] == query[j] and relevant[i] and not relevant[j]:
            yield query[i], scores[i] - scores[j]


@given(rows)
def test_auc_is_scikit_learns_ties_included(rows):
    scores, relevant, _ = columns(rows)
    assert roc_auc(scores, relevant) == pytest.approx(roc_auc_score(relevant, scores), abs=1e-12)


@given(rows)
def test_auc_is_unmoved_by_rising_maps_and_turned_by_falling_ones(rows):
    scores, relevant, _ = columns(rows)
    assert roc_auc(np.exp(scores) * 3 - 1, relevant) == roc_auc(scores, relevant)
    assert roc_auc(-scores, relevant) == pytest.approx(1 - roc_auc(scores, relevant), abs=1e-12)


@given(rows)
def test_metrics_within_queries_are_those_counted_pair_by_pair(rows):
    scores, relevant, query = columns(rows)
    leads = list(duels(scores, relevant, query))
    if not leads:
        with pytest.raises(ValueError, match="none of"):
            query_auc(scores, relevant, query)
        return
    accuracy = np.mean([lead > 0 for _, lead in leads])
    by_query = [
        np.mean([(lead > 0) + (lead == 0) / 2 for q, lead in leads if q == one])
        for one in {q for q, _ in leads}
    ]
    assert triplet_accuracy(scores, relevant, query) == pytest.approx(accuracy, abs=1e-12)
    assert query_auc(scores, relevant, query) == pytest.approx(np.mean(by_query), abs=1e-12)


@settings(max_examples=30)
@given(rows, st.randoms())
def test_the_order_of_rows_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    here, there = columns(rows), columns(shuffled)
    assert roc_auc(*here[:2]) == roc_auc(*there[:2])
    if list(duels(*here)):
        assert query_auc(*here) == pytest.approx(query_auc(*there), abs=1e-12)
        assert triplet_accuracy(*here) == triplet_accuracy(*there)


def test_a_model_that_gives_every_text_one_vector_gets_half_and_no_triplet_right():
    scores, relevant, query = np.ones(4), np.array([1, 0, 1, 0]), np.array([0, 0, 1, 1])
    assert roc_auc(scores, relevant) == 0.5
    assert query_auc(scores, relevant, query) == 0.5
    assert triplet_accuracy(scores, relevant, query) == 0.0


def test_nan_one_class_and_columns_of_different_length_are_refused_in_words():
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        roc_auc([0.1, np.nan], [1, 0])
    with pytest.raises(ValueError, match="relevant and irrelevant rows, and 2 of 2 are relevant"):
        roc_auc([0.1, 0.2], [1, 1])
    with pytest.raises(ValueError, match="0 of 0 are relevant"):
        roc_auc([], [])
    with pytest.raises(ValueError, match="equal length"):
        roc_auc([0.1, 0.2], [1])


def test_a_large_set_is_exact():
    random = np.random.default_rng(0)
    relevant = random.random(200_000) < 0.3
    scores = np.round(random.normal(size=200_000) + relevant, 2)
    assert roc_auc(scores, relevant) == pytest.approx(roc_auc_score(relevant, scores), abs=1e-12)
