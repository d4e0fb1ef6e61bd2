"""MLflow as a view of the event logs, against real stores."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from helpers import append
from synthetic import (
    Gate,
    every_point,
    expected_points,
    give_out,
    run_named,
    start_trial,
    train,
    without_history,
    write_study,
)

from embsearch.config.schema import Config
from embsearch.history.log import EventLog
from embsearch.track.mlflow import MlflowRecorder
from embsearch.track.mlflow_store import connect


def test_states_are_told_apart(config: Config, study: Path) -> None:
    assert MlflowRecorder(config, study).sync() == 0

    runs = {
        name: run_named(config, name) for name in ("t0000", "t0001", "t0002", "t0003", "study/shop")
    }

    assert {name: run.info.status for name, run in runs.items()} == {
        "t0000": "FINISHED", "t0001": "KILLED", "t0002": "FAILED", "t0003": "RUNNING", "study/shop": "RUNNING"
    }  # fmt: skip
    assert {name: run.data.tags["embsearch.state"] for name, run in runs.items()} == {
        "t0000": "complete", "t0001": "pruned", "t0002": "failed", "t0003": "running", "study/shop": "running"
    }  # fmt: skip
    assert runs["study/shop"].data.tags["embsearch.failures"] == "1 diverged"
    assert runs["t0002"].data.tags["embsearch.failure"] == "diverged"
    parent = runs["study/shop"].info.run_id
    assert {
        run.data.tags.get("mlflow.parentRunId") for name, run in runs.items() if name[0] == "t"
    } == {parent}
    assert len({runs[f"t000{n}"].data.tags["mlflow.runColor"] for n in range(4)}) == 4


def test_a_trial_is_running_from_the_moment_it_is_given_out_until_it_is_measured(
    config: Config, study: Path
) -> None:
    recorder = MlflowRecorder(config, study)
    log = EventLog(study / "trials/t0003/events.jsonl")

    def shown() -> tuple[str, str]:
        assert recorder.sync() == 0
        run = run_named(config, "t0003")
        return run.info.status, run.data.tags["embsearch.state"]

    assert shown() == ("RUNNING", "running")
    train(log, steps=6, measure={6: 0.94}, first=5)
    assert shown() == ("SCHEDULED", "waiting")
    append(log, "decided", decision="pause", reason="0.94 waits for others")
    assert shown() == ("SCHEDULED", "paused")
    append(log, "decided", decision="continue", reason="0.94 is the best")
    assert shown() == ("SCHEDULED", "waiting")
    give_out(log, 3, rung=2)
    assert shown() == ("RUNNING", "running")


def test_a_trial_carries_what_is_needed_to_judge_it(config: Config, study: Path) -> None:
    MlflowRecorder(config, study).sync()
    run = run_named(config, "t0001")
    assert run.data.params == {
        "lr": "0.001", "log10 lr": "-3.0", "batch_size": "32", "loss": "infonce", "margin": "0.3"
    }  # fmt: skip
    assert run.data.tags["embsearch.inactive"] == "margin"
    assert run.data.metrics["objective"] == 0.70
    assert run.data.metrics["search/best so far"] == 0.95
    assert run.data.tags["mlflow.source.git.commit"] == "abc123"
    assert run.data.tags["mlflow.note.content"].splitlines() == [
        "**pruned** after 1 evaluations, 288 texts, 6 s; best val/auc 0.7000: median: 0.70 below 0.90",
        "",
        "lr 0.001, batch_size 32, loss infonce",
    ]
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("clicks", "f" * 36)
    assert [(t.key, t.value) for t in data.tags] == [("mlflow.data.context", "training")]
    artifacts = [f.path for f in connect(config).list_artifacts(run.info.run_id)]
    assert artifacts == ["config.yaml"]


def test_the_study_has_its_curve_its_baseline_and_its_environment(
    config: Config, study: Path
) -> None:
    MlflowRecorder(config, study).sync()
    run = run_named(config, "study/shop")
    assert every_point(config, "study/shop") == [
        ("baseline/auc", 0, 0.596), ("objective", 0, 0.95), ("objective", 1, 0.95), ("objective", 2, 0.95)
    ]  # fmt: skip
    artifacts = sorted(f.path for f in connect(config).list_artifacts(run.info.run_id))
    assert artifacts == ["environment.json", "packages.txt", "study.yaml"]


def test_every_point_is_there_once_after_two_syncs_and_a_replay(
    config: Config, study: Path
) -> None:
    recorder = MlflowRecorder(config, study)
    recorder.sync()
    recorder.sync()
    train(EventLog(study / "trials/t0003/events.jsonl"), steps=6, measure={6: 0.94}, first=5)
    recorder.sync()
    MlflowRecorder(config, study).sync()

    assert without_history(every_point(config, "t0000")) == expected_points(6, {3: 0.90, 6: 0.95})
    assert without_history(every_point(config, "t0001")) == expected_points(3, {3: 0.70})
    assert without_history(every_point(config, "t0002")) == expected_points(2, {})
    assert every_point(config, "t0003") == expected_points(6, {3: 0.92, 6: 0.94})
    experiment = connect(config).get_experiment_by_name("embsearch/search")
    assert experiment is not None
    assert len(connect(config).search_runs([experiment.experiment_id])) == 5


def test_a_run_left_running_by_a_dead_process_gets_its_true_state(
    config: Config, study: Path
) -> None:
    MlflowRecorder(config, study).sync()  # and killed here
    assert run_named(config, "t0003").info.status == "RUNNING"

    MlflowRecorder(config, study, live=False).sync()

    run = run_named(config, "t0003")
    assert (run.info.status, run.data.tags["embsearch.state"]) == ("SCHEDULED", "interrupted")
    assert run_named(config, "study/shop").info.status == "SCHEDULED"


def test_closing_leaves_nothing_running_and_a_resumed_study_goes_on(
    config: Config, study: Path
) -> None:
    first = MlflowRecorder(config, study)
    first.start()
    assert first.close(timeout=60) == 0
    assert run_named(config, "t0003").info.status == "SCHEDULED"

    second = MlflowRecorder(config, study)
    second.sync()
    log = EventLog(study / "trials/t0003/events.jsonl")
    give_out(log, 3, rung=1)
    second.sync()
    assert run_named(config, "t0003").info.status == "RUNNING"
    ended = append(log, "ended", state="complete", reason="budget spent", value=0.92, failure=None,
                       objective=0.92, model=None)  # fmt: skip
    append(EventLog(study / "events.jsonl"), "closed", why="4 trials", best=0, result={})
    second.close()
    assert run_named(config, "t0003").info.end_time == ended.time
    assert run_named(config, "study/shop").info.status == "FINISHED"


def test_a_torn_log_loses_nothing_but_the_torn_piece(config: Config, study: Path) -> None:
    path = study / "trials/t0003/events.jsonl"
    with path.open("ab") as file:
        file.write(b'{"seq": 99, "time": 17000')
    recorder = MlflowRecorder(config, study)
    assert recorder.sync() == 0
    assert every_point(config, "t0003") == expected_points(4, {3: 0.92})

    train(EventLog(path), steps=5, measure={}, first=5)

    recorder.sync()
    assert every_point(config, "t0003") == expected_points(5, {3: 0.92})


def test_a_server_that_was_away_for_half_of_the_study_has_every_point_once(
    config: Config, gate: Gate
) -> None:
    config = replace(config, track=replace(config.track, uri=gate.url, experiment="outage"))
    folder = write_study(Path(config.home) / "studies" / "shop")
    recorder = MlflowRecorder(config, folder)
    began = time.monotonic()
    away = recorder.sync()
    assert away == recorder.pending > 30
    assert "MLflow does not take the study's record" in recorder.problem
    assert time.monotonic() - began < 10

    gate.open()
    assert recorder.sync() == 0
    assert recorder.problem == ""
    gate.shut()
    train(EventLog(folder / "trials/t0003/events.jsonl"), steps=6, measure={6: 0.94}, first=5)
    assert recorder.sync() == 3
    gate.open()
    assert recorder.close() == 0

    assert without_history(every_point(config, "t0000")) == expected_points(6, {3: 0.90, 6: 0.95})
    assert every_point(config, "t0003") == expected_points(6, {3: 0.92, 6: 0.94})


def test_a_server_that_hangs_holds_nobody_up(config: Config, study: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        recorder = MlflowRecorder(replace(config, track=replace(config.track, uri=uri)), study)
        recorder.start()
        began = time.monotonic()
        assert recorder.close(timeout=0.5) > 0
        assert time.monotonic() - began < 3
        assert recorder.problem.startswith("MLflow did not take everything within")


def test_a_trial_deleted_by_hand_stays_deleted_and_stops_nothing(
    config: Config, study: Path
) -> None:
    recorder = MlflowRecorder(config, study)
    recorder.sync()
    run = run_named(config, "t0003")
    connect(config).delete_run(run.info.run_id)
    train(EventLog(study / "trials/t0003/events.jsonl"), steps=5, measure={}, first=5)
    start_trial(study, 4, lr=1e-4, batch=64, loss="triplet")

    assert recorder.sync() == 0
    assert "t0003" in recorder.problem
    assert run_named(config, "t0004").info.status == "RUNNING"
    assert MlflowRecorder(config, study).sync() == 0


def test_a_parent_deleted_by_hand_comes_back(config: Config, study: Path) -> None:
    recorder = MlflowRecorder(config, study)
    recorder.sync()
    connect(config).delete_run(run_named(config, "study/shop").info.run_id)
    append(EventLog(study / "events.jsonl"), "told", trial=3, state="complete", value=0.96)
    recorder.sync()
    assert recorder.sync() == 0
    assert run_named(config, "study/shop").data.metrics["objective"] == 0.96


def test_the_view_and_the_note_are_there_from_the_start(config: Config) -> None:
    folder = Path(config.home) / "studies" / "shop"
    append(EventLog(folder / "events.jsonl"), "opened", name="shop", task="search")
    MlflowRecorder(config, folder).sync()

    experiment = connect(config).get_experiment_by_name("embsearch/search")
    assert experiment is not None
    (view,) = (
        json.loads(v) for k, v in experiment.tags.items() if k.startswith("mlflow.sharedViewState.")
    )
    state = json.loads(view["state"])
    assert view["name"] == "shop: what won and why"
    assert state["compareRunCharts"][0]["selectedParams"] == [
        "log10 lr",
        "batch_size",
        "loss",
        "margin",
    ]
    assert state["selectedColumns"][:2] == ["params.`lr`", "params.`batch_size`"]
    assert "Which settings find the clicked title?" in experiment.tags["mlflow.note.content"]


def test_the_study_page_is_beside_the_studys_run_and_the_note_leads_there(
    config: Config, study: Path
) -> None:
    recorder = MlflowRecorder(config, study)
    recorder.sync()
    page = study / "report.html"
    for content in ("<p>first</p>", "<p>second</p>"):
        page.write_text(content)
        assert recorder.sync() == 0
        run, client = run_named(config, "study/shop"), connect(config)
        there = client.download_artifacts(run.info.run_id, "report.html")
        assert Path(there).read_text() == content
    link = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/report.html"
    note = client.get_experiment(run.info.experiment_id).tags["mlflow.note.content"]
    assert f"study page: [report.html]({link}?workflowType=machine_learning)" in note


def test_a_failing_recorder_raises_nothing(config: Config, study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = MlflowRecorder(replace(config, home=str(tmp_path / "file" / "below")), study)
    assert recorder.sync() > 0
    assert recorder.problem.startswith("MLflow does not take the study's record: ")


def test_importing_the_recorder_imports_no_heavy_package() -> None:
    code = (
        "import sys, embsearch.track.mlflow, embsearch.track.server, embsearch.cli.ui;"
        "import embsearch.registry.mlflow_registry;"
        "import embsearch.track.recorders, embsearch.track.tensorboard, embsearch.track.wandb;"
        "heavy = ('mlflow', 'tensorboard', 'wandb', 'torch', 'optuna', 'transformers');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_processes_that_sync_one_study_make_each_run_once(config: Config, study: Path) -> None:
    one, two = MlflowRecorder(config, study), MlflowRecorder(config, study)
    one.sync()
    two.sync()
    start_trial(study, 4, lr=1e-4, batch=64, loss="triplet")
    one.sync()
    two.sync()
    start_trial(study, 5, lr=1e-4, batch=64, loss="triplet")
    two.sync()
    one.sync()
    assert [run_named(config, f"t000{n}").info.run_name for n in range(6)] == [
        f"t000{n}" for n in range(6)
    ]
