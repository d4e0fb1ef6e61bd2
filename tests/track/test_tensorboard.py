"""TensorBoard as a view of the event logs, read back with TensorBoard's own reader."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import config_in
from google.protobuf import text_format
from helpers import append
from synthetic import (
    STUDY_POINTS,
    expected_points,
    finish_study,
    history,
    in_a_process,
    start_trial,
    train,
    without_package,
    write_study,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from embsearch.config.schema import Config, DataConfig
from embsearch.data.dataset import Dataset
from embsearch.data.load import prepare_dataset
from embsearch.history.events import Measured, of_kind
from embsearch.history.log import EventLog, read_events
from embsearch.track.tensorboard import TensorBoardRecorder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = config_in(tmp_path / "home")
    return replace(config, track=replace(config.track, mlflow=False, tensorboard=True))


def run_of(study: Path, name: str) -> EventAccumulator:
    """TensorBoard's own reader of a run."""
    return EventAccumulator(
        str(study / "tensorboard" / name), {"scalars": 0, "tensors": 0}
    ).Reload()


def points(study: Path, name: str) -> list[tuple[str, int, float]]:
    """All points that TensorBoard has of a run; it keeps values in fp32."""
    run = run_of(study, name)
    return sorted((tag, p.step, p.value) for tag in run.Tags()["scalars"] for p in run.Scalars(tag))


def same(found: list[tuple[str, int, float]], expected: list[tuple[str, int, float]]) -> bool:
    return found == sorted((tag, step, float(np.float32(value))) for tag, step, value in expected)


def plugin_data(run: EventAccumulator, tag: str) -> bytes:
    (content,) = [v for t, v in run.PluginTagToContent("hparams").items() if t == tag]
    return bytes(content)


def words(run: EventAccumulator, tag: str) -> list[str]:
    return [e.tensor_proto.string_val[0].decode() for e in run.Tensors(tag)]


def test_a_finished_study_has_every_point_of_its_logs_with_its_time(
    config: Config, study: Path
) -> None:
    finish_study(study)
    assert TensorBoardRecorder(config, study).sync() == 0

    test = [("test/auc", 0, 0.93)]
    assert same(
        points(study, "t0000"), expected_points(6, {3: 0.90, 6: 0.95}) + history(0, 0.95) + test
    )
    assert same(points(study, "t0001"), expected_points(3, {3: 0.70}) + history(1, 0.95))
    assert same(points(study, "t0002"), expected_points(2, {}) + history(2, 0.95))
    assert same(points(study, "t0003"), expected_points(6, {3: 0.92, 6: 0.94}) + history(3, 0.95))
    assert same(points(study, "study"), STUDY_POINTS)
    assert run_of(study, "t0000").Scalars("train/loss")[0].wall_time == 1_700_000_000.001
    log = read_events(study / "trials/t0000/events.jsonl")
    measured = of_kind(log, Measured)[0]
    assert run_of(study, "t0000").Scalars("val/auc")[0].wall_time == measured.time / 1000


def test_a_trial_has_its_parameters_its_state_and_its_reason(config: Config, study: Path) -> None:
    TensorBoardRecorder(config, study).sync()
    run = run_of(study, "t0001")
    start = metadata.parse_session_start_info_plugin_data(
        plugin_data(run, metadata.SESSION_START_INFO_TAG)
    )
    axes = {
        name: getattr(value, str(value.WhichOneof("kind"))) for name, value in start.hparams.items()
    }
    assert axes == {"lr": 1e-3, "batch_size": 32.0, "objective": "infonce", "margin": 0.3}
    assert start.group_name
    end = metadata.parse_session_end_info_plugin_data(
        plugin_data(run, metadata.SESSION_END_INFO_TAG)
    )
    assert end.status == api_pb2.STATUS_SUCCESS
    assert words(run, "outcome") == ["**pruned**: median: 0.70 below 0.90"]
    assert words(run_of(study, "t0002"), "outcome") == ["**failed**: loss nan at step 3 (diverged)"]

    space = metadata.parse_experiment_plugin_data(
        plugin_data(run_of(study, "study"), metadata.EXPERIMENT_TAG)
    )
    assert [info.name for info in space.hparam_infos] == ["lr", "batch_size", "objective", "margin"]
    assert space.hparam_infos[0].domain_interval.max_value == 1e-2
    assert [info.name.tag for info in space.metric_infos] == ["objective"]


def test_every_point_is_there_once_after_a_kill_and_a_second_process(
    config: Config, study: Path
) -> None:
    code = (
        "from embsearch.track.tensorboard import TensorBoardRecorder\n"
        "recorder = TensorBoardRecorder(config, folder)\n"
        "while True: recorder.sync()"
    )
    file = study / "tensorboard/t0004/events.out.tfevents.embsearch"
    log = start_trial(study, 4, lr=1e-4, batch=64, loss="triplet")
    with in_a_process(code, config, study) as process:
        step = 0
        while step < 40 or not file.exists():  # it writes while the log grows
            step += 1
            train(log, steps=step, measure={}, first=step)
        while file.stat().st_size < 3000:
            time.sleep(0.01)
        process.kill()
    with file.open("r+b") as torn:
        torn.truncate(file.stat().st_size - 7)
    before = file.read_bytes()

    recorder = TensorBoardRecorder(config, study)
    assert recorder.sync() == 0, recorder.problem
    train(log, steps=step + 3, measure={}, first=step + 1)
    assert recorder.sync() == 0, recorder.problem

    assert same(points(study, "t0004"), expected_points(step + 3, {}))
    assert same(points(study, "t0000"), expected_points(6, {3: 0.90, 6: 0.95}) + history(0, 0.95))
    assert file.read_bytes().startswith(
        before
    )  # appended: a TensorBoard that is open sees nothing twice


