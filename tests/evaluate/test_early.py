"""What the evaluations of a trial read: as little as the error allows, more at every one, all at the last."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embsearch.config.schema import EvaluateConfig
from embsearch.data.dataset import JudgedRows, sample
from embsearch.evaluate.bootstrap import auc_error
from embsearch.evaluate.early import readings, reckoned
from embsearch.evaluate.score import similarity
from embsearch.values import Reading

CONFIG = EvaluateConfig(early_error=0.02, at=(0.1, 0.3, 1.0), draws=400)


@pytest.fixture(scope="module")
def rows():
    """600 queries of six titles, two of them relevant and nearer; vectors of queries, then of titles."""
    draw = np.random.default_rng(0)
    query = np.repeat(np.arange(600), 6).astype(np.int32)
    relevant = np.tile([True, True, False, False, False, False], 600)
    vectors_QE = draw.normal(size=(600, 16))
    titles = vectors_QE[query] * (0.25 * relevant[:, None]) + draw.normal(size=(3600, 16))
    none = np.full(3600, -1, dtype=np.int32)
    judged = JudgedRows(
        query,
        query,
        np.arange(600, 4200, dtype=np.int32),
        relevant.astype(np.float32),
        relevant,
        none,
    )
    return judged, np.arange(4200), np.concatenate([vectors_QE, titles])


def test_the_stated_error_is_measured_and_at_most_what_was_asked_for(rows):
    judged, ids, vectors = rows
    first, second, last = readings(*rows, CONFIG, seed=0)
    assert first.error <= 0.02
    assert second.error <= 0.01
    assert last == Reading(
        600, 3600, pytest.approx(auc_error(similarity(*rows), judged.relevant, judged.query, 400))
    )
    for one in (first, second):
        part = sample(judged, one.queries)
        assert one.rows == len(part)
        assert one.error == auc_error(
            similarity(part, ids, vectors), part.relevant, part.query, 400
        )


def test_few_rows_are_read_where_few_are_enough(rows):
    first, second, last = readings(*rows, CONFIG, seed=0)
    assert first.queries < second.queries / 2.5 < last.queries
    assert first.error > 0.015  # not far more than were asked for


def test_where_all_rows_are_needed_all_are_read(rows):
    found = readings(*rows, replace(CONFIG, early_error=0.001), seed=0)
    assert [one.rows for one in found] == [3600, 3600, 3600]


@pytest.mark.parametrize("config", [{"early_error": 0.0}, {"objective": "ndcg_10"}])
def test_nothing_is_chosen_without_a_limit_or_for_another_metric(rows, config):
    assert readings(*rows, replace(CONFIG, **config), seed=0) == []


def test_nothing_is_chosen_where_auc_is_not_defined(rows):
    judged, *texts = rows
    assert (
        readings(replace(judged, relevant=np.ones(3600, dtype=bool)), *texts, CONFIG, seed=0) == []
    )


def test_what_is_reckoned_follows_from_the_error_on_all_rows():
    every = Reading(1000, 8000, 0.005)
    assert reckoned(every, CONFIG) == [
        Reading(63, 504, pytest.approx(0.0199, abs=1e-4)),
        Reading(250, 2000, 0.01),
        every,
    ]
    assert reckoned(Reading(1000, 8000, 0.05), CONFIG)[0] == Reading(1000, 8000, 0.05)


def test_never_so_few_that_the_error_itself_is_a_guess():
    wide = replace(CONFIG, early_error=0.4)
    assert [one.queries for one in reckoned(Reading(1000, 8000, 0.005), wide)] == [30, 60, 1000]
