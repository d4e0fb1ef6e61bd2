"""Optuna's studies, kept for others to look at: in a file in the home, or in a PostgreSQL that many
share.

It follows the event logs, so that nothing is lost with it: what cannot be read is made again, and a
power cut may take its last transactions.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from embsearch.disk import file_lock
from embsearch.errors import ConfigError, StudyError, root_cause
from embsearch.track.sqlite_file import PATIENCE, REMEDIES, damage_of, set_aside

if TYPE_CHECKING:
    from embsearch.track.optuna_postgresql import Postgresql


def of(storage: str | None, home: Path, home_id: str) -> SqliteFile | Postgresql:
    """Return the database of ``study.storage``. Raises ConfigError for an address that is none, or
    a missing package.
    """
    if storage is None:
        return SqliteFile(home / "optuna.db")
    scheme = storage.partition(":")[0]
    if scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ConfigError(
            f"study.storage={storage}: expected postgresql://user@host:5432/database, or null for a file in the home"
        )
    from embsearch.track.optuna_postgresql import Postgresql

    return Postgresql(storage, home, home_id)


class SqliteFile:
    """A file of this home alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.notice = ""  # what was found and mended when it was opened

    def check(self) -> None:
        """Set a damaged file aside; ``notice`` says so. Called before anything of a study is written.

        Raises StudyError where it cannot be used.
        """
        path = self._path
        if not path.parent.is_dir():
            return
        with self.explained(), file_lock(path.with_suffix(".lock")):
            self._mend()

    def _mend(self) -> None:
        if damage_of(self._path):
            aside = set_aside(self._path).name
            self.notice = (
                f"{self._path} is damaged: kept as {aside}, made again from the event logs"
            )

    def open(self) -> optuna.storages.BaseStorage:
        """Return Optuna's storage, its tables made where they are not there."""
        path = self._path
        with file_lock(path.with_suffix(".lock")):  # two that make the schema break it
            self._mend()
            with closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
                database.execute("PRAGMA journal_mode=WAL")
            return optuna.storages.get_storage(
                optuna.storages.RDBStorage(
                    f"sqlite:///{path}", engine_kwargs={"creator": lambda: _connect(path)}
                )
            )

    def name_of(self, study: str) -> str:
        """Return the name there of a study of this home."""
        return study

    def notes(self) -> Mapping[str, str]:
        """Return what others who look there should know of a study."""
        return {}

    @contextmanager
    def explained(self) -> Iterator[None]:
        """While the context runs, what the database raises is a StudyError."""
        try:
            yield
        except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
            reason = str(root_cause(error))
            do = next(
                (do for word, do in REMEDIES.items() if word in reason),
                "delete the file if it comes again",
            )
            raise StudyError(
                f"{self._path}: {reason}; {do} and run the same command again. It is a view of the event logs, "
                "which have everything"
            ) from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
    connection.execute(
        "PRAGMA synchronous=NORMAL"
    )  # what a power cut takes is told again from the logs
    return connection
