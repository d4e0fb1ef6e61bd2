"""A trial's model in MLflow: the same vectors by every way in."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import append
from synthetic import run_named

from embsearch.config.schema import Config
from embsearch.history.log import EventLog
from embsearch.track.digest import digest, manifest
from embsearch.track.mlflow import MlflowRecorder
from embsearch.track.mlflow_model import DATA, DIGEST, dimension, local_path
from embsearch.track.mlflow_store import connect
from embsearch.track.server import Server

TEXTS = ["red shoe for kids", "green lamp", "shoe"]


def end(study: Path, number: int, value: float, encoder: Path | None) -> None:
    """End a fresh trial, with a copy of the encoder as its model."""
    from synthetic import start_trial, train

    log = start_trial(study, number, lr=1e-4, batch=64, loss="triplet")
    train(log, steps=3, measure={3: value})
    if encoder is not None:
        shutil.copytree(encoder, log.path.parent / "model")
    append(log,
        "ended", state="complete", reason="budget spent", value=value, failure=None, objective=value,
        model=None if encoder is None else "model",
    )  # fmt: skip


def models(config: Config) -> list[Any]:
    experiment = connect(config).get_experiment_by_name("embsearch/search")
    assert experiment is not None
    return list(connect(config).search_logged_models([experiment.experiment_id]))


def test_the_model_gives_the_same_vectors_by_every_way_in(
    config: Config, study: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(study, 4, 0.97, encoder_folder)
    assert MlflowRecorder(config, study).sync() == 0
    (model,) = models(config)
    artifacts = local_path(model.artifact_location)
    assert artifacts is not None

    import mlflow
    from sentence_transformers import SentenceTransformer

    monkeypatch.setenv("MLFLOW_TRACKING_URI", connect(config)._tracking_client.tracking_uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    wanted = SentenceTransformer(str(encoder_folder), device="cpu").encode(TEXTS)
    np.testing.assert_array_equal(loaded.predict(TEXTS), wanted)
    np.testing.assert_array_equal(
        SentenceTransformer(str(artifacts / DATA), device="cpu").encode(TEXTS), wanted
    )
    assert loaded.metadata.signature.outputs.inputs[0].shape == (-1, 64)
    assert loaded.metadata.signature.outputs.inputs[0].type == np.dtype("float32")
    assert "sentence-transformers==" in (artifacts / "requirements.txt").read_text()


def test_the_model_says_what_it_is(config: Config, study: Path, encoder_folder: Path) -> None:
    end(study, 4, 0.97, encoder_folder)
    recorder = MlflowRecorder(config, study)
    recorder.sync()
    append(
        EventLog(study / "events.jsonl"),
        "tested",
        label="best trial",
        trial=4,
        split="test",
        metrics={"auc": 0.93},
    )
    recorder.sync()

    (model,) = models(config)
    run = run_named(config, "t0004")
    artifacts = local_path(model.artifact_location)
    assert artifacts is not None
    sha = digest(manifest(encoder_folder))
    assert (model.name, str(model.status), model.source_run_id) == (
        "shop-t0004",
        "READY",
        run.info.run_id,
    )
    assert (
        model.tags[DIGEST] == sha == json.loads((artifacts / "manifest.json").read_text())["digest"]
    )
    assert model.params == {
        "lr": "0.0001", "log10 lr": "-4.0", "batch_size": "64", "loss": "triplet", "margin": "0.3"
    }  # fmt: skip
    metrics = {m.key: m.value for m in model.metrics}
    assert metrics == {
        "val/auc": 0.97, "val/triplet_accuracy": pytest.approx(0.96), "objective": 0.97, "test/auc": 0.93
    }  # fmt: skip
    assert [o.model_id for o in run.outputs.model_outputs] == [model.model_id]
    assert run.data.metrics["test/auc"] == 0.93
    assert (artifacts / DATA / "model.safetensors").samefile(
        study / "trials/t0004/model/model.safetensors"
    )


def test_a_model_half_written_by_a_dead_process_is_completed(
    config: Config, study: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(study, 4, 0.97, encoder_folder)

    def die(*args: object) -> None:
        raise OSError("killed here")

    with monkeypatch.context() as dying:
        dying.setattr("embsearch.track.mlflow_model.describe", die)
        recorder = MlflowRecorder(config, study)
        assert recorder.sync() > 0
        assert recorder.problem.endswith("killed here")
        assert [str(m.status) for m in models(config)] == ["PENDING"]
        assert run_named(config, "t0004").info.status == "FINISHED"

    assert MlflowRecorder(config, study).sync() == 0
    (model,) = models(config)
    artifacts = local_path(model.artifact_location)
    assert artifacts is not None
    assert str(model.status) == "READY"
    assert sorted(p.name for p in artifacts.parent.iterdir()) == ["artifacts"]


def test_a_model_folder_that_is_gone_stops_nothing(
    config: Config, study: Path, encoder_folder: Path
) -> None:
    end(study, 4, 0.97, encoder_folder)
    shutil.rmtree(study / "trials/t0004/model")
    assert MlflowRecorder(config, study).sync() == 0
    assert models(config) == []


@pytest.mark.parametrize(
    ("keep", "kept"), [("best", ["shop-t0005"]), ("top_k", ["shop-t0005", "shop-t0006"])]
)
def test_only_the_studys_winner_and_the_best_beside_it_are_kept_when_asked(
    config: Config, study: Path, encoder_folder: Path, keep: Any, kept: list[str]
) -> None:
    config = replace(config, track=replace(config.track, model_artifacts=keep, top_k=2))
    for number, value in ((4, 0.97), (5, 0.98), (6, 0.99)):
        end(study, number, value, encoder_folder)
        append(
            EventLog(study / "events.jsonl"), "told", trial=number, state="complete", value=value
        )
    recorder = MlflowRecorder(config, study)
    recorder.sync()
    assert models(config) == []
    append(EventLog(study / "events.jsonl"), "closed", why="done", best=5, result={})
    assert recorder.close() == 0
    assert sorted(m.name for m in models(config)) == kept


def test_a_model_reaches_a_server_that_keeps_its_artifacts_itself(
    config: Config, study: Path, encoder_folder: Path, server: tuple[Server, Path]
) -> None:
    config = replace(config, track=replace(config.track, uri=server[0].url, experiment="proxied"))
    client = connect(config)
    client.create_experiment("proxied", artifact_location="mlflow-artifacts:/proxied")
    end(study, 4, 0.97, encoder_folder)

    recorder = MlflowRecorder(config, study)
    assert recorder.sync() == 0, recorder.problem

    experiment = client.get_experiment_by_name("proxied")
    assert experiment is not None
    (model,) = client.search_logged_models([experiment.experiment_id])
    names = {f.path for f in client.list_logged_model_artifacts(model.model_id)}
    assert {"MLmodel", "manifest.json", DATA} <= names


def test_the_width_of_a_saved_encoder_is_read_from_its_files(
    encoder_folder: Path, tmp_path: Path
) -> None:
    assert dimension(encoder_folder) == 64
    assert dimension(tmp_path) == -1
