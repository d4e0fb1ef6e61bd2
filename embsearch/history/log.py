"""The event log: the one truth, of which Optuna's database and MLflow are views.

``events.jsonl`` is append-only; each line is a whole JSON object with ``seq`` (counted from
0), ``time`` (Unix milliseconds) and ``kind``. A torn end (power cut, full disk) is dropped on
reading and cut off before the next append. Damage further up is refused, because cutting there
would take whole events with it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TypeVar, cast

from embsearch import disk
from embsearch.codec import JsonObject
from embsearch.errors import StudyError
from embsearch.history.events import Event, decode, encode
from embsearch.values import Clock

E = TypeVar("E", bound=Event)


class EventLog:
    """One append-only log. One process writes it; any number may read it."""

    def __init__(self, path: Path, clock: Clock = time) -> None:
        self.path, self._clock = path, clock
        self._next = -1

    def append(self, event: E, spent: float | None = None) -> E:
        """Write one event durably and return it with its place. Raises OSError (disk full) with the
        log whole.
        """
        if self._next < 0:
            self._next = self._mend()
        placed = event.at(self._next, int(self._clock.time() * 1000), spent)
        line = (
            json.dumps(encode(placed), ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
        )
        with self.path.open(
            "ab", buffering=0
        ) as file:  # a buffer would be written again on closing
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
        return cast(E, placed)

    def _mend(self) -> int:
        """Cut a torn end off; return the next sequence number."""
        disk.make_folder(self.path.parent)
        if not self.path.exists():
            return 0
        lines, end = _read(self.path)
        if end < self.path.stat().st_size:
            with self.path.open("r+b") as file:
                file.truncate(end)
                os.fsync(file.fileno())
        return lines[-1]["seq"] + 1 if lines else 0


class LogTail:
    """The events of one log that were not read yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read(self) -> list[Event]:
        """Return new whole events, oldest first. A torn last line is left for the next call."""
        try:
            if self.path.stat().st_size <= self._offset:
                return []
        except FileNotFoundError:
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        events: list[Event] = []
        for line in data.splitlines(keepends=True):
            content = parse_line(line)
            if content is None:
                break  # torn: its writer cuts it off before it appends again
            events.append(decode(content))
            self._offset += len(line)
        return events


def read_events(path: Path) -> list[Event]:
    """Return all whole events of a log, oldest first; none where there is no log. Raises
    StudyError.
    """
    return [decode(content) for content in read_json(path)]


def read_json(path: Path) -> list[JsonObject]:
    """Return the events of a log as the JSON objects of its lines. Raises StudyError."""
    return _read(path)[0] if path.exists() else []


def _read(path: Path) -> tuple[list[JsonObject], int]:
    """Return the whole lines, and the byte where they end."""
    lines: list[JsonObject] = []
    end, torn = 0, 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        content = parse_line(line)
        if content is None:
            torn = torn or number
        elif torn:
            raise StudyError(
                f"{path}, line {torn}: not an event, and whole ones follow, so no crash did it. Put the file back "
                f"from a copy, or delete the lines from {torn} on: the study then goes on from there"
            )
        else:
            lines.append(content)
            end += len(line)
    return lines, end


def parse_line(line: bytes) -> JsonObject | None:
    """Return the event of a line with its end as JSON; None for anything else."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return (
        content if isinstance(content, dict) and {"seq", "time", "kind"} <= content.keys() else None
    )


def _plain(value: object) -> object:
    """Return numpy numbers and paths as JSON has them."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON: {value!r}")
