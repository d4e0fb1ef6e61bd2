"""The bookkeeping of slots, on a transport whose workers do what the test says."""

from __future__ import annotations

import pytest

from embsearch.errors import UserError
from embsearch.launch import pool
from embsearch.launch.base import Died, Halted, Note, Points, Probed, ProbeJob, Ready
from embsearch.launch.pool import AGAIN, PAUSE, TRIES, Alive, Gone, Left, Pool

JOB = ProbeJob("speed", {}, "", "")
DONE = Probed({})


class Scripted:
    """A transport that brings what it is told to bring."""

    queues_jobs = False
    blocked = False

    def __init__(self):
        self.coming, self.sent, self.killed, self.started = [], [], [], []
        self.refuses = self.halted = False

    def start(self, slots):
        self.started += [] if self.refuses else slots
        return [] if self.refuses else list(slots)

    def send(self, slot, job):
        self.sent.append((slot, job))

    def receive(self, timeout):
        coming, self.coming = self.coming, []
        return coming

    def kill(self, slot, why):
        self.killed.append((slot, why))
        return True

    def give_up(self, slot, others):
        if not others:
            raise UserError(f"slot {slot}")

    def halt(self):
        self.halted = True

    def close(self):
        pass


class Hand:
    """A clock that the test moves."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    hand = Hand()
    monkeypatch.setattr(pool, "time", hand)
    return hand


@pytest.fixture
def made(clock):
    transport = Scripted()
    return Pool(transport, 2, timeout=30.0), transport


def tell(made, *events):
    """What the pool says of events of slot 0."""
    launcher, transport = made
    transport.coming = [(0, event) for event in events]
    return [message for _, message in launcher.wait(0.0)]


def test_a_slot_takes_a_job_once_its_worker_is_ready(made):
    launcher, transport = made
    with pytest.raises(RuntimeError, match="slot 0 is not idle"):
        launcher.submit(0, JOB)

    assert (tell(made, Ready()), launcher.idle) == ([Ready()], [0])
    launcher.submit(0, JOB)
    assert (launcher.idle, transport.sent) == ([], [(0, JOB)])
    assert (tell(made, DONE), launcher.idle) == ([DONE], [0])


def test_no_slot_is_idle_where_the_transport_is_blocked_or_the_study_halts(made):
    launcher, transport = made
    tell(made, Ready())
    transport.blocked = True
    assert launcher.idle == []
    transport.blocked = False
    launcher.halt()
    assert (launcher.idle, transport.halted) == ([], True)


def test_a_worker_that_has_halted_takes_no_job_until_it_is_ready_again(made):
    launcher, _ = made
    tell(made, Ready())
    launcher.submit(0, JOB)
    assert (tell(made, Halted()), launcher.idle) == ([Halted()], [])
    assert (tell(made, Ready()), launcher.idle) == ([Ready()], [0])


def test_what_comes_of_a_job_whose_end_was_told_is_passed_over(made):
    launcher, _ = made
    tell(made, Ready())
    launcher.submit(0, JOB)
    assert tell(made, Gone("it died"), Points(()), DONE) == [Died("killed", "it died")]


def test_only_a_job_makes_a_worker_that_comes_back_by_itself_worth_a_word(made):
    launcher, transport = made
    tell(made, Ready())
    assert tell(made, Left("requeued"), Ready()) == [Ready()]
    launcher.submit(0, JOB)
    assert tell(made, Left("requeued")) == [Died("killed", "requeued")]
    assert (launcher.idle, transport.started) == ([], [])


def test_a_worker_that_is_silent_in_a_job_is_killed_once_and_then_told(made, clock):
    launcher, transport = made
    tell(made, Ready())
    clock.now += 1000.0  # without a job it may be silent
    launcher.submit(0, JOB)
    clock.now += 29.0
    tell(made, Alive())
    clock.now += 29.0
    tell(made, Points(()))
    clock.now += 31.0
    assert (tell(made), tell(made)) == ([], [])
    assert transport.killed == [(0, "gave no sign of life for 30 s")]
    assert tell(made, Gone("it was killed")) == [Died("hung", "it was killed")]


def test_a_job_after_one_that_hung_starts_anew(made, clock):
    launcher, _ = made
    tell(made, Ready())
    launcher.submit(0, JOB)
    clock.now += 31.0
    tell(made)
    tell(made, Gone("it was killed"))
    tell(made, Ready())
    launcher.submit(0, JOB)
    assert tell(made, Gone("by SIGKILL")) == [Died("killed", "by SIGKILL")]


def test_a_worker_without_a_job_is_told_as_idle_and_replaced_at_once(made):
    _, transport = made
    tell(made, Ready())
    assert tell(made, Gone("it ended")) == [Died("killed", "it ended", idle=True)]
    assert transport.started == [0]


def test_workers_that_are_never_ready_end_the_study_where_no_other_is(made):
    for _ in range(TRIES - 1):
        tell(made, Gone("no torch"))
    with pytest.raises(UserError, match="slot 0"):
        tell(made, Gone("no torch"))


def test_where_another_is_ready_such_a_slot_waits(made, clock):
    launcher, transport = made
    transport.coming = [(1, Ready())]
    launcher.wait(0.0)
    for _ in range(TRIES):
        tell(made, Gone("no torch"))
    assert transport.started == [0] * (TRIES - 1)

    clock.now += PAUSE - 1
    tell(made)
    assert transport.started == [0] * (TRIES - 1)
    clock.now += 1
    tell(made)
    assert transport.started == [0] * TRIES


def test_a_worker_that_was_ready_once_makes_earlier_failures_forgotten(made):
    for _ in range(TRIES + 1):
        tell(made, Gone("no room"))
        tell(made, Ready())
        tell(made, Gone("it ended"))
    assert made[1].started == [0] * (2 * TRIES + 2)


def test_a_start_that_is_refused_is_tried_again_some_seconds_later(made, clock):
    _, transport = made
    transport.refuses = True
    tell(made, Ready(), Gone("it ended"))
    transport.refuses = False
    clock.now += AGAIN - 0.5
    tell(made)
    assert transport.started == []
    clock.now += 0.5
    tell(made)
    assert transport.started == [0]


def test_a_study_that_halts_starts_no_worker(made):
    launcher, transport = made
    tell(made, Ready())
    launcher.halt()
    tell(made, Gone("as asked"))
    assert transport.started == []


def test_a_note_is_of_no_slot(made):
    launcher, transport = made
    transport.coming = [(-1, Note("2 wait"))]
    assert launcher.wait(0.0) == [(-1, Note("2 wait"))]
