"""MLflow stores to mirror the synthetic study into."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from synthetic import AXES, Gate, write_study

from embsearch.config.schema import Config, DataConfig, StudyConfig, TrackConfig
from embsearch.track.mlflow_store import artifact_root, fail_fast, prepare_database
from embsearch.track.server import Server, serve, stop


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's schema, migrated once for all tests."""
    home = tmp_path_factory.mktemp("template")
    fail_fast(5)
    prepare_database(home / "mlflow.db", artifact_root(home))
    return home / "mlflow.db"


@pytest.fixture
def config(tmp_path: Path, empty_database: Path) -> Config:
    """A config whose home has an empty MLflow database."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_database, home / "mlflow.db")
    return Config(
        home=str(home),
        study=StudyConfig(name="shop", task="search", question="Which settings find the clicked title?"),
        data=DataConfig(path="data/clicks.csv"),
        track=TrackConfig(timeout=2, model_artifacts="all"),
        space={axis: {} for axis in AXES},
    )


@pytest.fixture
def study(config: Config) -> Path:
    return write_study(Path(config.home) / "studies" / config.study.name)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[tuple[Server, Path]]:
    """A real MLflow server, and its home."""
    home = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, home / "mlflow.db")
    yield serve(home, port=0), home
    stop(home)


@pytest.fixture
def gate(server: tuple[Server, Path]) -> Iterator[Gate]:
    gate = Gate(int(server[0].url.rsplit(":", 1)[1]))
    yield gate
    gate.shut()
