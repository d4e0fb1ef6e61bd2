"""Slots whose workers are elsewhere: the bookkeeping that every such launcher needs, once.

A ``Pool`` knows which slot has which job, which worker is silent, and which slot wants another
worker. A ``Transport`` knows how to start a worker, reach it and end it: as a process of this
machine (local.py), a Ray actor (ray/launcher.py) or a Slurm job (slurm/launcher.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from embsearch.launch.base import Died, Ending, Halted, Job, Message, Note, Ready

TRIES = 3  # workers in a row that may end before they are ready: more would end the same way
AGAIN = 5.0  # seconds until a worker that could not be started is tried again
PAUSE = 60.0  # seconds between two workers of a slot whose workers end before they are ready


@dataclass(frozen=True)
class Gone:
    """The end of a slot's worker. The slot needs another."""

    message: str


@dataclass(frozen=True)
class Left:
    """The end of a worker that comes back by itself, or whose end is still to be told."""

    message: str


@dataclass(frozen=True)
class Alive:
    """A worker that cannot speak and is not to be taken for dead, such as one that is suspended."""


Event = Message | Gone | Left | Alive


class Transport(Protocol):
    """The way to a pool's workers. It has started all of them when the pool gets it."""

    @property
    def queues_jobs(self) -> bool:
        """Say whether a worker may be sent a job before it is ready."""

    @property
    def blocked(self) -> bool:
        """Say whether no worker may be sent a job now."""

    def start(self, slots: Sequence[int]) -> list[int]:
        """Start a fresh worker for each slot, and return the slots that have one now."""

    def send(self, slot: int, job: Job) -> None:
        """Give a worker a job. One that is dead is told by ``receive``."""

    def receive(self, timeout: float) -> list[tuple[int, Event]]:
        """Return what came, oldest first. Waits at most ``timeout`` seconds, perhaps less."""

    def kill(self, slot: int, why: str) -> bool:
        """End a silent worker, and return whether that could be done. Its ``Gone`` says why."""

    def give_up(self, slot: int, others: bool) -> None:
        """Raise UserError where a slot whose workers end before they are ready ends the study.

        ``others``: whether any other slot has a worker that is ready.
        """

    def halt(self) -> None:
        """Ask every worker to save its checkpoint and end. May be called by a signal handler."""

    def close(self) -> None:
        """Stop every worker now."""


@dataclass
class Slot:
    """The place of one worker, and the job that it has."""

    heard: float  # when the worker was last heard of, on the monotonic clock
    ready: bool = False  # it takes jobs
    served: bool = False  # it has been ready at some time
    job: Job | None = None
    hung: bool = False  # it was killed because it was silent
    missing: bool = False  # it has ended and there is no other yet
    failures: int = 0  # workers in a row that ended before they were ready
    start_at: float = 0.0  # when the next worker may be started


class Pool:
    """A launcher whose workers are reached by a transport.

    ``timeout``: seconds in which a worker with a job must say something; else it is killed.
    """

    def __init__(self, transport: Transport, workers: int, timeout: float) -> None:
        self.transport = transport
        self._timeout = timeout
        self._halting = False
        self._slots = [self._fresh(failures=0) for _ in range(workers)]

    @property
    def workers(self) -> int:
        return len(self._slots)

    @property
    def idle(self) -> list[int]:
        if self._halting or self.transport.blocked:
            return []
        return [i for i, slot in enumerate(self._slots) if slot.ready and slot.job is None]

    def submit(self, slot: int, job: Job) -> None:
        place = self._slots[slot]
        if not place.ready or place.job is not None:
            raise RuntimeError(f"slot {slot} is not idle")
        place.job, place.hung, place.heard = job, False, time.monotonic()
        self.transport.send(slot, job)

    def wait(self, timeout: float) -> list[tuple[int, Message]]:
        found: list[tuple[int, Message]] = []
        until = time.monotonic() + timeout
        while True:
            left = max(0.0, until - time.monotonic())
            for index, event in self.transport.receive(left):
                found += [(index, message) for message in self._take(index, event)]
            self._kill_silent()
            self._start_missing()
            if found or time.monotonic() >= until:
                return found

    def halt(self) -> None:
        self._halting = True
        self.transport.halt()

    def close(self) -> None:
        self.transport.close()

    def _take(self, index: int, event: Event) -> list[Message]:
        """Write down what came of a slot, and return what the coordinator is told."""
        if isinstance(event, Note):
            return [event]
        slot = self._slots[index]
        slot.heard = time.monotonic()
        match event:
            case Alive():
                return []
            case Left():
                slot.ready = False
                return [] if slot.job is None else [self._died(slot, event.message)]
            case Gone():
                return [self._gone(index, event.message)]
            case Ready():
                slot.ready = slot.served = True
                slot.failures = 0
                return [event]
        if slot.job is None:
            return []  # of a job whose end was told
        if isinstance(event, Ending):
            slot.job = None
            slot.ready = not isinstance(event, Halted)
        return [event]

    def _died(self, slot: Slot, message: str) -> Died:
        idle = slot.job is None
        slot.job = None
        return Died("hung" if slot.hung else "killed", message, idle)

    def _gone(self, index: int, message: str) -> Died:
        """Let the slot have another worker. Raises UserError where too many ended at once."""
        slot = self._slots[index]
        died = self._died(slot, message)
        slot.ready, slot.missing = False, True
        slot.failures = 0 if slot.served else slot.failures + 1
        if slot.failures >= TRIES:
            self.transport.give_up(index, any(other.ready for other in self._slots))
            slot.start_at = slot.heard + PAUSE
        return died

    def _kill_silent(self) -> None:
        now = time.monotonic()
        for index, slot in enumerate(self._slots):
            if slot.job is None or slot.hung or now - slot.heard <= self._timeout:
                continue
            why = f"gave no sign of life for {self._timeout:g} s"
            slot.hung = self.transport.kill(index, why)

    def _start_missing(self) -> None:
        now = time.monotonic()
        missing = [i for i, s in enumerate(self._slots) if s.missing and now >= s.start_at]
        if self._halting or not missing:
            return
        for index in missing:
            self._slots[index].start_at = now + AGAIN
        for index in self.transport.start(missing):
            self._slots[index] = self._fresh(self._slots[index].failures)

    def _fresh(self, failures: int) -> Slot:
        return Slot(time.monotonic(), ready=self.transport.queues_jobs, failures=failures)
