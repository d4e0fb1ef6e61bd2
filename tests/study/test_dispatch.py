"""Jobs to slots: what goes out again, what comes back, what is said."""

from __future__ import annotations

import signal

import pytest

from embsearch.history.trial import RETRIES
from embsearch.launch.base import (
    Died,
    Evaluated,
    EvaluateJob,
    Failed,
    Halted,
    Measured,
    Note,
    Points,
    Ready,
    TrainJob,
)  # fmt: skip
from embsearch.study.dispatch import Dispatch, Returned
from embsearch.study.stopping import Interrupted, Stopping
from embsearch.values import Measurement, Segment

JOB = EvaluateJob("valid", {}, "")
TRAIN = TrainJob(Segment(0, 0, 0, 1), {}, "", "")
DONE = Evaluated({"auc": 0.9}, "cpu", 1.0)
KILLED = Died("killed", "worker 0 was killed\nby signal 9")
HUNG = Died("hung", "worker 0 said nothing for 60 s")


class Scripted:
    """A launcher whose slots answer each job with the next of their lists of messages."""

    def __init__(self, *slots):
        self.workers, self._answers = len(slots), [list(answers) for answers in slots]
        self.idle, self.submitted, self._waiting = list(range(self.workers)), [], []

    def submit(self, slot, job):
        self.idle.remove(slot)
        self.submitted.append((slot, job))
        answers = self._answers[slot].pop(0)
        self._waiting += [(slot, message) for message in answers]

    def wait(self, timeout):
        messages, self._waiting = self._waiting, []
        ends = (Measured, Evaluated, Halted, Failed, Died)
        self.idle = sorted([*self.idle, *(slot for slot, one in messages if isinstance(one, ends))])
        return messages

    def halt(self):
        pass

    def close(self):
        pass


def heard(desk, count=10):
    """Return all that anybody has to act on."""
    found = [desk.hear(0.0) for _ in range(count)]
    return [one for one in found if one is not None]


@pytest.mark.parametrize("end", [KILLED, HUNG, Failed("checkpoint", "no such file")])
def test_a_job_whose_worker_died_goes_out_again_a_few_times_then_its_end_is_returned(end):
    most = RETRIES[end.failure]
    launcher = Scripted([[end]] * (most + 1))
    said = []
    desk = Dispatch(launcher, say=said.append, describe=lambda name: f"job {name}")
    assert desk.ask({0: ("a", JOB)}) == {0: end}
    assert launcher.submitted == [(0, JOB)] * (most + 1)
    assert said == [f"job a: {end.message.splitlines()[0]}"] * (most + 1)


def test_a_job_that_is_done_at_last_has_its_answer():
    launcher = Scripted([[KILLED], [KILLED], [DONE]])
    assert Dispatch(launcher).ask({0: ("a", JOB)}) == {0: DONE}


def test_deaths_are_counted_for_each_job_and_each_failure():
    most = RETRIES["killed"]
    slots = [[KILLED]] * most + [[HUNG], [DONE]], [[DONE]]
    assert Dispatch(Scripted(*slots)).ask({0: ("a", JOB), 1: ("b", JOB)}) == {0: DONE, 1: DONE}


def test_a_failure_that_another_try_does_not_mend_is_returned_at_once():
    failed = Failed("bug", "ValueError")
    launcher = Scripted([[failed]])
    assert Dispatch(launcher).ask({0: ("a", JOB)}) == {0: failed}


def test_where_deaths_are_counted_by_the_log_every_one_is_returned():
    desk = Dispatch(Scripted([[KILLED]]))
    desk.give(0, "a", TRAIN)
    assert heard(desk) == [("a", KILLED)]


def test_a_halted_job_comes_back_as_returned():
    desk = Dispatch(Scripted([[Points(()), Halted()]]))
    desk.give(0, "a", TRAIN)
    assert heard(desk) == [("a", Points(())), ("a", Returned())]
    assert (desk.given, desk.idle) == (set(), [0])


def test_a_worker_that_died_while_the_study_halts_comes_back_as_halted():
    stopping = Stopping(grace=60)
    desk = Dispatch(Scripted([[KILLED]]), stopping)
    desk.give(0, "a", TRAIN)
    with stopping.heard(lambda: None):
        signal.raise_signal(signal.SIGTERM)
    assert heard(desk) == [("a", Returned())]


def test_an_interrupted_study_gives_out_nothing_more():
    stopping = Stopping(grace=60)
    stopping.asked = True
    launcher = Scripted([[DONE]])
    with pytest.raises(Interrupted):
        Dispatch(launcher, stopping).ask({0: ("a", JOB)})
    assert launcher.submitted == []


def test_notes_are_said_and_nobody_acts_by_them():
    said = []
    desk = Dispatch(Scripted([[Ready(), Note("waiting in the queue"), DONE]]), say=said.append)
    desk.give(0, "a", JOB)
    assert heard(desk) == [("a", DONE)]
    assert said == ["waiting in the queue"]


def test_messages_of_a_slot_without_a_job_are_passed_over():
    launcher = Scripted([[DONE]])
    desk = Dispatch(launcher)
    launcher.submit(0, JOB)  # of a session before
    assert heard(desk) == []


def test_a_slot_has_one_job_until_its_end():
    launcher = Scripted([[]], [[]])
    desk = Dispatch(launcher)
    desk.give(1, "b", JOB)
    launcher.idle = [0, 1]  # as launchers have it whose worker is not there yet
    assert (desk.idle, desk.given) == ([0], {"b"})


def test_what_came_with_others_is_heard_one_by_one():
    measured = Measured(Measurement(1, 1, 1, {}, 1.0))
    desk = Dispatch(Scripted([[measured]], [[DONE]]))
    desk.give(0, "a", TRAIN)
    desk.give(1, "b", JOB)
    assert not desk.unheard
    assert desk.hear() == ("a", measured)
    assert desk.unheard
    assert desk.hear() == ("b", DONE)
    assert not desk.unheard
