"""Intervals: drawing queries is repeating their rows, and the truth lies inside often enough."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embsearch.evaluate import bootstrap
from embsearch.evaluate.auc import roc_auc
from embsearch.evaluate.bootstrap import auc_error, auc_gain, auc_interval, rank


def rows(queries, per_query, lead, seed=0):
    """Scores, relevance and query of rows whose queries shift their scores together."""
    random = np.random.default_rng(seed)
    query = np.repeat(np.arange(queries), per_query)
    relevant = random.random(len(query)) < 0.4
    shift = random.normal(scale=0.5, size=queries)[query]
    return random.normal(size=len(query)) + lead * relevant + shift, relevant, query


@given(st.integers(0, 10_000))
def test_auc_with_counts_is_the_auc_of_rows_repeated_so_often(seed):
    random = np.random.default_rng(seed)
    scores, relevant, query = (
        random.integers(0, 4, 20),
        random.random(20) < 0.5,
        random.integers(0, 5, 20),
    )
    counts = random.integers(0, 3, size=5)[np.unique(query)]
    often = counts[np.unique(query, return_inverse=True)[1]]
    repeated = np.repeat(scores, often), np.repeat(relevant, often)
    value = rank(scores, relevant, query).auc(counts[None])[0]
    if len(set(repeated[1].tolist())) < 2:
        assert np.isnan(value)
    else:
        assert value == pytest.approx(roc_auc(*repeated), abs=1e-12)


def test_the_standard_error_is_how_far_aucs_of_other_queries_lie_apart():
    aucs = [roc_auc(*rows(60, 8, lead=1.0, seed=seed)[:2]) for seed in range(300)]
    stated = [auc_error(*rows(60, 8, lead=1.0, seed=seed), draws=300) for seed in range(30)]
    assert np.mean(stated) == pytest.approx(np.std(aucs), rel=0.12)


def test_the_standard_error_of_one_query_or_one_class_is_not_known():
    assert auc_error([0.1, 0.9], [False, True], [0, 0]) == np.inf
    assert auc_error([0.1, 0.9], [True, True], [0, 1]) == np.inf


def test_the_interval_holds_the_true_auc_about_as_often_as_it_says():
    truth = roc_auc(*rows(40_000, 5, lead=1.0, seed=99)[:2])
    inside = 0
    for seed in range(100):
        interval = auc_interval(*rows(60, 5, lead=1.0, seed=seed), draws=300, seed=seed)
        inside += interval.low <= truth <= interval.high
    # 95 % of 100, minus 3.5 standard deviations for chance and small samples
    assert 87 <= inside <= 100


def test_resampling_rows_instead_of_queries_would_claim_too_much():
    random = np.random.default_rng(0)
    query = np.repeat(np.arange(30), 20)
    relevant = (random.random(30) < 0.5)[query]  # a query's rows stand or fall together
    scores = random.normal(size=30)[query] + 0.5 * relevant
    by_query = auc_interval(scores, relevant, query, draws=500)
    by_row = auc_interval(scores, relevant, np.arange(len(query)), draws=500)
    assert by_query.high - by_query.low > 3 * (by_row.high - by_row.low)


def test_equal_scores_gain_exactly_nothing():
    scores, relevant, query = rows(50, 6, lead=1.0)
    gain = auc_gain(scores, scores * 2, relevant, query, draws=200)
    assert (gain.value, gain.low, gain.high, gain.draws) == (0.0, 0.0, 0.0, 200)


def test_a_gain_is_paired_and_turns_its_sign_with_its_arguments():
    scores, relevant, query = rows(200, 6, lead=1.0)
    better = scores + 0.2 * relevant
    gain = auc_gain(better, scores, relevant, query, draws=400)
    loss = auc_gain(scores, better, relevant, query, draws=400)
    alone = auc_interval(scores, relevant, query, draws=400)
    assert gain.low > 0
    assert [loss.value, loss.low, loss.high] == pytest.approx(
        [-gain.value, -gain.high, -gain.low], abs=1e-12
    )
    assert gain.high - gain.low < (alone.high - alone.low) / 2


def test_the_seed_decides_and_the_chunk_does_not(monkeypatch):
    columns = rows(30, 4, lead=1.0)
    first = auc_interval(*columns, draws=100)
    monkeypatch.setattr(bootstrap, "CHUNK", 1)
    assert auc_interval(*columns, draws=100) == first
    assert auc_interval(*columns, draws=100, seed=1) != first


def test_one_query_says_nothing_about_others():
    interval = auc_interval([0.9, 0.1], [1, 0], [0, 0])
    assert (interval.value, interval.low, interval.high, interval.draws) == (1.0, 0.0, 1.0, 0)
    gain = auc_gain([0.9, 0.1], [0.1, 0.9], [1, 0], [0, 0])
    assert (gain.value, gain.low, gain.high, gain.draws) == (1.0, -1.0, 1.0, 0)


def test_draws_that_miss_a_class_are_not_counted():
    interval = auc_interval([0.9, 0.1], [1, 0], [0, 1], draws=1000)
    assert 400 < interval.draws < 600  # both of two queries: half of all draws


def test_ten_thousand_rows_and_two_thousand_draws_take_seconds():
    columns = rows(2000, 5, lead=1.0)
    start = time.perf_counter()
    auc_interval(*columns)
    assert time.perf_counter() - start < 3  # 0.3 s on one idle core
