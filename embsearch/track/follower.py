"""The common part of recorders: they read the logs as these grow, sync in the background, and try
later and later while their view does not answer.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from embsearch.config import secrets
from embsearch.history.log import LogTail
from embsearch.history.state import StudyState
from embsearch.track.mirror import StudyMirror, TrialMirror, trial_folders

EVERY = 2.0  # seconds between two looks at the logs
LONGEST_PAUSE = 60.0  # seconds between two tries while a view does not answer


@dataclass
class Followed:
    """One trial's log; recorders add what else their view already has."""

    folder: Path
    tail: LogTail
    mirror: TrialMirror
    sent: int = 0  # events wholly in the view


T = TypeVar("T", bound=Followed)


class Logs(Generic[T]):
    """A study's logs, and what they have said so far. ``make`` wraps a trial that is new."""

    def __init__(
        self, folder: Path, objective: str, make: Callable[[Path, LogTail, TrialMirror], T]
    ) -> None:
        self.state = StudyState(objective.removeprefix("val/"))
        self.study = StudyMirror(self.state)
        self.trials: dict[str, T] = {}
        self.sent = 0  # of the study's own events, those wholly in the view
        self._folder, self._objective, self._make = folder, objective, make
        self._tail = LogTail(folder / "events.jsonl")
        self._told = self._tested = 0  # what trials know of

    def read(self) -> None:
        """Take in what is new; what the study's log says about a trial goes to that trial."""
        self.study.fold(self._tail.read())
        for folder in trial_folders(self._folder):
            if folder.name not in self.trials:
                tail = LogTail(folder / "events.jsonl")
                self.trials[folder.name] = self._make(
                    folder, tail, TrialMirror(self._objective, self.state)
                )
            trial = self.trials[folder.name]
            if not trial.mirror.ended:
                trial.mirror.fold(trial.tail.read())
        by_number = {trial.mirror.number: trial.mirror for trial in self.trials.values()}
        told = list(self.study.told.values())
        for value in told[self._told :]:
            if value.trial in by_number:
                by_number[value.trial].told(value)
        for number, points in self.study.tested[self._tested :]:
            if number in by_number:
                by_number[number].tested(points)
        self._told, self._tested = len(told), len(self.study.tested)

    @property
    def unread(self) -> int:
        """1 for a study's log that is there and was not read yet."""
        return int(self.study.opened is None and self._tail.path.exists())

    @property
    def pending(self) -> int:
        """Events that the view lacks, one for a log not read yet."""
        trials = sum(trial.mirror.events - trial.sent for trial in list(self.trials.values()))
        return trials + self.study.events - self.sent + self.unread


class Follower(ABC):
    """A recorder's clockwork. ``view`` is what it keeps up to date, ``pending`` what that lacks."""

    view: str

    def __init__(self) -> None:
        self.problem = ""
        self._away = False
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def _sync(self) -> str:
        """Bring the view up to date; what it will never take, else the empty string. Raises what
        the view raises.
        """

    @property
    @abstractmethod
    def pending(self) -> int:
        """Events that the view should have and lacks."""

    def _lost(self) -> None:  # noqa: B027, most have nothing to do
        """Forget what may not hold any more, as the view has failed."""

    def start(self) -> None:
        """Sync in the background every two seconds."""
        self._thread = threading.Thread(target=self._run, name=f"{self.view} recorder", daemon=True)
        self._thread.start()

    def sync(self) -> int:
        """Bring the view up to date; the number of events it still lacks. Never raises."""
        with self._lock:
            try:
                self.problem = self._sync()
                self._away = False
            except Exception as error:
                self.problem = f"{self.view} does not take the study's record: {one_line(error)}"
                self._away = True
                self._lost()
            return self.pending

    def close(self, timeout: float = 30.0) -> int:
        """Sync a last time, then no more; return the number of events that the view lacks."""
        self._closing.set()
        if self._thread is None:
            return self.sync()
        self._thread.join(timeout)
        if self._thread.is_alive() and not self.problem:
            self.problem = f"{self.view} did not take everything within {timeout:.0f} s"
        return self.pending

    def _run(self) -> None:
        pause = EVERY
        while not self._closing.wait(pause):
            self.sync()
            pause = min(2 * pause, LONGEST_PAUSE) if self._away else EVERY
        self.sync()


def one_line(error: Exception) -> str:
    return secrets.masked(" ".join(str(error).split()) or type(error).__name__)[:300]
