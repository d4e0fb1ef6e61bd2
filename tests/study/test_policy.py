"""What follows in a study, by events alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from helpers import event

from embsearch.config.build import build
from embsearch.history import events
from embsearch.history.final_table import shown
from embsearch.history.state import StudyState
from embsearch.hpo import scheduler
from embsearch.study.actions import (
    BASELINE,
    Close,
    Evaluate,
    Log,
    Moment,
    Stop,
    Suggest,
    Train,
    Wait,
)  # fmt: skip
from embsearch.study.policy import Policy
from embsearch.study.result import nothing_left, result_of

AT = [0.1, 0.3, 1.0]


def policy(**rooms):
    config = {
        "evaluate": {"at": AT}, "scheduler": {"name": "none"}, "stop": {"trials": 3}, "confirm": {"top_k": 0},
    }  # fmt: skip
    made = build(config | rooms)
    return Policy(made, scheduler.make(made))


def begun(*trials):
    """Return the state of a study whose trials have these logs."""
    state = StudyState("auc")
    state.apply(event("baseline", metrics={"auc": 0.5}))
    for number, log in enumerate(trials):
        state.apply(event("created", trial=number, params={}), number)
        for one in log:
            state.apply(one, number)
    return state


def segment(number, slot=0, at=0):
    where = {"trial": number, "attempt": 0, "from_checkpoint": at, "until": at + 1}
    return event("segment", segment=where, slot=slot)


def measured(rung, value, **more):
    fields = {"rung": rung, "step": rung, "texts_seen": rung, "seconds": 1.0}
    return event("measured", metrics={"val/auc": value}, **fields, **more)


def ended(value=0.9):
    return event("ended", state="complete", reason="budget spent", value=value)


def whole(number, value):
    """Return the log of a trial that came to its end."""
    last = {"last": True, "why": "budget spent"}
    return [segment(number), measured(3, value, **last), ended(value)]


def told(state):
    """Let the study's log tell the ends."""
    for number in list(state.unsettled):
        state.apply(event("told", trial=number, state="complete", value=0.9))
    return state


def test_the_untuned_encoder_is_measured_first_and_once():
    state = StudyState("auc")
    assert policy().due(state, Moment(0.0, [0, 1])) == Evaluate(0, "baseline")
    assert policy().due(state, Moment(0.0, [1], {BASELINE})) == Suggest(0)


def test_exactly_as_many_trials_begin_as_were_asked_for_however_many_slots_are_idle():
    state, mine, idle = begun(), policy(stop={"trials": 3}), list(range(64))
    created = given = 0
    for _ in range(200):
        match mine.due(state, Moment(0.0, idle, {("train", n, 0) for n in range(given)})):
            case Suggest(number):
                state.apply(event("created", trial=number, params={}), number)
                created += 1
            case Train(slot, work):
                state.apply(event("segment", segment=vars(work), slot=slot), work.trial)
                idle.remove(slot)
                given += 1
            case Wait():
                break
            case other:
                raise AssertionError(other)
    assert (created, given, len(idle)) == (3, 3, 61)


def test_a_number_whose_log_was_lost_is_suggested_again():
    state = begun([segment(0)])
    state.apply(event("created", trial=2, params={}), 2)
    state.apply(segment(2, slot=1), 2)
    assert policy().due(state, Moment(0.0, [2], {("train", 0, 0), ("train", 2, 0)})) == Suggest(1)


def test_a_waiting_trial_goes_on_where_its_worker_is_warm():
    state = begun(
        [segment(0, slot=1), measured(1, 0.5), event("decided", decision="continue", reason="r")]
    )
    action = policy().due(state, Moment(0.0, [0, 1]))
    assert (action.slot, action.segment.trial, action.segment.until) == (1, 0, 2)


def test_a_measurement_is_compared_and_then_decided_before_anything_else():
    state = begun([segment(0), measured(1, 0.5)])
    action = policy().due(state, Moment(0.0, [0]))
    assert isinstance(action, Log)
    assert isinstance(action.event, events.Decided)
    assert (action.trial, action.event.decision) == (0, "continue")