def test_a_trial_that_ended_is_left_as_it_is_by_the_next_process(
    config: Config, study: Path
) -> None:
    first = TensorBoardRecorder(config, study)
    first.sync()
    finish_study(study)
    first.close()
    files = sorted((study / "tensorboard").rglob("*tfevents*"))
    before = [(f.stat().st_ino, f.stat().st_mtime_ns) for f in files]
    assert len(files) == 5
    assert TensorBoardRecorder(config, study).sync() == 0
    assert [(f.stat().st_ino, f.stat().st_mtime_ns) for f in files] == before
    assert same(points(study, "study"), STUDY_POINTS)


def test_two_processes_that_sync_one_study_write_each_point_once(
    config: Config, study: Path
) -> None:
    one, two = TensorBoardRecorder(config, study), TensorBoardRecorder(config, study)
    one.sync()
    two.sync()
    log = EventLog(study / "trials/t0003/events.jsonl")
    for step, recorder in enumerate((one, two, one, two), 5):
        train(log, steps=step, measure={}, first=step)
        assert recorder.sync() == 0
    assert same(points(study, "t0003"), expected_points(8, {3: 0.92}))


def test_a_folder_that_cannot_be_written_is_told_and_made_up_for(
    config: Config, study: Path
) -> None:
    (study / "tensorboard").write_text("in the way")
    recorder = TensorBoardRecorder(config, study)
    assert recorder.sync() > 0
    assert recorder.problem.startswith("TensorBoard does not take the study's record: ")
    (study / "tensorboard").unlink()
    assert recorder.sync() == 0
    assert recorder.problem == ""
    assert same(points(study, "t0001"), expected_points(3, {3: 0.70}) + history(1, 0.95))


@pytest.fixture
def examined(config: Config, judgements_csv: Path) -> tuple[Config, Path, Dataset]:
    """A finished study over real data, with what its final test has kept: a config, its folder, the data."""
    config = replace(config, data=DataConfig(path=str(judgements_csv), format="judgements"))
    data = Dataset.load(prepare_dataset(config.data, Path(config.home) / "cache"))
    study = write_study(Path(config.home) / "studies" / "shop")
    append(
        EventLog(study / "events.jsonl"),
        "opened",
        name="shop",
        task="search",
        data=data.fingerprint,
    )
    (study / "tested").mkdir()
    sample = np.unique(np.concatenate([data.test.text[:20], data.test.title[:20]])).astype(np.int32)
    for name in ("untuned_encoder", "best_trial"):
        vectors = np.random.default_rng(0).normal(size=(len(sample), 8)).astype(np.float16)
        np.savez_compressed(study / "tested" / f"{name}.npz", sample=sample, vectors=vectors)
    return config, finish_study(study), data


def test_the_projector_has_the_vectors_of_both_models_with_their_texts(examined: Any) -> None:
    config, study, data = examined
    recorder = TensorBoardRecorder(config, study)
    assert recorder.sync() == 0, recorder.problem
    assert recorder.problem == ""

    folder = study / "tensorboard/study"
    shown = text_format.Parse(
        (folder / "projector_config.pbtxt").read_text(), ProjectorConfig()
    ).embeddings
    assert [e.tensor_name for e in shown] == ["untuned encoder", "best trial"]
    kept = np.load(study / "tested/best_trial.npz")
    np.testing.assert_allclose(
        np.loadtxt(folder / shown[1].tensor_path), kept["vectors"], rtol=1e-4
    )
    head, *labels = (folder / shown[1].metadata_path).read_text(encoding="utf-8").splitlines()
    assert head.split("\t") == ["text", "is"]
    assert [label.split("\t")[0] for label in labels] == [data.texts[i] for i in kept["sample"]]
    assert {label.split("\t")[1] for label in labels} == {"query", "title"}


def test_texts_of_other_data_are_not_given_to_vectors(examined: Any) -> None:
    config, study, _ = examined
    append(EventLog(study / "events.jsonl"), "opened", name="shop", task="search", data="f" * 64)
    append(EventLog(study / "events.jsonl"), "closed", why="4 trials", best=0, result={})
    recorder = TensorBoardRecorder(config, study)
    assert recorder.sync() == 0
    assert recorder.problem.startswith(
        "no projector: the data have changed: their fingerprint was "
    )
    gone = TensorBoardRecorder(replace(config, data=DataConfig(path="gone.csv")), study)
    assert gone.sync() == 0
    assert gone.problem.startswith("no projector: ")
    assert "gone.csv" in gone.problem
    assert not (study / "tensorboard/study/projector_config.pbtxt").exists()


def test_a_study_does_not_start_without_the_package(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = without_package(
        "tensorboard", tmp_path, ["search", f"home={home}", "track=[mlflow,tensorboard]"]
    )
    assert done.returncode == 2, done.stderr
    assert "track.tensorboard=true: the package tensorboard is not installed" in done.stderr
    assert "pip install 'embsearch[tensorboard]'" in done.stderr
    assert not home.exists()
