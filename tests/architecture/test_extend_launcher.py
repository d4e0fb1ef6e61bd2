"""Adds a launcher, as docs/development.md describes it, and runs the launchers' suite on it."""

from __future__ import annotations

import inspect
import queue
import re
import threading
from pathlib import Path

import pytest
from contracts import test_launchers as suite

from embsearch.launch.base import Ending, Job, Message
from embsearch.worker import Worker

PACKAGE = Path(__file__).parents[2] / "embsearch"


class Threaded:
    """One slot in a thread of this process, so that the coordinator does not wait while it trains."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._messages: queue.Queue[Message] = queue.Queue()
        self._busy = False

    @property
    def workers(self) -> int:
        return 1

    @property
    def idle(self) -> list[int]:
        return [] if self._busy or self._worker.halting else [0]

    def submit(self, slot: int, job: Job) -> None:
        if slot not in self.idle:
            raise RuntimeError(f"slot {slot} is not idle")
        self._busy = True
        threading.Thread(target=self._run, args=(job,), daemon=True).start()

    def _run(self, job: Job) -> None:
        for message in self._worker(job):
            self._messages.put(message)

    def wait(self, timeout: float) -> list[tuple[int, Message]]:
        try:
            message = self._messages.get(timeout=timeout)
        except queue.Empty:
            return []
        if isinstance(message, Ending):
            self._busy = False
        return [(0, message)]

    def halt(self) -> None:
        self._worker.halting = True

    def close(self) -> None:
        self._worker.close()


# The suite's fixtures: its data, its jobs, its reference. ``launcher`` is ours.
for name in ("config", "cache", "evaluate", "segment", "reference"):
    globals()[name] = getattr(suite, name)


@pytest.fixture(scope="module")
def launcher():
    made = Threaded(Worker())
    yield made
    made.close()


# The suite's tests of every launcher are those that take one.
for name, test in vars(suite).items():
    if name.startswith("test_") and "launcher" in inspect.signature(test).parameters:
        globals()[name] = test


def test_the_suite_was_found():
    found = [name for name in globals() if name.startswith("test_")]
    assert len(found) >= 8


def test_no_more_than_three_files_know_a_launcher_by_name():
    """Inline is the smallest: its own file, its settings, and the line that makes it."""
    knowing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if re.search(r"\bInline(Config)?\b", path.read_text(encoding="utf-8")):
            knowing.append(path.relative_to(PACKAGE).as_posix())
    assert knowing == ["cli/launchers.py", "config/launchers.py", "launch/inline.py"]
