"""When a study ends."""

from __future__ import annotations

import pytest

from embsearch.config.schema import StopConfig
from embsearch.hpo import budget

STOP = StopConfig(trials=3, seconds=60, target=0.95)


@pytest.mark.parametrize(
    ("trials", "seconds", "best", "why"),
    [
        (2, 59, 0.94, ""),
        (2, 0, None, ""),
        (3, 0, None, "stop.trials: all 3 trials exist"),
        (0, 60, None, "stop.seconds: 60 s of 60 s spent"),
        (1, 0, 0.95, "stop.target: 0.9500 reached 0.95"),
        (3, 99, 0.99, "stop.target: 0.9900 reached 0.95"),
    ],
)
def test_a_study_ends_at_the_limit_that_comes_first(trials, seconds, best, why):
    assert budget.spent(STOP, trials, seconds, best) == why


def test_running_trials_are_cut_short_by_time_and_target_but_not_by_the_number_of_trials():
    assert budget.cut_short(STOP, 0, 0.5) == ""
    assert budget.cut_short(STOP, 61, 0.5) == "stop.seconds: 61 s of 60 s spent"
    assert budget.spent(STOP, 3, 0, 0.5) != ""


def test_a_limit_that_is_not_set_is_no_limit():
    assert budget.spent(StopConfig(trials=2), 1, 1e9, 1.0) == ""


def test_steps_are_thousandths_of_the_budget_and_rise():
    assert [budget.step((0.11, 0.33, 1.0), r) for r in (1, 2, 3)] == [110, 330, 1000]
    assert [budget.step((1e-5, 2e-5, 1.0), r) for r in (1, 2, 3)] == [1, 2, 1000]
