"""MLflow stores to mirror the synthetic study into."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(
    0, str(Path(__file__).parent)
)  # synthetic.py; pytest's importlib mode adds no folder

from synthetic import SPACE, Gate, write_study

from embsearch.config.schema import Config, DataConfig, StudyConfig, TrackConfig
from embsearch.track.mlflow import MlflowRecorder
from embsearch.track.mlflow_store import artifact_root, fail_fast, prepare_database
from embsearch.track.server import Server, serve, stop


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's schema, migrated once for all tests."""
    home = tmp_path_factory.mktemp("template")
    fail_fast(5)
    prepare_database(home / "mlflow.db", artifact_root(home))
    return home / "mlflow.db"


def config_in(home: Path) -> Config:
    return Config(
        home=str(home),
        study=StudyConfig(
            name="shop", task="search", question="Which settings find the clicked title?"
        ),
        data=DataConfig(path="data/clicks.csv"),
        track=TrackConfig(timeout=2, model_artifacts="all"),
        space=SPACE,
    )


@pytest.fixture
def config(tmp_path: Path, empty_database: Path) -> Config:
    """A config whose home has an empty MLflow database."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_database, home / "mlflow.db")
    return config_in(home)


@pytest.fixture
def study(config: Config) -> Path:
    return write_study(Path(config.home) / "studies" / config.study.name)


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[tuple[Server, Path]]:
    """A real MLflow server, and its home."""
    home = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, home / "mlflow.db")
    yield serve(home, port=0), home
    stop(home)


@pytest.fixture(scope="session")
def shown(server: tuple[Server, Path]) -> Config:
    """The synthetic study, recorded in the server's own database."""
    config = config_in(server[1])
    recorder = MlflowRecorder(config, write_study(server[1] / "studies" / "shop"))
    assert recorder.sync() == 0, recorder.problem
    return config


@pytest.fixture
def gate(server: tuple[Server, Path]) -> Iterator[Gate]:
    gate = Gate(int(server[0].url.rsplit(":", 1)[1]))
    yield gate
    gate.shut()


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sentence-transformers folder: BERT of two layers, 64 wide, random weights."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.set_num_threads(1)
    torch.manual_seed(0)
    base = tmp_path_factory.mktemp("bert")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "red",
        "green",
        "shoe",
        "lamp",
        "for",
        "kids",
    ]
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(base)
    shape = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
    )
    BertModel(shape).save_pretrained(base)
    transformer = Transformer(str(base))
    pooling = Pooling(64, pooling_mode="mean")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    folder = tmp_path_factory.mktemp("encoder") / "model"
    model.save(str(folder))
    return folder
