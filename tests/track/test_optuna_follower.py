"""Optuna's database says what the event logs say, whatever happened to it."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from embsearch.cli import launchers, search
from embsearch.config.build import build
from embsearch.history.folder import StudyFolder
from embsearch.hpo.memory_study import told_state, values_by_step
from embsearch.hpo.space import parse
from embsearch.study.run import Study
from embsearch.track import optuna_database, optuna_follower, sqlite_file
from embsearch.track.optuna_follower import OptunaFollower

ROWS = "query,title,grade\n" + "".join(f"q{n},right {n},1\nq{n},wrong {n},0\n" for n in range(12))
SPACE = {
    "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "train.batch_size": {"choices": [32, 64, 128], "ordered": True},
    "objective.name": {"choices": ["triplet", "infonce"]},
    "objective.margin": {"low": 0.05, "high": 0.5, "when": {"objective.name": "triplet"}},
}
AT = (0.1, 0.3, 1.0)


def config_in(home: Path, **more):
    home.mkdir(exist_ok=True)
    (home / "rows.csv").write_text(ROWS)
    base = {
        "home": str(home), "data": {"path": str(home / "rows.csv")}, "space": SPACE, "stop": {"trials": 9},
        "evaluate": {"at": list(AT)}, "launcher": {"name": "replay", "workers": 1}, "study": {"name": "s"},
        "track": {"mlflow": False}, "sampler": {"name": "random"}, "scheduler": {"name": "promotion", "reduction": 2},
    }  # fmt: skip
    return build(base | more)


def run(config, at: str = "", happens=lambda: None) -> Study:
    """Run a study; ``happens`` when a line that begins with ``at`` is said, after the database was brought up."""
    clock = search.clock(config)
    followers = []

    def recorder(folder):
        followers.append(OptunaFollower(config, folder))
        return followers[-1]

    def watch(study, line):
        if at and line.startswith(at):
            followers[-1].sync()
            happens()

    study = Study(config, launchers.launcher(config, clock), recorder, watch, clock)
    study.run()
    return study


def there(config, storage: str = ""):
    """Return what the database has of every trial."""
    opened = optuna.storages.RDBStorage(storage or f"sqlite:///{config.home}/optuna.db")
    trials = optuna.load_study(study_name=name_of(config), storage=opened).trials
    opened.engine.dispose()
    return [
        (t.number, t.state, t.value, t.intermediate_values, t.params, t.user_attrs) for t in trials
    ]


def name_of(config) -> str:
    folder = StudyFolder(config)
    return optuna_database.of(config.study.storage, folder.home, folder.home_id).name_of(
        config.study.name
    )


def logged(config):
    """Return the same by the logs."""
    space, found = parse(config.space, config), []
    for number, trial in sorted(StudyFolder(config).state().trials.items()):
        state, value = told_state(trial, AT)
        notes = {} if trial.outcome is None else {"reason": trial.outcome.reason}
        if trial.failed_by(("diverged", "bug", "killed")):
            notes["failure"] = trial.outcome.failure
        steps = values_by_step(trial.values, AT)
        found.append((number, state, value, steps, space.to_optuna(trial.params), notes))
    return found


@pytest.fixture
def config(tmp_path):
    return config_in(tmp_path / "home")


def test_after_a_study_the_database_says_what_the_logs_say(config):
    run(config)
    found = there(config)
    assert found == logged(config)
    assert len(found) == 9
    assert {state.name for _, state, *_ in found} == {"COMPLETE", "PRUNED"}
    assert all(user["reason"] for *_, user in found)


def remove(home: str) -> None:
    for path in Path(home).glob("optuna.db*"):
        path.unlink()


def garble(home: str) -> None:
    with closing(sqlite3.connect(Path(home) / "optuna.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else all pages may be there once more
    with (Path(home) / "optuna.db").open("r+b") as file:
        file.seek(100)
        file.write(b"?" * 20_000)


@pytest.mark.parametrize("how", [remove, garble])
def test_a_database_that_is_lost_at_the_end_is_made_again(config, how):
    study = run(config)
    found = there(config)
    how(config.home)
    follower = OptunaFollower(config, study.folder.path)
    assert (follower.sync(), follower.problem) == (0, "")
    assert there(config) == found == logged(config)
    assert (Path(config.home) / "optuna.db.damaged").exists() == (how is garble)


@pytest.mark.parametrize("how", [remove, garble])
def test_a_database_that_is_lost_in_the_middle_is_made_again(config, how):
    run(config, "trial 4 at rung 1", lambda: how(config.home))
    follower = OptunaFollower(config, StudyFolder(config).path)
    assert (follower.sync(), follower.problem) == (0, "")
    assert there(config) == logged(config)


def test_a_study_whose_database_is_lost_in_the_middle_ends_as_an_undisturbed_one(config, tmp_path):
    run(config, "trial 4 at rung 1", lambda: remove(config.home))
    calm = config_in(tmp_path / "calm")
    run(calm)
    assert logged(config) == logged(calm)


def test_a_database_of_an_earlier_study_of_this_name_is_replaced(config):
    run(config)
    earlier = there(config)
    shutil.rmtree(StudyFolder(config).path)
    later = replace(config, sampler=replace(config.sampler, seed=5))
    run(later)
    assert there(later) == logged(later) != earlier


def test_a_database_that_knows_an_end_that_the_logs_have_lost_is_made_again(config):
    study = run(config)
    for log in (study.folder.trial(3) / "events.jsonl", study.folder.log.path):
        log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    assert OptunaFollower(config, study.folder.path).sync() == 0
    assert there(config) == logged(config)
    assert there(config)[3][1].name == "RUNNING"


def test_a_gap_in_the_logs_is_kept_for_the_trial_that_belongs_there(config):
    study = run(config)
    found = there(config)
    log = study.folder.trial(3) / "events.jsonl"
    data = log.read_bytes()
    log.unlink()
    remove(config.home)
    assert OptunaFollower(config, study.folder.path).sync() == 0
    assert [row[4] for row in there(config)] == [{} if row[0] == 3 else row[4] for row in found]
    log.write_bytes(data)
    assert OptunaFollower(config, study.folder.path).sync() == 0
    assert there(config) == found


def test_bringing_it_twice_changes_nothing(config):
    study = run(config)
    found = there(config)
    follower = OptunaFollower(config, study.folder.path)
    assert [follower.sync(), follower.sync(), OptunaFollower(config, study.folder.path).sync()] == [
        0,
        0,
        0,
    ]
    assert there(config) == found


def test_studies_in_one_database_do_not_see_each_other(config):
    run(config)
    found = there(config)
    two = replace(
        config, study=replace(config.study, name="two"), stop=replace(config.stop, trials=3)
    )
    run(two)
    assert (there(config), len(there(two))) == (found, 3)


@pytest.mark.parametrize("what", ["optuna.db", "optuna.db-wal"])
@pytest.mark.parametrize("how", ["garbled", "cut", "gone", "empty"])
def test_a_damaged_file_is_set_aside_and_made_again_from_the_logs(config, what, how):
    study = run(config)
    found = there(config)
    remove(config.home)
    code = (
        "import os, sys; sys.path[:0] = sys.argv[3:]; import test_optuna_follower as t; from pathlib import Path\n"
        "config = t.config_in(Path(sys.argv[1])); assert t.OptunaFollower(config, Path(sys.argv[2])).sync() == 0\n"
        "os._exit(9)"
    )
    here = Path(__file__).parent
    command = [
        sys.executable,
        "-c",
        code,
        config.home,
        str(study.folder.path),
        str(here),
        str(here.parent),
    ]
    assert (
        subprocess.run(command, check=False).returncode == 9
    )  # so that the write-ahead log is still there
    file = Path(config.home) / what
    data = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        half = len(data) // 2
        file.write_bytes(
            {
                "garbled": data[:40] + b"?" * half + data[half + 40 :],
                "cut": data[:-half],
                "empty": b"",
            }[how]
        )
    follower = OptunaFollower(config, study.folder.path)
    assert (follower.sync(), follower.problem) == (0, "")
    assert there(config) == found


def test_a_database_that_another_process_keeps_locked_is_waited_for_and_not_damaged(
    config, monkeypatch
):
    study = run(config)
    remove(config.home)
    monkeypatch.setattr(optuna_database, "PATIENCE", 0.1)
    monkeypatch.setattr(sqlite_file, "PATIENCE", 0.1)
    follower = OptunaFollower(config, study.folder.path)
    with closing(sqlite3.connect(Path(config.home) / "optuna.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        assert follower.sync() > 0
        assert "optuna.db: database is locked" in follower.problem
        assert "It is a view of the event logs" in follower.problem
    assert not (Path(config.home) / "optuna.db.damaged").exists()
    assert follower.sync() == 0
    assert there(config) == logged(config)


def test_a_postgresql_that_is_away_for_a_while_keeps_no_study_waiting(pg, tmp_path):
    address = pg.address(pg.database())
    config = config_in(tmp_path / "home", study={"name": "s", "storage": address})
    optuna_follower.ready(config)
    study = run(config, "trial 4 at rung 1", pg.kill)
    assert study.pending > 0
    assert "PostgreSQL at 127.0.0.1" in study.behind
    assert "check host and port" in study.behind
    assert study.folder.state().closed is not None
    pg.start()
    follower = OptunaFollower(config, study.folder.path)
    assert (follower.sync(), follower.problem) == (0, "")
    assert there(config, address.replace("postgresql:", "postgresql+psycopg:")) == logged(config)
