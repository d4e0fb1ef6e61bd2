"""Weights & Biases as a view of the event logs: offline runs, read back from the files that it uploads."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import config_in
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
)
from wandb.proto.wandb_internal_pb2 import Record

from embsearch.config.schema import Config
from embsearch.history.log import EventLog, read_events
from embsearch.track.mirror import study_uid
from embsearch.track.wandb import WandbRecorder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = config_in(tmp_path / "home")
    return replace(
        config, track=replace(config.track, mlflow=False, wandb=True, wandb_mode="offline")
    )


@dataclass
class Sent:
    """A run as its file has it."""

    run: Any = None
    points: list[tuple[str, int, float]] = field(default_factory=list)
    times: dict[int, float] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        return {
            i.key: json.loads(i.value_json) for i in self.run.config.update if i.key != "_wandb"
        }


def sent(study: Path) -> dict[str, Sent]:
    """All runs under the study's folder by name, none twice."""
    found: dict[str, Sent] = {}
    for path in sorted((study / "wandb").glob("*run-*/*.wandb")):
        run = read_run(path)
        assert run.run.display_name not in found
        found[run.run.display_name] = run
    return found


def read_run(path: Path) -> Sent:
    run = Sent()
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.run = record.run
        elif kind == "history":
            row = {
                item.key or item.nested_key[0]: json.loads(item.value_json)
                for item in record.history.item
            }
            step = record.history.step.num
            run.times[step] = row["_timestamp"]
            run.points += [
                (key, step, value) for key, value in row.items() if not key.startswith("_")
            ]
        elif kind == "summary":
            run.summary |= {
                i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.summary.update
            }
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    run.points.sort()
    return run