def test_a_trial_at_its_end_is_ended_and_then_told():
    state, mine = begun(whole(0, 0.9)[:2]), policy()
    action = mine.due(state, Moment(0.0, [0]))
    assert (action.event.kind, action.event.state, action.event.value) == ("ended", "complete", 0.9)
    state.apply(action.event, 0)
    action = mine.due(state, Moment(0.0, [0]))
    assert (action.trial, action.event.kind, action.event.trial) == (None, "told", 0)
    state.apply(action.event)
    assert mine.due(state, Moment(0.0, [0])) == Suggest(1)


def test_with_seeds_every_run_is_trained_before_their_mean_is_logged():
    mine = policy(study={"seeds": 3, "name": "s"})
    state = begun([segment(0, at=0), measured(1, 0.5), event("decided", decision="continue", reason="r"),
                   measured(2, 0.6, seeds=3)])  # fmt: skip
    for seed in (1, 2):
        action = mine.due(state, Moment(0.0, [0]))
        assert (action.segment.seed, action.segment.until) == (seed, 2)
        state.apply(event("repeated", rung=2, step=2, texts_seen=2, seconds=1.0, seed=seed, seeds=3,
                          metrics={"val/auc": 0.6 + seed / 10}), 0)  # fmt: skip
    action = mine.due(state, Moment(0.0, [0]))
    assert (action.event.kind, action.event.values) == ("compared", [0.6, 0.7, 0.8])


def test_when_the_time_is_up_the_running_segments_are_the_last():
    mine = policy(stop={"trials": 9, "seconds": 100})
    state = begun([segment(0)])
    assert mine.due(state, Moment(101.0, [1], {("train", 0, 0)})) == Wait()
    state.apply(measured(1, 0.5), 0)
    action = mine.due(state, Moment(101.0, [0, 1]))
    assert (action.event.kind, action.event.decision) == ("decided", "stop")
    assert action.event.reason.startswith("stop.seconds: ")


def test_who_asks_to_stop_waits_for_what_runs_and_no_longer_than_he_likes():
    state = begun([segment(0)])
    given = {("train", 0, 0)}
    assert policy().due(state, Moment(0.0, [1], given, stopping=True)) == Wait()
    assert policy().due(state, Moment(0.0, [0, 1], stopping=True)) == Stop()
    assert policy().due(state, Moment(0.0, [1], given, stopping=True, late=True)) == Stop()


def test_messages_that_have_come_are_heard_before_slots_get_more():
    assert policy().due(begun(), Moment(0.0, [0], unheard=True)) == Wait()


def test_before_a_slot_is_there_a_study_waits():
    assert policy().due(begun(), Moment(0.0)) == Wait()


def test_each_row_of_the_table_is_measured_once_and_then_the_study_closes():
    mine = policy(stop={"trials": 2})
    state = told(begun(whole(0, 0.8), whole(1, 0.9)))
    rows = [("untuned encoder", None), ("default configuration", 0), ("best trial", 1)]
    for label, trial in rows:
        assert mine.due(state, Moment(0.0, [0])) == Evaluate(0, label, trial)
        assert mine.due(state, Moment(0.0, [], {("evaluate", label)})) == Wait()
        state.apply(event("tested", label=label, trial=trial))
    assert mine.due(state, Moment(0.0, [0])) == Close("stop.trials: all 2 trials exist", 1, ())


def test_a_failure_goes_out_again_until_it_is_given_up():
    killed = event("failed", failure="killed", message="worker 0 was killed")
    state, mine = begun(), policy(stop={"trials": 1})
    state.apply(event("created", trial=0, params={}), 0)
    for attempt in range(4):
        action = mine.due(state, Moment(0.0, [0]))
        assert (action.segment.trial, action.segment.attempt) == (0, attempt)
        state.apply(event("segment", segment=vars(action.segment), slot=0), 0)
        failed = {"failure": "killed", "message": killed.message, "attempt": attempt}
        state.apply(event("failed", **failed), 0)
    action = mine.due(state, Moment(0.0, [0]))
    assert (action.event.kind, action.event.state, action.event.failure) == (
        "ended",
        "failed",
        "killed",
    )


