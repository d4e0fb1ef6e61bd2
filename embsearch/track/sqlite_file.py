"""A view's database as one SQLite file: whether it is damaged, and how it is set aside.

Nothing here imports what takes time.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from urllib.parse import quote

from embsearch import disk

PATIENCE = 60.0  # seconds to wait for another process that writes
REMEDIES = {
    "full": "free some space",
    "I/O": "free some space if the disk is full",
    "locked": "wait until no other process writes to it",
}
RIGHTS = ("readonly", "unable to open")  # what SQLite says of a file that may not be opened
PARTS = ("", "-wal", "-shm")


def address(path: Path) -> str:
    """Return SQLite's address of a file: one in a folder that cannot be written is only read.

    A reader writes, too (-shm), unless it is told that nobody does. With a WAL that a writer left
    it must have both files.
    """
    way = "mode=rwc"
    if disk.is_read_only(path.parent):
        wal = Path(f"{path}-wal")
        way = "mode=ro" if wal.exists() and wal.stat().st_size else "immutable=1"
    return f"file:{quote(str(path))}?{way}"


def damage_of(path: Path) -> str:
    """Return why this is no database any more; the empty string where it is one, or is not there.

    Raises sqlite3.Error where it cannot be told: one that is locked, a full disk, no right to read.
    """
    if path.is_dir():
        return "it is a folder"
    if not path.exists():
        return ""
    try:
        with closing(sqlite3.connect(address(path), timeout=PATIENCE, uri=True)) as database:
            found = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
            return "" if found == "ok" else " ".join(found.split())
    except sqlite3.DatabaseError as error:
        if any(word in str(error) for word in (*REMEDIES, *RIGHTS)):
            raise
        return str(error)


def set_aside(path: Path) -> Path:
    """Rename a damaged database and what belongs to it, never over an older one; its new name."""
    names = (path.with_name(f"{path.name}.damaged{n or ''}") for n in count())
    aside = next(name for name in names if not any(Path(f"{name}{end}").exists() for end in PARTS))
    for end in PARTS:
        with suppress(FileNotFoundError):
            os.replace(f"{path}{end}", f"{aside}{end}")
    return aside