def records(path: Path) -> Iterator[Record]:
    """W&B's records in the log format of LevelDB: blocks of 32 KiB, pieces with checksum, length and kind.
    Its library has no reader in Python any more."""
    data, at, whole = path.read_bytes(), 7, b""
    while at < len(data):
        if (left := -at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from(
            "<IHB", data, at
        )  # kind: 1 whole, 2 first, 3 middle, 4 last
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


def test_a_finished_study_has_every_point_of_its_logs(config: Config, study: Path) -> None:
    finish_study(study)
    recorder = WandbRecorder(config, study)
    assert recorder.sync() == 0, recorder.problem

    runs = sent(study)
    assert sorted(runs) == ["study/shop", "t0000", "t0001", "t0002", "t0003"]
    assert runs["t0001"].points == sorted(expected_points(3, {3: 0.70}) + history(1, 0.95))
    assert runs["t0003"].points == sorted(expected_points(6, {3: 0.92, 6: 0.94}) + history(3, 0.95))
    assert runs["study/shop"].points == STUDY_POINTS
    assert runs["t0003"].times[1] == 1_700_000_000.001
    assert {name: run.exit_code for name, run in runs.items() if name != "t0002"} == dict.fromkeys(
        runs.keys() - {"t0002"}, 0
    )
    assert runs["t0002"].exit_code == 1


def test_a_run_says_what_it_was_and_how_it_ended(config: Config, study: Path) -> None:
    finish_study(study)
    WandbRecorder(config, study).sync()
    runs = sent(study)
    uid = study_uid(read_events(study / "events.jsonl")[0])
    assert {(run.run.project, run.run.run_group) for run in runs.values()} == {("search", uid)}
    assert runs["t0001"].config == {
        "lr": 1e-3,
        "batch_size": 32,
        "objective": "infonce",
        "margin": 0.3,
    }
    summary = runs["t0001"].summary
    assert (summary["best"], summary["state"], summary["reason"]) == (
        0.70,
        "pruned",
        "median: 0.70 below 0.90",
    )
    assert runs["t0002"].summary["failure"] == "diverged"
    summary = runs["study/shop"].summary
    assert (summary["best"], summary["best_trial"], summary["reason"]) == (
        0.95,
        "t0000",
        "4 trials",
    )
    assert runs["study/shop"].config["question"] == "Which settings find the clicked title?"


def test_a_trial_is_sent_once_when_it_has_ended(config: Config, study: Path) -> None:
    first = WandbRecorder(config, study)
    assert first.sync() == 0, first.problem
    assert sorted(sent(study)) == ["t0000", "t0001", "t0002"]
    before = sorted(path.name for path in (study / "wandb").iterdir())
    assert WandbRecorder(config, study).sync() == 0
    assert sorted(path.name for path in (study / "wandb").iterdir()) == before

    finish_study(study)
    assert first.close() == 0, first.problem
    assert sorted(sent(study)) == ["study/shop", "t0000", "t0001", "t0002", "t0003"]
    append(EventLog(study / "events.jsonl"), "promoted", version={"name": "search", "version": 3})
    assert WandbRecorder(config, study).sync() == 0
    assert sent(study)["study/shop"].summary["promoted"] == "search version 3"


def test_every_trial_is_there_once_after_a_kill_and_a_second_process(
    config: Config, study: Path
) -> None:
    code = (
        "from embsearch.track.wandb import WandbRecorder\n"
        "recorder = WandbRecorder(config, folder)\n"
        "while True: recorder.sync()"
    )
    sent_file, begun = (
        study / "wandb/sent",
        lambda: len(list((study / "wandb").glob("offline-run-*"))),
    )
    with in_a_process(code, config, study) as process:
        while not (sent_file.exists() and len(sent_file.read_text().splitlines()) == 3):
            time.sleep(0.01)
        finish_study(study)
        while begun() < 4:
            time.sleep(0.002)
        process.kill()
    before = sent_file.read_text()
    assert 3 <= len(before.splitlines()) <= 5  # as a rule 3, with a fourth run half written

    recorder = WandbRecorder(config, study)
    assert recorder.sync() == 0, recorder.problem

    runs = sent(study)
    assert runs["t0000"].points == sorted(expected_points(6, {3: 0.90, 6: 0.95}) + history(0, 0.95))
    assert runs["t0001"].points == sorted(expected_points(3, {3: 0.70}) + history(1, 0.95))
    assert sorted(runs) == ["study/shop", "t0000", "t0001", "t0002", "t0003"]
    assert sent_file.read_text().startswith(before)
    assert len(sent_file.read_text().splitlines()) == 5


def test_what_a_killed_processs_service_still_writes_is_removed_too(
    config: Config, study: Path
) -> None:
    recorder = WandbRecorder(config, study)
    assert recorder.sync() == 0, recorder.problem
    runs = {
        read_run(path).run.display_name: path.parent for path in (study / "wandb").glob("*/*.wandb")
    }
    left = runs["t0000"]
    sent_file = study / "wandb/sent"
    run_id = left.name.rsplit("-", 1)[1]
    sent_file.write_text(
        "".join(line for line in sent_file.read_text().splitlines(True) if line.strip() != run_id)
    )
    end = time.monotonic() + 0.3

    def writing() -> None:
        for number in count():
            if time.monotonic() > end:
                break
            with suppress(OSError):  # removed between the two
                (left / "files").mkdir(parents=True, exist_ok=True)
                (left / f"files/{number}").touch()

    with ThreadPoolExecutor() as pool:
        service = pool.submit(writing)
        recorder = WandbRecorder(config, study)
        assert recorder.sync() == 0, recorder.problem
        service.result()
    assert sorted(sent(study)) == ["t0000", "t0001", "t0002"]
    assert not left.exists()


def test_without_a_login_nobody_is_asked_and_the_trials_wait(
    config: Config, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    recorder = WandbRecorder(
        replace(config, track=replace(config.track, wandb_mode="online")), study
    )
    assert recorder.sync() == recorder.pending > 20
    assert "wandb login" in recorder.problem
    assert WandbRecorder(config, study).sync() == 0
    assert sorted(sent(study)) == ["t0000", "t0001", "t0002"]


def test_a_trial_that_is_refused_holds_no_other_up(config: Config, study: Path) -> None:
    start = start_trial(study, 4, lr=1e-4, batch=64, loss="triplet")
    train(start, steps=2, measure={})
    recorder = WandbRecorder(config, study)
    (study / "wandb").mkdir()
    recorder._logs.read()
    in_the_way = study / "wandb" / f"offline-run-0-{recorder._id('t0000')}"
    in_the_way.write_text("a file, where a folder of an earlier process would be removed")
    assert recorder.sync() > 0
    assert recorder.problem.startswith("Weights & Biases does not take the study's record: ")
    assert recorder.sync() > 0
    in_the_way.unlink()
    assert sorted(sent(study)) == ["t0001", "t0002"]
    assert recorder.sync() == 0
    assert sorted(sent(study)) == ["t0000", "t0001", "t0002"]


def test_a_study_does_not_start_without_the_package(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "wandb").mkdir()  # where W&B has run, which is no package
    done = without_package("wandb", tmp_path, ["search", f"home={home}", "track=wandb"])
    assert done.returncode == 2, done.stderr
    assert "track.wandb=true: the package wandb is not installed" in done.stderr
    assert "pip install 'embsearch[wandb]'" in done.stderr
    assert not home.exists()
