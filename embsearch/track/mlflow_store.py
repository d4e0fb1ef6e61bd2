"""MLflow's client, which fails fast and prints nothing, and its database, which is made once.

Nothing here imports mlflow before it is called: the import takes seconds.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from embsearch.config import secrets
from embsearch.config.schema import Config
from embsearch.disk import file_lock, is_read_only
from embsearch.errors import StudyError
from embsearch.track.sqlite_file import PARTS, PATIENCE, address, damage_of, set_aside

if TYPE_CHECKING:
    from mlflow import MlflowClient


def tracking_uri(config: Config) -> str:
    """Return the address where MLflow keeps its runs: the configured server, or a database in home."""
    return config.track.uri or database_uri(Path(config.home))


def database_uri(home: Path) -> str:
    return f"sqlite:///{home.resolve() / 'mlflow.db'}"


def artifact_root(home: Path) -> Path:
    return home.resolve() / "mlartifacts"


def own_database(config: Config) -> Path | None:
    """Return the database that belongs to this home alone; None for a server or another file."""
    home = Path(config.home)
    own = tracking_uri(config) == database_uri(home)
    return home.resolve() / "mlflow.db" if own else None


def experiment_name(config: Config) -> str:
    return config.track.experiment or f"embsearch/{config.study.task}"


def connect(config: Config) -> MlflowClient:
    """Return a client for the study's MLflow; make its database if it has none.

    Raises what MLflow raises if a server does not answer. No call takes longer than about twice
    ``track.timeout``.
    """
    uri = tracking_uri(config)
    fail_fast(config.track.timeout)
    if uri.startswith("sqlite:"):
        path = Path(uri.removeprefix("sqlite:///"))
        prepare_database(path, artifact_root(Path(config.home)))
        if is_read_only(path.parent):
            uri = f"sqlite:///{_copied(path)}/{path.name}"
    from mlflow import MlflowClient

    be_quiet()
    if uri.startswith("http"):
        give_credentials(uri)
    else:
        uri = secrets.with_password(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def give_credentials(uri: str) -> None:
    """Put the login of ``track.uri=http://user:password@host``, or the token of
    ``http://token@host``, where MLflow looks for it."""
    known = secrets.credentials(uri)
    for part, name in (
        ("user", "MLFLOW_TRACKING_USERNAME"),
        ("password", "MLFLOW_TRACKING_PASSWORD"),
        ("token", "MLFLOW_TRACKING_TOKEN"),
    ):
        if part in known:
            os.environ[name] = known[part]


def find_experiment(client: MlflowClient, config: Config, create: bool = True) -> str | None:
    """Return the id of the task's experiment; None if there is none and ``create`` is false."""
    from mlflow.exceptions import MlflowException

    name = experiment_name(config)
    found = client.get_experiment_by_name(name)
    if found is None and create:
        location = None  # a server knows its own
        if tracking_uri(config).startswith("sqlite:"):
            location = (artifact_root(Path(config.home)) / slug(name)).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process was first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found is not None and found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id if found else None


def fail_fast(timeout: float) -> None:
    """Set short time limits: MLflow's own let one call block for 247 s (measured with MLflow 3.17).

    A limit that the user has set in the environment stays.
    """
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
        "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(timeout))),
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",  # drops batches without a word
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # a failure is the recorder's to report, in one line
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }.items():
        os.environ.setdefault(name, value)


def be_quiet() -> None:
    """Silence the logs of MLflow and the libraries under it."""
    for name in ("mlflow", "alembic", "sqlalchemy.engine", "urllib3.connectionpool", "huey"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _copied(path: Path) -> str:
    """Return a folder of this process with a copy of a database that cannot be written, as it is
    now: MLflow opens none to read alone.
    """
    parts = [Path(f"{path}{part}") for part in PARTS]
    stamps = [(part.stat().st_mtime_ns, part.stat().st_size) for part in parts if part.exists()]
    return _copied_once(path, tuple(stamps)).name


@lru_cache(maxsize=4)
def _copied_once(path: Path, stamps: tuple[tuple[int, int], ...]) -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="embsearch-")
    with (
        closing(sqlite3.connect(address(path), timeout=PATIENCE, uri=True)) as source,
        closing(sqlite3.connect(Path(folder.name) / path.name)) as target,
    ):
        source.backup(target)
    return folder


def prepare_database(path: Path, artifacts: Path) -> None:
    """Create MLflow's schema once and whole, hence the lock and the rename.

    Processes that start together, or one that dies on the way, break the file for good (measured
    with MLflow 3.17). Raises StudyError where a damaged file is there.
    """
    if is_read_only(path.parent):
        if is_new(path):
            raise StudyError(
                f"{path}: is not there, and {path.parent} cannot be written; nothing was recorded "
                "or promoted here: set home=... or track.uri=..."
            )
        refuse_damaged(path, artifacts)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_suffix(".lock")):
        if not is_new(path):
            refuse_damaged(path, artifacts)
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        be_quiet()
        make_store: Any = SqlAlchemyStore  # it has no types
        draft = path.with_suffix(".draft")
        for old in path.parent.glob(draft.name + "*"):
            old.unlink()
        make_store(f"sqlite:///{draft}", artifacts.as_uri()).engine.dispose()
        database = sqlite3.connect(draft)
        # Readers do not wait for the writer; the mode stays in the file.
        database.execute("PRAGMA journal_mode=WAL")
        database.close()
        if Path(f"{path}-wal").exists():  # of a database that is gone: SQLite would play it here
            set_aside(path)
        draft.replace(path)


def is_new(path: Path) -> bool:
    """Return True where MLflow's database has yet to be made."""
    return not path.is_dir() and not (path.exists() and path.stat().st_size)


def refuse_damaged(path: Path, artifacts: Path) -> None:
    """Raise StudyError where the database is damaged: what is wrong, and what to do."""
    try:
        wrong = damage_of(path)
    except sqlite3.Error as error:
        do = "see its rights, the disk, and whether another process holds it"
        raise StudyError(f"{path}: {error}; {do}; then run the same command again") from error
    if wrong:
        do = "put it back from a copy, or name another place: track.uri=..."
        if path.parent == artifacts.parent:
            do = (
                f"'embsearch sync study.name=NAME home={path.parent}' keeps it as "
                f"{path.name}.damaged and makes runs and registered models again from the logs"
            )
        raise StudyError(f"{path}: MLflow's database is damaged: {wrong}; {do}")


def mend(config: Config) -> str:
    """Set this home's database aside where it is damaged, and say so; else the empty string."""
    path = own_database(config)
    if path is None or not path.exists():
        return ""
    with file_lock(path.with_suffix(".lock")), suppress(sqlite3.Error):  # which connect() tells
        if not (wrong := damage_of(path)):
            return ""
        aside = set_aside(path).name
        return f"{path} is damaged ({wrong}): kept as {aside}, made again from the event logs"
    return ""


def slug(text: str) -> str:
    return re.sub(r"[^\w\-]+", "-", text).strip("-")


def quoted(value: object) -> str:
    """Quote a value of a search filter. MLflow has no escapes: a value with both quotes finds
    nothing.
    """
    mark = '"' if "'" in str(value) else "'"
    return f"{mark}{value}{mark}"
