"""The file behind OptunaView: opened, found damaged and set aside, its errors in our words.

It is a view of the event logs, so that nothing is lost with it: what cannot be read is made again, and a power
cut may take its last transactions.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from embsearch.errors import StudyError

PATIENCE = 60.0  # seconds to wait for another process that writes
REMEDIES = {
    "full": "free some space",
    "I/O": "free some space if the disk is full",
    "locked": "wait until no other process writes to it",
}


def open_storage(path: Path) -> optuna.storages.BaseStorage:
    """Optuna's storage in the SQLite file ``path``, made where it is not there."""
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
        database.execute("PRAGMA journal_mode=WAL")
    return optuna.storages.get_storage(
        optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"creator": lambda: _connect(path)})
    )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
    connection.execute("PRAGMA synchronous=NORMAL")  # what a power cut takes is told again from the logs
    return connection


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What the database raises, as a StudyError: nothing but the view is lost."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # Optuna's error, SQLAlchemy's, SQLite's
            cause = cause.__cause__
        do = next((do for word, do in REMEDIES.items() if word in str(cause)), "delete the file if it comes again")
        raise StudyError(
            f"{path}: {cause}; {do} and run the same command again. It is a view of the event logs, "
            "which have everything"
        ) from error


def damaged(path: Path) -> bool:
    """Whether this is no database any more. One that is locked, or a disk that is full, is another matter."""
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
            return database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return True


def set_aside(path: Path) -> Path:
    """Rename a damaged database and what belongs to it; its new name."""
    aside = path.with_name(f"{path.name}.damaged")
    for end in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.replace(f"{path}{end}", f"{aside}{end}")
    return aside
