"""embsearch sync: bring the config's recorders up to date with a study's event logs, from nothing if need be."""

from __future__ import annotations

from pathlib import Path

from embsearch.config.build import build, to_dict
from embsearch.config.options import Options
from embsearch.config.schema import Config
from embsearch.errors import EmbsearchError, ModelError
from embsearch.history.folder import StudyFolder, holder
from embsearch.track import mlflow_store, recorders


def run(config: Config, options: Options) -> int:
    """Replay the logs; every point is there once afterwards.

    Registered models come back too, those of every study of the home. Raises StudyError if the
    study has not been begun, EmbsearchError while a view is away, ModelError where a registered
    model's files are gone.
    """
    folder = StudyFolder(config)
    began = build(
        folder.read_locked()["config"] | {"track": to_dict(config.track), "home": config.home}
    )
    folder.state()  # refuses a damaged log; the recorder would wait for its writer to mend it
    is_new = began.track.mlflow and _mend(began)
    recorder = recorders.make(began, folder.path, live=bool(holder(folder.path / "lock")))
    pending = recorder.sync()
    if pending:
        raise EmbsearchError(
            f"{pending} events are not in {recorder.view} yet: {recorder.problem}; run the same command again"
        )
    print(f"study {config.study.name}: up to date in {recorder.view}")
    if recorder.problem:
        print(recorder.problem)
    if began.track.mlflow:
        _restore_registry(began, is_new)
    return 0


def _mend(config: Config) -> bool:
    """Set a damaged database of MLflow aside, and say so. Return whether it has to be made."""
    if notice := mlflow_store.mend(config):
        print(notice)
    path = mlflow_store.own_database(config)
    if path is None:
        return False
    if mlflow_store.is_new(path):
        _unfinished(path).touch()
    return _unfinished(path).exists()  # or a command before this one was killed


def _unfinished(database: Path) -> Path:
    """Return the file that is there until a database that was made again has everything."""
    return database.with_name(f"{database.name}.restoring")


def _restore_registry(config: Config, all_runs: bool) -> None:
    """Print what came back of the registered models. Raises ModelError naming what did not."""
    from embsearch.registry.restore import restore

    done, lost = restore(config, all_runs)
    path = mlflow_store.own_database(config)
    if path is not None:
        _unfinished(path).unlink(missing_ok=True)
    for line in done:
        print(line)
    if lost:
        raise ModelError(lost)
