"""The event log: the one truth, of which Optuna's database and MLflow are views.

``events.jsonl`` is append-only; each line is a whole JSON object with ``seq`` (counted from
0), ``time`` (Unix milliseconds) and ``kind``. A torn last line (power cut, full disk) is
dropped on reading and cut off before the next append.

A study has one log and each of its trials has one; docs/reference/events.md lists the kinds and their fields.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        with self.path.open("ab") as file:
            at = file.tell()
            try:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.path, at)
                raise
        self._next += 1
        return event

    def _mend(self) -> int:
        """Cut a torn last line off; the next sequence number."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return 0
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        events = list(_parse(whole))
        kept = b"".join(whole.splitlines(keepends=True)[: len(events)])
        if kept != data:
            with self.path.open("r+b") as file:
                file.truncate(len(kept))
                os.fsync(file.fileno())
        return events[-1]["seq"] + 1 if events else 0


def read_events(path: Path) -> list[Event]:
    """All whole events of a log, oldest first; none where there is no log."""
    return list(_parse(path.read_bytes())) if path.exists() else []


def _parse(data: bytes) -> Iterator[Event]:
    for line in data.split(b"\n"):
        try:
            event = json.loads(line)
        except ValueError:
            return  # torn: nothing after it can be trusted
        yield event


def _plain(value: Any) -> Any:
    """numpy numbers and paths as JSON."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON: {value!r}")
