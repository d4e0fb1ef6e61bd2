"""The event log: the one truth, of which Optuna's database and MLflow are views.

``events.jsonl`` is append-only; each line is a whole JSON object with ``seq`` (counted from
0), ``time`` (Unix milliseconds) and ``kind``. A torn end (power cut, full disk) is dropped on
reading and cut off before the next append; damage further up is refused, because cutting there
would take whole events with it.

A study has one log and each of its trials has one; docs/reference/events.md lists the kinds and their fields.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from embsearch import disk
from embsearch.errors import StudyError
from embsearch.values import Clock

Event = dict[str, Any]


class EventLog:
    """One append-only log. One process writes it; any number may read it."""

    def __init__(self, path: Path, clock: Clock = time) -> None:
        self.path, self._clock = path, clock
        self._next = -1

    def append(self, kind: str, /, **content: Any) -> Event:
        """Write one event durably and return it. Raises OSError (disk full) with the log whole."""
        if self._next < 0:
            self._next = self._mend()
        event: Event = {"seq": self._next, "time": int(self._clock.time() * 1000), "kind": kind, **content}
        line = json.dumps(event, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
        with self.path.open("ab", buffering=0) as file:  # a buffer would be written again on closing
            at = file.tell()
            try:
                left = memoryview(line.encode())
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError as error:
                os.truncate(self.path, at)
                raise OSError(error.errno, error.strerror, str(self.path)) from error
        if at == 0:
            disk.settle(self.path.parent)
        self._next += 1
        return event

    def _mend(self) -> int:
        """Cut a torn end off; the next sequence number."""
        disk.make_folder(self.path.parent)
        if not self.path.exists():
            return 0
        events, end = _read(self.path)
        if end < self.path.stat().st_size:
            with self.path.open("r+b") as file:
                file.truncate(end)
                os.fsync(file.fileno())
        return events[-1]["seq"] + 1 if events else 0


def read_events(path: Path) -> list[Event]:
    """All whole events of a log, oldest first; none where there is no log. Raises StudyError."""
    return _read(path)[0] if path.exists() else []


def _read(path: Path) -> tuple[list[Event], int]:
    """The whole events, and the byte where they end."""
    events: list[Event] = []
    end, torn = 0, 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        event = whole(line)
        if event is None:
            torn = torn or number
        elif torn:
            raise StudyError(
                f"{path}, line {torn}: not an event, and whole ones follow, so no crash did it. Put the file back "
                f"from a copy, or delete the lines from {torn} on: the study then goes on from there"
            )
        else:
            events.append(event)
            end += len(line)
    return events, end


def whole(line: bytes) -> Event | None:
    """The event of a line with its end; None for anything else."""
    if not line.endswith(b"\n"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"seq", "time", "kind"} <= event.keys() else None


def _plain(value: Any) -> Any:
    """numpy numbers and paths as JSON."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON: {value!r}")