def test_every_given_point_has_its_row_in_the_table():
    mine = policy(stop={"trials": 4})
    state = told(begun(whole(0, 0.8), [], whole(2, 0.95)))
    state.apply(event("created", trial=3, params={}, origin="given"), 3)
    for one in whole(3, 0.9):
        state.apply(one, 3)
    for one in whole(1, 0.7):
        state.apply(one, 1)
    told(state)
    found = []
    while isinstance(action := mine.due(state, Moment(0.0, [0])), Evaluate):
        found.append((action.label, action.trial))
        state.apply(event("tested", label=action.label, trial=action.trial))
    assert found == [
        ("untuned encoder", None), ("default configuration", 0), ("given point 3", 3), ("best trial", 2)
    ]  # fmt: skip


def test_a_given_point_that_won_is_tested_once_and_its_row_says_that_it_is_both():
    mine = policy(stop={"trials": 2})
    state = told(begun(whole(0, 0.9), whole(1, 0.8)))
    for label, trial in (("untuned encoder", None), ("best trial", 0)):
        assert mine.due(state, Moment(0.0, [0])) == Evaluate(0, label, trial)
        state.apply(event("tested", label=label, trial=trial))
    end = mine.due(state, Moment(0.0, [0]))
    assert isinstance(end, Close)
    table = result_of("s", state, end.why, state.trials[0], [], 1.0).table
    assert [shown(row) for row in table] == [
        "untuned encoder",
        "best trial (0),\ndefault configuration",
    ]


def test_the_winner_has_the_best_value_wherever_it_was_reached():
    pruned = [segment(1), measured(1, 0.9), event("ended", state="pruned", reason="r", value=0.9)]
    state = told(begun(whole(0, 0.8), pruned))
    for label, trial in (
        ("untuned encoder", None),
        ("default configuration", 0),
        ("best trial", 1),
    ):
        state.apply(event("tested", label=label, trial=trial))
    close = policy(stop={"trials": 2}).due(state, Moment(0.0, [0]))
    assert (close.best, state.leader.number) == (1, 1)


def test_the_last_seconds_finish_the_best_paused_trial():
    """A whole trial takes 2.5 seconds; trial 2 is ahead of trial 1, and 2.25 bring it to its end."""
    mine = policy(stop={"trials": 9, "seconds": 100}, scheduler={"name": "promotion"})
    pause = event("decided", decision="pause", reason="r")
    paused = ([segment(n), measured(1, 0.6 + n / 10), pause] for n in (1, 2))
    state = told(begun(whole(0, 0.5), *paused))
    assert mine.due(state, Moment(50.0, [0])) == Suggest(3)
    action = mine.due(state, Moment(97.6, [0]))
    assert (action.trial, action.event.decision) == (2, "continue")
    assert action.event.reason == "stop.seconds: 2 s are left, and its end takes 2 s"
    assert mine.due(state, Moment(98.0, [0])) == Suggest(3)  # too late for any end


@pytest.mark.parametrize(("value", "won"), [(0.9005, 0), (0.902, 0), (0.92, 1)])
def test_a_given_point_that_is_nearly_as_good_wins(value, won):
    state = told(begun(whole(0, 0.9), whole(1, value)))
    rows = [("untuned encoder", None), ("default configuration", 0), ("best trial", won)]
    for label, trial in rows:
        state.apply(event("tested", label=label, trial=trial))
    assert policy(stop={"trials": 2}).due(state, Moment(0.0, [0])).best == won


def test_a_target_that_was_reached_is_reached_also_where_a_given_point_won_in_doubt():
    mine = policy(stop={"trials": 9, "target": 0.902})
    state = told(begun(whole(0, 0.9), whole(1, 0.902)))
    for label, trial in (
        ("untuned encoder", None),
        ("default configuration", 0),
        ("best trial", 0),
    ):
        state.apply(event("tested", label=label, trial=trial))
    end = mine.due(state, Moment(0.0, [0]))
    assert (end.best, end.why) == (0, "stop.target: 0.9020 reached 0.902")
    result = result_of("s", state, end.why, state.trials[0], [], 1.0)
    state.apply(event("closed", why=end.why, best=0, result=vars(result)))
    locked = SimpleNamespace(read_locked=lambda: {"config": {}})
    assert nothing_left(mine.config, locked, state)
    longer = policy(stop={"trials": 9, "target": 0.95})
    assert not nothing_left(longer.config, locked, state)
