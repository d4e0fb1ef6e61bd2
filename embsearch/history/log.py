"""The event log: the one truth, of which Optuna's database and MLflow are views.

``events.jsonl`` is append-only; each line is a whole JSON object with ``seq`` (counted from
0), ``time`` (Unix milliseconds), ``kind`` and, last, ``link``: a digest of the line before's link
and of the line itself. A torn end (power cut, full disk) is dropped on reading and cut off before
the next append. Damage further up is refused, because cutting there would take whole events with
it; so are lines that were changed, doubled, moved or taken out. Older versions wrote no links:
lines without one are read as long as none had one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

from embsearch import disk
from embsearch.codec import JsonObject
from embsearch.errors import StudyError
from embsearch.history.events import Event, decode, encode
from embsearch.values import Clock

LINK = b', "link": "'  # what a line ends with, before the digest
CHANGED = "it was changed after it was written, or the line before it was (its link differs)"
WITHIN = "not an event, and whole ones follow, so no crash did it"
REMEDY = (
    "Put the file back from a copy, or delete the lines from {line} on: the study then goes on from "
    "there"
)
UNLINKED = (
    "it has no link, and the line before it has one: an older embsearch wrote it, or a person"
)
OF_HOME = (
    "Use one version of embsearch for this home, and delete the lines from {line} on: the commands "
    "that wrote them note the same again when they are repeated"
)
E = TypeVar("E", bound=Event)


class EventLog:
    """One append-only log. One process writes it; any number may read it."""

    def __init__(self, path: Path, clock: Clock = time) -> None:
        self.path, self._clock = path, clock
        self._reader: _Reader | None = None

    def append(self, event: E, spent: float | None = None) -> E:
        """Write one event durably and return it with its place. Raises OSError (disk full) with the
        log whole.
        """
        if self._reader is None:
            self._reader = self._mend()
        reader = self._reader
        placed = event.at(reader.seq, int(self._clock.time() * 1000), spent)
        content = json.dumps(
            encode(placed), ensure_ascii=False, allow_nan=False, default=_plain
        ).encode()
        link = _link(reader.link, content)
        line = content[:-1] + LINK + link.encode() + b'"}\n'
        with self.path.open(
            "ab", buffering=0
        ) as file:  # a buffer would be written again on closing
            at = file.tell()
            try:
                left = memoryview(line)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError as error:
                os.truncate(self.path, at)
                raise OSError(error.errno, error.strerror, str(self.path)) from error
        if at == 0:
            disk.settle(self.path.parent)
        reader.seq, reader.link = reader.seq + 1, link
        return cast(E, replace(placed, link=link))

    def _mend(self) -> _Reader:
        """Cut a torn end off; return a reader that has read the whole log."""
        disk.make_folder(self.path.parent)
        reader = _Reader(self.path)
        if self.path.exists():
            end = sum(len(line) for line, _ in reader.lines(self.path.read_bytes()))
            if end < self.path.stat().st_size:
                with self.path.open("r+b") as file:
                    file.truncate(end)
                    os.fsync(file.fileno())
        return reader


class LogTail:
    """The events of one log that were not read yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._reader = _Reader(path)

    def read(self) -> list[Event]:
        """Return new whole events, oldest first. A torn last line is left for the next call.

        Raises StudyError where the next line is damaged; what stands before it was returned.
        """
        try:
            if self.path.stat().st_size <= self._offset:
                return []
        except FileNotFoundError:
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        events: list[Event] = []
        try:
            for line, content in self._reader.lines(data):
                events.append(decode(content))
                self._offset += len(line)
        except StudyError:
            if not events:
                raise
        return events


def read_events(path: Path) -> list[Event]:
    """Return all whole events of a log, oldest first; none where there is no log. Raises
    StudyError.
    """
    return [decode(content) for content in read_json(path)]


def read_json(path: Path) -> list[JsonObject]:
    """Return the events of a log as the JSON objects of its lines. Raises StudyError."""
    if not path.exists():
        return []
    return [content for _, content in _Reader(path).lines(path.read_bytes())]


class _Reader:
    """The place up to which a log was read: what its next line must say."""

    def __init__(self, path: Path) -> None:
        self.path, self.seq, self.link = path, 0, ""

    def lines(self, data: bytes) -> Iterator[tuple[bytes, JsonObject]]:
        """Yield the whole lines of ``data``, which comes next, with their JSON.

        A torn end is left out. Raises StudyError naming the line that is damaged.
        """
        torn = 0
        for line in data.splitlines(keepends=True):
            content = _parse(line)
            if content is None and not (LINK in line and line.endswith(b'"}\n')):
                torn = torn or self.seq + 1
                continue
            fault = WITHIN if torn else self._fault(line, content)
            if fault or content is None:
                number = torn or self.seq + 1
                shared = fault == UNLINKED and self.path.name != "events.jsonl"
                remedy = (OF_HOME if shared else REMEDY).format(line=number)
                raise StudyError(f"{self.path}, line {number}: {fault}. {remedy}")
            self.seq, self.link = self.seq + 1, content.get("link", "")
            yield line, content

    def _fault(self, line: bytes, content: JsonObject | None) -> str:
        """Return what is wrong with the next line, empty if nothing is."""
        if content is None:
            return CHANGED
        if content["seq"] != self.seq:
            return (
                f"its seq is {content['seq']}, expected {self.seq}: lines are missing, doubled or out "
                "of order"
            )
        link = content.get("link", "")
        if link and link != _link(self.link, line.rpartition(LINK)[0] + b"}"):
            return CHANGED
        if self.link and not link:
            return UNLINKED
        return ""


def _link(before: str, content: bytes) -> str:
    """Return the digest of a line's JSON, and of the link of the line before."""
    return hashlib.sha256(before.encode() + content).hexdigest()[:16]


def _parse(line: bytes) -> JsonObject | None:
    """Return the event of a line with its end as JSON; None for anything else."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
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
