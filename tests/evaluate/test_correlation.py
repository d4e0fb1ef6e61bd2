"""Correlations and their intervals, against scipy on rows that are drawn one by one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from embsearch.data.dataset import JudgedRows
from embsearch.evaluate.correlation import gain, interval, pearson, spearman, value_of
from embsearch.tasks.catalogue import task_named


@pytest.fixture
def columns():
    """Cosines and scores with ties in both."""
    random = np.random.default_rng(0)
    scores = random.integers(0, 6, 80) / 5
    cosines = np.round(scores + random.normal(size=80), 1)
    return cosines, scores


@pytest.mark.parametrize(("ours", "theirs"), [(spearman, spearmanr), (pearson, pearsonr)])
def test_a_correlation_is_scipys_also_of_rows_that_count_several_times(columns, ours, theirs):
    cosines, scores = columns
    assert value_of(ours(cosines, scores), 80) == pytest.approx(theirs(cosines, scores)[0])
    counts = np.random.default_rng(1).integers(0, 4, size=(5, 80))
    found = ours(cosines, scores)(counts.astype(float))
    drawn = [np.repeat(np.arange(80), one) for one in counts]
    expected = [theirs(cosines[take], scores[take])[0] for take in drawn]
    assert found == pytest.approx(expected)


def test_one_cosine_for_all_pairs_has_correlation_0_and_nan_is_an_error(columns):
    _, scores = columns
    assert value_of(spearman(np.ones(80), scores), 80) == 0
    assert value_of(pearson(np.ones(80), scores), 80) == 0
    with pytest.raises(ValueError, match="1 of 80 scores are NaN"):
        spearman(np.r_[np.nan, np.ones(79)], scores)


def test_the_interval_holds_the_value_and_that_of_a_gain_is_paired(columns):
    cosines, scores = columns
    pairs = np.arange(80)
    found = interval(spearman(cosines, scores), pairs, 500, 0)
    assert -1 < found.low < found.value < found.high < 1
    again = spearman(cosines + 1e-3 * scores, scores)
    near = interval(gain(again, spearman(cosines, scores)), pairs, 500, 0)
    assert near.high - near.low < (found.high - found.low) / 3
    same = interval(gain(again, again), pairs, 500, 0)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_pairs_of_one_first_text_are_drawn_together(columns):
    cosines, scores = columns
    alone = interval(spearman(cosines, scores), np.arange(80), 500, 0)
    both = np.tile([cosines, scores, np.arange(80)], 2)
    twice = interval(spearman(both[0], both[1]), both[2].astype(int), 500, 0)
    assert (twice.low, twice.high) == pytest.approx((alone.low, alone.high))


def rows_of(scores):
    count = len(scores)
    every = np.arange(count, dtype=np.int32)
    grade = scores.astype(np.float32)
    here = np.where(every % 2, 0, -1).astype(np.int32)
    return JudgedRows(every, every, every + count, grade, grade >= grade.mean(), here, ("odd",))


def test_the_task_is_judged_by_spearman_and_its_floor_is_asked_of_auc(columns):
    cosines, scores = columns
    task, rows = task_named("similarity"), rows_of(scores)
    answers = cosines.astype(np.float32)
    metrics = task.metrics(rows, answers)
    assert metrics["spearman"] == pytest.approx(spearmanr(cosines, scores)[0])
    assert metrics["pearson"] == pytest.approx(pearsonr(cosines, scores)[0], rel=1e-6)
    metric, floor = task.floor(rows, answers, 100, 0)
    assert (metric.name, floor.value) == ("auc", metrics["auc"])
    assert task.segment_scores(rows, answers)["odd"]["spearman"] == pytest.approx(
        spearmanr(cosines[1::2], scores[1::2])[0]
    )
    assert set(task.secondary_gains(rows, answers, -answers, 100, 0)) == {"pearson"}
    assert task.lacking(rows_of(np.ones(4))) == "pairs scored above and below the mean"
