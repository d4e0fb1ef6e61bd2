"""Messages between processes that share a folder and nothing else, perhaps over NFS.

A file is either replaced whole (``put``, ``get``) or grows by lines of JSON (``append``,
``Letters``). Each has one writer, so nothing is locked. Every look opens the file anew: over NFS a
file that is opened after its writer closed it is up to date (close-to-open consistency), which
neither a handle that is kept nor a ``stat`` promises.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from pathlib import Path

from embsearch.codec import JsonObject


def put(path: Path, content: JsonObject) -> None:
    """Replace a file, whole or not at all.

    It is not synced to the disk: after a power cut nobody is there to read it.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        draft.write_text(json.dumps(content), encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def get(path: Path) -> JsonObject | None:
    """Return what ``put`` wrote last; None while there is nothing that can be read."""
    # A stale handle, where the file was replaced just then: the next look finds it.
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else None
    return None


def append(path: Path, letter: JsonObject) -> None:
    """Add a line.

    Raises OSError, also where nobody has made the file: its folder may be about to go.
    """
    line = memoryview(json.dumps(letter).encode() + b"\n")
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        while line:
            line = line[os.write(handle, line) :]
    finally:
        os.close(handle)


class Letters:
    """Reads what ``append`` adds to a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def new(self) -> list[JsonObject]:
        """Return the lines that were not there at the last look.

        One that is not whole yet waits: its end may be missing, and over NFS also its middle, where
        the server was sent a long one in parts.
        """
        found = []
        with suppress(OSError, ValueError), self._path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > self._at:
                file.seek(self._at)
                for line in file.read().splitlines(keepends=True):
                    if line.endswith(b"\n"):
                        found.append(json.loads(line))
                        self._at += len(line)
        return found
