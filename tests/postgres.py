"""A real PostgreSQL of the tests' own: its data in a temporary folder, a free port, killed and started at will."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil

PASSWORD = "s3cr3t/of@the:tests"  # has to be quoted in an address
START = 60.0  # seconds until it must answer


def quoted(password: str) -> str:
    """As it stands in an address."""
    return quote(password, safe="")


def programs() -> Path | None:
    """The folder of initdb and postgres, which Debian does not put on the path."""
    found = shutil.which("initdb")
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True
    )
    return Path(found).resolve().parent if found else next(iter(folders), None)


class Postgres:
    """One server. ``address`` names a database of it, with the password."""

    user, password = "tester", PASSWORD

    def __init__(self, bin: Path, folder: Path, fsync: bool) -> None:
        self._bin, self._data, self._fsync = bin, folder / "data", fsync
        self._as: dict[str, str | int] = {}
        if os.geteuid() == 0:  # it refuses to run as root
            self._as = {"user": "postgres", "group": "postgres"}
            shutil.chown(folder, "postgres", "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if self._as:
            shutil.chown(secret, "postgres")
        self._run(
            "initdb",
            "-D",
            str(self._data),
            "-U",
            self.user,
            "-A",
            "scram-sha-256",
            "--pwfile",
            str(secret),
        )

    def start(self) -> None:
        """Returns when it answers."""
        options = {
            "port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self._data,
            "fsync": "on" if self._fsync else "off",
        }  # fmt: skip
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        log = (self._data.parent / "log").open("ab")
        self._process = subprocess.Popen(
            [str(self._bin / "postgres"), "-D", str(self._data), *words],
            stdout=log,
            stderr=log,
            cwd="/",
            **self._as,
        )
        log.close()
        until = time.monotonic() + START
        while not self._answers():
            assert time.monotonic() < until, (self._data.parent / "log").read_text()[-3000:]
            time.sleep(0.1)

    def _answers(self) -> bool:
        import psycopg

        with suppress(psycopg.OperationalError):
            return bool(self.sql("SELECT 1"))
        return False

    def be_there(self) -> None:
        if self._process.poll() is not None:
            self.start()

    @property
    def pid(self) -> int:
        """Of the process that all others are children of."""
        return self._process.pid

    def kill(self) -> None:
        """kill -9 of the server and all its processes."""
        with suppress(psutil.Error):
            for process in [
                *psutil.Process(self._process.pid).children(recursive=True),
                self._process,
            ]:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
        self._process.wait()

    def address(
        self, database: str, password: str | None = PASSWORD, user: str | None = None
    ) -> str:
        secret = "" if password is None else f":{quoted(password)}"
        return f"postgresql://{user or self.user}{secret}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The name of a new, empty one."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.sql(f"CREATE DATABASE {name}")
        return name

    def sql(self, command: str, database: str = "postgres") -> list[tuple]:
        import psycopg

        with psycopg.connect(self.address(database), autocommit=True) as connection:
            found = connection.execute(command)
            return found.fetchall() if found.description else []

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *words],
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
            **self._as,
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def postgres(fsync: bool = False) -> Iterator[Postgres]:
    """One while the context runs. Skips the test where PostgreSQL is not installed. ``fsync``: it waits for the disk,
    which a kill -9 does not ask for: only a power cut does."""
    import pytest

    pytest.importorskip("psycopg", reason="pip install 'embsearch[postgresql]'")
    bin = programs()
    if bin is None:
        pytest.skip("no PostgreSQL on this machine; Debian: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="embsearch-pg-", ignore_cleanup_errors=True) as folder:
        server = Postgres(bin, Path(folder), fsync)
        try:
            server.start()
            yield server
        finally:
            server.kill()
