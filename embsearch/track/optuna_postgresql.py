"""Optuna's database in a PostgreSQL that homes, teams and machines share.

Addresses are read by libpq itself, so that PGPASSWORD, ~/.pgpass and PGSERVICEFILE work as everywhere. Passwords
come from config/secrets.py and never stand in an address here.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from embsearch.config import secrets
from embsearch.errors import ConfigError, StudyError, root_cause

if TYPE_CHECKING:
    import psycopg

LOCK = 0x656D62  # "emb": coordinators that make the tables at once take turns
# A network that swallows packets would keep a request waiting for a quarter of an hour; these are libpq's names.
LIMITS = {
    "connect_timeout": 10, "keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}  # fmt: skip
SESSION = {
    "idle_in_transaction_session_timeout": 60,
    "lock_timeout": 20,
}  # seconds; ours take milliseconds
REMEDIES = (  # what PostgreSQL and libpq say, and what to do; the first that matches
    ("password|authentication", "check user and password: PGPASSWORD, ~/.pgpass, or in the address"),
    ('database "[^"]*" does not exist', "create it with createdb, or name another one"),
    ('role "[^"]*" does not exist', "create the user with createuser, or name another one"),
    ("pg_hba.conf", "pg_hba.conf on the server must let this machine and user in"),
    ("definition of service", "name it in ~/.pg_service.conf or in PGSERVICEFILE"),
    ("translate host name|name resolution|resolve host", "check the host's name"),
    ("SSL|certificate|channel binding", "see sslmode and sslrootcert in PostgreSQL's manual of libpq"),
    ("permission denied", "the user must be allowed to create tables there: GRANT CREATE ON SCHEMA public TO ..."),
    ("too many clients|connection slots", "raise max_connections on the server, or end other sessions"),
    ("starting up|shutting down|recovery", "wait until it has started"),
    ("No space left|could not extend|disk full", "free some space on the server"),
    ("refused|time.?out|timed out|No such file|No route|unreachable|closed the connection",
     "see whether it runs there, check host and port"),
)  # fmt: skip


class Postgresql:
    """One home's studies in a shared database. Raises ConfigError for an address that libpq does
    not take.
    """

    def __init__(self, address: str, home: Path, home_id: str) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise ConfigError(
                f"study.storage={address}: the package psycopg is not installed. pip install 'embsearch[postgresql]' "
                "or leave study.storage out for a file in the home"
            ) from error
        self.notice = ""
        self._home, self._home_id = home, home_id
        self._storage: optuna.storages.RDBStorage | None = None
        plain = "postgresql:" + address.partition(":")[2]
        try:
            self._parameters: dict[str, Any] = dict(psycopg.conninfo.conninfo_to_dict(plain))
        except psycopg.Error as error:
            raise ConfigError(
                f"study.storage={address}: {_one_line(error)}; expected postgresql://user@host:5432/database"
            ) from error
        self.where = _where(self._parameters)
        self._parameters = {**LIMITS, "application_name": "embsearch", **self._parameters}
        self._parameters |= {k: v for k, v in secrets.credentials(address).items() if k != "user"}

    def check(self) -> None:
        """Connect and make the tables where they are not there."""
        with self.explained():
            self._storage = self._made()

    def open(self) -> optuna.storages.BaseStorage:
        made, self._storage = self._storage or self._made(), None
        made.engine.dispose()
        event.listen(made.engine, "connect", _bounded)
        return optuna.storages.get_storage(made)

    def name_of(self, study: str) -> str:
        """``study@home``: others' studies may have the same name."""
        return f"{study}@{self._home_id}"

    def notes(self) -> Mapping[str, str]:
        return {"home": str(self._home), "host": socket.gethostname()}

    @contextmanager
    def explained(self) -> Iterator[None]:
        import psycopg

        try:
            yield
        except (StorageInternalError, SQLAlchemyError, psycopg.Error) as error:
            reason = secrets.masked(_one_line(root_cause(error)))
            raise StudyError(
                f"PostgreSQL at {self.where}: {reason}; {_remedy(reason)} and run the same command again. It is a "
                "view of the event logs, which have everything"
            ) from None  # its own traceback could quote the connection

    def _made(self) -> optuna.storages.RDBStorage:
        import psycopg

        with psycopg.connect(**self._parameters) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))  # until the block ends
            try:
                return optuna.storages.RDBStorage(
                    "postgresql+psycopg://",
                    engine_kwargs={
                        "connect_args": self._parameters,
                        "pool_size": 1,
                        "hide_parameters": True,
                    },
                )
            except RuntimeError as error:  # made by another version of Optuna
                raise StudyError(
                    f"PostgreSQL at {self.where}: {_one_line(error)}; use a database of its own for this version, or "
                    "bring it up to date with 'optuna storage upgrade'"
                ) from error


def _bounded(connection: psycopg.Connection, record: object) -> None:
    """Set the timeouts that free the locks of a session whose client is gone unnoticed."""
    for name, seconds in SESSION.items():
        connection.execute(f"SET {name} = '{seconds}s'")
    connection.commit()


def _where(parameters: Mapping[str, object]) -> str:
    """Return host, port and database, or the service that names them."""
    if "service" in parameters:
        return f"service {parameters['service']}"
    hosts = str(parameters.get("host") or parameters.get("hostaddr") or "localhost").split(",")
    ports = str(parameters.get("port") or "5432").split(",")
    where = ",".join(f"{host}:{ports[min(i, len(ports) - 1)]}" for i, host in enumerate(hosts))
    return f"{where}/{parameters['dbname']}" if parameters.get("dbname") else where


def _remedy(reason: str) -> str:
    return next((do for words, do in REMEDIES if re.search(words, reason)), "see the server's log")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
