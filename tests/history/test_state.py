"""What events do to a study's state, where the recorded logs do not show it."""

from __future__ import annotations

from helpers import event

from embsearch.history.events import encode
from embsearch.history.state import StudyState

SEGMENT = {"trial": 0, "attempt": 0, "from_checkpoint": 0, "until": 1}


def measured(value, rung=1, **more):
    """Return an evaluation with this value."""
    fields = {"rung": rung, "step": rung, "texts_seen": rung, "seconds": 1.0}
    return event("measured", metrics={"val/auc": value}, **fields, **more)


def state_of(*log):
    """Return the state after these events of trial 0."""
    state = StudyState("auc")
    state.apply(event("created", trial=0, params={}), 0)
    for one in log:
        state.apply(one, 0)
    return state


def test_a_rung_is_measured_once():
    state = state_of(measured(0.5), measured(0.9))
    assert (dict(state.trials[0].values), state.trials.best_score) == ({1: 0.5}, (0, 0.5))


def test_a_trial_is_created_once():
    state = state_of(measured(0.5), event("created", trial=0, params={"train.lr": 1.0}))
    assert (state.trials[0].params, state.trials[0].best) == ({}, 0.5)


def test_events_of_a_trial_without_a_beginning_are_passed_over():
    state = StudyState("auc")
    state.apply(measured(0.5), 3)
    assert len(state.trials) == 0


def test_a_trial_that_nobody_trains_any_more_waits():
    state = state_of(event("segment", segment=SEGMENT))
    assert state.trials.count("running") == 1
    state.release_all()
    assert [trial.number for trial in state.trials.in_state("waiting")] == [0]


def test_the_logs_may_be_read_in_any_order():
    logs = {0: [event("created", trial=0, params={}), measured(0.5, last=True, why="end")]}
    study = [event("told", trial=0, state="complete", value=0.5)]
    logs[0].append(event("ended", state="complete", reason="end", value=0.5))
    late = StudyState("auc").apply_all(study, logs)
    early = StudyState("auc")
    early.apply(study[0])
    early.apply_all([], logs)
    assert (late.unsettled, early.unsettled) == ({}, {})
    assert late.trials[0] == early.trials[0]


def test_what_a_model_costs_is_known_from_the_first_evaluation_on():
    first = measured(0.5, costs={"size": 20.0})
    state = state_of(first, measured(0.6, rung=2))
    assert state.trials[0].costs == {"size": 20.0}
    assert encode(first)["costs"] == {"size": 20.0}
    assert "costs" not in encode(measured(0.6, rung=2))
