"""Where to cut between relevant and irrelevant rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from embsearch.report.calibration import best_cut, cut_at, quantiles


@pytest.fixture
def rows():
    """Scores of 400 rows, a quarter relevant and as a rule higher."""
    draw = np.random.default_rng(0)
    relevant = draw.random(400) < 0.25
    return (0.3 + 0.4 * relevant + 0.2 * draw.standard_normal(400)).clip(-1, 1), relevant


def test_the_cut_has_the_highest_f1_that_any_threshold_of_two_decimals_has(rows):
    scores, relevant = rows
    cut = best_cut(scores, relevant)
    every = [
        precision_recall_fscore_support(relevant, scores >= t, average="binary", zero_division=0)[
            :3
        ]
        for t in np.arange(-100, 101) / 100
    ]
    assert cut.f1 == pytest.approx(max(f1 for _, _, f1 in every))
    assert (cut.precision, cut.recall, cut.f1) in [pytest.approx(one) for one in every]


def test_a_cut_that_separates_is_perfect():
    cut = best_cut(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]))
    assert 0.2 < cut.threshold <= 0.8
    assert cut[1:] == (1, 1)


def test_where_nothing_is_taken_nothing_is_wrong_and_nothing_found():
    assert cut_at(1.0, np.array([0.5]), np.array([True])) == (1.0, 1.0, 0.0)


def test_quantiles_are_of_each_class_alone(rows):
    scores, relevant = rows
    found = quantiles(scores, relevant)
    assert found["relevant"][2] == np.median(scores[relevant])
    assert found["irrelevant"][2] == np.median(scores[~relevant])
    assert quantiles(scores, np.ones(400, dtype=bool)).keys() == {"relevant"}
