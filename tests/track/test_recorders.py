"""Several recorders as one, from the command line to their files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import config_in
from synthetic import finish_study, write_study

from embsearch.cli.main import main
from embsearch.history.log import read_json as read_events
from embsearch.track import recorders


def test_a_search_feeds_all_and_sync_brings_what_is_gone(
    tmp_path: Path, judgements_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        f"home={tmp_path}", f"data.path={judgements_csv}", "study.name=s", "space=small", "launcher=replay",
        "track=[tensorboard,wandb]", "track.wandb_mode=offline",
    ]  # fmt: skip
    assert main(["search", *words, "stop.trials=3", "scheduler=none"]) == 0
    study = tmp_path / "studies/s"
    made = {p.parent.name: p.read_bytes() for p in (study / "tensorboard").rglob("*tfevents*")}
    assert sorted(made) == ["study", "t0000", "t0001", "t0002"]
    assert len((study / "wandb/sent").read_text().splitlines()) == 4
    assert "events are not in" not in capsys.readouterr().err

    shutil.rmtree(study / "tensorboard")
    assert main(["sync", *words]) == 0
    assert (
        "study s: up to date in Optuna's database, TensorBoard, Weights & Biases"
        in capsys.readouterr().out
    )
    assert {
        p.parent.name: p.read_bytes() for p in (study / "tensorboard").rglob("*tfevents*")
    } == made
    assert len((study / "wandb/sent").read_text().splitlines()) == 4

    (tmp_path / "optuna.db").unlink()
    assert main(["sync", *words, "track=none"]) == 0  # Optuna's database is a view of every study
    assert "study s: up to date in Optuna's database\n" in capsys.readouterr().out
    assert (tmp_path / "optuna.db").exists()


def test_one_that_fails_keeps_no_other_from_its_record(tmp_path: Path) -> None:
    config = config_in(tmp_path / "home")
    config = replace(
        config,
        track=replace(
            config.track, mlflow=False, tensorboard=True, wandb=True, wandb_mode="offline"
        ),
    )
    study = finish_study(write_study(tmp_path / "home/studies/shop"))
    (study / "tensorboard").write_text("in the way")
    events = sum(len(read_events(log)) for log in study.rglob("events.jsonl"))

    made = recorders.make(config, study)
    made.start()
    assert 0 < made.close(timeout=60) <= events + 8
    assert made.problem.startswith("TensorBoard does not take")
    assert "Weights" not in made.problem
    assert len(list((study / "wandb").glob("offline-run-*"))) == 5
    (study / "tensorboard").unlink()
    assert made.sync() == 0
    assert made.problem == ""


def test_a_space_that_is_none_is_a_problem_of_optunas_database_alone(tmp_path: Path) -> None:
    config = config_in(tmp_path / "home")
    config = replace(
        config,
        track=replace(config.track, mlflow=False, tensorboard=True),
        space={**config.space, "train.batch_size": {}},
    )
    study = finish_study(write_study(tmp_path / "home/studies/shop"))
    made = recorders.make(config, study)
    assert made.sync() > 0
    assert made.problem.startswith("Optuna's database does not take the study's record: space.")
    assert "TensorBoard" not in made.problem
    assert len(list((study / "tensorboard").iterdir())) == 5


def test_a_study_that_has_not_begun_lacks_nothing(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    made = recorders.make(replace(config, track=replace(config.track, mlflow=False)), tmp_path)
    made.start()
    assert (made.view, made.sync(), made.close(), made.problem) == ("Optuna's database", 0, 0, "")
