"""The board answers as a look at all trials would, whatever happened to them before."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from embsearch.history.board import Board
from embsearch.history.trial import Trial

VALUES = st.sampled_from([0.5, 0.6, 0.7, 0.8, 0.9])  # few, so that some are equal
HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("new"), st.just(0), st.none()),
        st.tuples(st.just("measure"), st.integers(0, 9), VALUES),
        st.tuples(
            st.sampled_from(["running", "paused", "complete", "pruned", "failed"]),
            st.integers(0, 9),
            st.none(),
        ),
    ),
    max_size=60,
)


def measure(board, number, value, rows=0):
    trial = board[number]
    with board.changing(trial):
        trial.rows = {**trial.rows, trial.rung + 1: rows}
        trial.values = {**trial.values, trial.rung + 1: value}


def played(happenings):
    """The board after these, and the same trials in a plain mapping."""
    board, plain = Board(), {}
    for what, number, value in happenings:
        if what == "new":
            board.add(Trial(len(board)))
            plain[len(plain)] = Trial(len(plain))
        elif number < len(board):
            if what == "measure":
                measure(board, number, value)
                plain[number].values = {**plain[number].values, plain[number].rung + 1: value}
            else:
                with board.changing(board[number]):
                    board[number].state = what
                plain[number].state = what
    return board, plain


@given(HAPPENINGS)
def test_the_board_is_as_if_it_were_counted_anew(happenings):
    board, plain = played(happenings)
    measured = [t for t in plain.values() if t.values]
    assert {n: (t.state, dict(t.values)) for n, t in board.items()} == {
        n: (t.state, t.values) for n, t in plain.items()
    }
    for state in ("waiting", "running", "paused", "complete", "pruned", "failed"):
        assert [t.number for t in board.in_state(state)] == [
            n for n, t in plain.items() if t.state == state
        ]
    best = max(measured, key=lambda t: (t.best, -t.number), default=None)
    assert (board.best and board.best.number) == (best and best.number)
    assert board.best_score == max(((0, t.best) for t in measured), default=None)
    for rung in range(1, 4):
        there = sorted(
            ((t.values[rung], -n) for n, t in plain.items() if rung in t.values), reverse=True
        )
        assert board.reached(rung) == len(there)
        assert board.sampled(rung) == [
            key for key in reversed(there) if key[1] and plain[-key[1]].state != "failed"
        ]
        assert not there or board.best_at(rung) == there[0][0]
        assert board.above(0.7, rung) == sum(value > 0.7 for value, _ in there)
        paused = [t for t in measured if t.state == "paused" and t.rung == rung]
        wanted = max(paused, key=lambda t: (t.values[rung], -t.number), default=None)
        found = board.best_paused(rung)
        assert (found and found.number) == (wanted and wanted.number)
        assert (rung in board.paused_at()) == bool(paused)


@given(HAPPENINGS, st.integers(1, 8))
def test_leaders_are_those_that_came_furthest(happenings, count):
    board, plain = played(happenings)

    def how_far(trial):
        return trial.rung, trial.values[trial.rung], -trial.number

    wanted = sorted((t for t in plain.values() if t.values), key=how_far, reverse=True)[:count]
    assert [t.number for t in board.leaders(count)] == [t.number for t in wanted]


@given(HAPPENINGS, st.integers(1, 8))
def test_a_board_of_a_plain_mapping_says_the_same_and_leaves_it_alone(happenings, count):
    board, plain = played(happenings)
    of = Board.of(plain)
    assert [t.number for t in of.leaders(count)] == [t.number for t in board.leaders(count)]
    assert (
        [t.number for t in of.newest(count)]
        == [t.number for t in board.newest(count)]
        == list(plain)[-count:]
    )
    assert Board.of(board) is board
    for trial in plain.values():
        trial.state = "paused"  # still its owner's
        trial.values = {9: 0.5}


def test_the_next_number_is_the_least_that_is_not_there():
    board = Board([Trial(0), Trial(2)])
    assert board.free == 1
    board.add(Trial(1))
    assert board.free == 3


def test_a_trial_that_changed_and_raised_stands_where_it_is_now():
    board = Board([Trial(0, "running")])
    with suppress(KeyError), board.changing(board[0]):
        board[0].state = "paused"
        raise KeyError
    assert (board.count("running"), board.count("paused")) == (0, 1)


def test_a_value_on_few_rows_does_not_stand_above_one_on_more():
    board = Board()
    for number, values in enumerate(
        [{1: (0.95, 100)}, {1: (0.90, 100), 2: (0.91, 800), 3: (0.92, 800)}]
    ):
        board.add(Trial(number))
        for value, rows in values.values():
            measure(board, number, value, rows)
    assert (board[0].best, board[1].best) == (0.95, 0.92)
    assert board.best is board[1]
    assert board.best_score == (800, 0.92)
    assert board.best_at(1) == 0.95  # at one rung all read the same
