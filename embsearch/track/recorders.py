"""The recorders that a config asks for. Importing one imports no tracker: that happens when it first syncs."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from embsearch.config.schema import Config
from embsearch.errors import ConfigError
from embsearch.track.base import Recorder, Recorders

EXTRAS = (
    "tensorboard",
    "wandb",
)  # settings of track, packages and extras of ours: they share their names


def check(config: Config) -> None:
    """Raises ConfigError for every recorder whose package is not installed, with the command that
    installs it.
    """
    missing = [name for name in EXTRAS if getattr(config.track, name) and not installed(name)]
    if missing:
        raise ConfigError(
            [
                f"track.{name}=true: the package {name} is not installed. pip install 'embsearch[{name}]', or leave "
                f"{name} out of track=[...]"
                for name in missing
            ]
        )


def make(config: Config, study_folder: Path, live: bool = True) -> Recorders:
    """Return all of them, not started. Optuna's database is always one. ``live``: this process runs
    the study.
    """
    from embsearch.track.optuna_follower import OptunaFollower

    check(config)
    made: list[Recorder] = [OptunaFollower(config, study_folder)]
    if config.track.mlflow:
        from embsearch.track.mlflow import MlflowRecorder

        made.append(MlflowRecorder(config, study_folder, live))
    if config.track.tensorboard:
        from embsearch.track.tensorboard import TensorBoardRecorder

        made.append(TensorBoardRecorder(config, study_folder))
    if config.track.wandb:
        from embsearch.track.wandb import WandbRecorder

        made.append(WandbRecorder(config, study_folder))
    return Recorders(*made)


def installed(package: str) -> bool:
    """Return true where a package is there; not by its module: a folder ``wandb`` here can be
    imported too.
    """
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True
