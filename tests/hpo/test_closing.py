"""A search that seconds limit finishes its best trials once there is no time left to begin others as well."""

from __future__ import annotations

import pytest

from embsearch.config.build import build
from embsearch.history.board import Board
from embsearch.history.trial import Trial
from embsearch.hpo.closing import Closing

AT = [0.1, 0.5, 1.0]  # a whole trial takes 100 s


def trial(number, *values, state="paused"):
    seconds = 100 * AT[len(values) - 1] if values else 0.0
    found = dict(enumerate(values, 1))
    return Trial(number, state, found, dict.fromkeys(found, 10), seconds=seconds)


def closing(seconds=1000):
    return Closing(build({"evaluate": {"at": AT}, "stop": {"seconds": seconds}}))


@pytest.mark.parametrize(
    ("left", "goes_on"),
    [
        (200, None),  # time for another trial first
        (61, None),
        (59, 1),  # 50 s to the end of trial 1, 10 s to the first evaluation of another
        (50, 1),
        (49, None),  # no time for anything
    ],
)
def test_the_best_of_the_highest_rung_is_finished_in_time(left, goes_on):
    board = Board([trial(0, 0.9, 0.92), trial(1, 0.9, 0.93), trial(2, 0.95)])
    found = closing().next(board, 1000 - left, promotable=None)
    assert (None if found is None else found[0]) == goes_on


def test_a_promotable_trial_comes_first_where_it_can_be_finished():
    board = Board([trial(0, 0.9, 0.92), trial(1, 0.95)])
    number, why = closing().next(board, 905, promotable=1)
    assert (number, why) == (1, "stop.seconds: 95 s are left, and its end takes 90 s")
    number, why = closing().next(board, 945, promotable=1)
    assert (number, why) == (0, "stop.seconds: 55 s are left, and its end takes 50 s")


def test_without_a_limit_or_a_measurement_nothing_is_closed():
    board = Board([trial(0, 0.9, 0.92), trial(1, state="waiting")])
    assert closing(None).next(board, 950, None) is None
    assert closing().next(Board([trial(0, state="waiting")]), 950, None) is None
    assert closing().seconds_of_a_trial(board) == pytest.approx(100)
