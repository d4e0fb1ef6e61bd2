"""Files that a crash, a full disk or a failing one left behind: taken up again with nothing lost but the
torn piece, or refused by name. The measure is the undisturbed study.

What asks about logs, configs and Optuna's database is played on a clock of its own; what asks about checkpoints
and weights is trained.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing

import pytest

from embsearch.history.log import read_json as read_events


@pytest.fixture
def copy(played, calmly_played):
    """The undisturbed study that was played, to be damaged."""
    shutil.copytree(calmly_played.folder, played.folder)
    return played


@pytest.fixture(scope="module")
def longer(tmp_path_factory, calmly_played):
    """The undisturbed study, gone on with for two trials."""
    home = calmly_played.at(tmp_path_factory.mktemp("longer") / "home")
    shutil.copytree(calmly_played.folder, home.folder)
    assert home.run("search", "stop.trials=8") == 0
    return home


def logs(home):
    return sorted(home.study.rglob("events.jsonl"))


def same(home, calm):
    """The same trials with the same parameters, values and models; each ended once."""
    assert home.trials == calm.trials
    assert home.params() == calm.params()
    assert home.values() == calm.values()
    assert [len(home.events("ended", n)) for n in range(len(home.trials))] == [1] * len(calm.trials)
    assert [(r["label"], r["trial"], r["auc"]) for r in home.result["table"]] == [
        (r["label"], r["trial"], r["auc"]) for r in calm.result["table"]
    ]


# ---- event logs --------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [1, 2])
@pytest.mark.parametrize(
    "kept", [0, 1, 0.5, -1], ids=["nothing", "a byte", "half", "all but its end"]
)
def test_logs_that_lost_their_last_lines_are_taken_up_where_they_end(
    copy, calmly_played, lines, kept
):
    for log in logs(copy):
        data = log.read_bytes().splitlines(keepends=True)
        torn = data[-lines]
        log.write_bytes(
            b"".join(data[:-lines])
            + torn[: int(len(torn) * kept) if isinstance(kept, float) else kept]
        )
    segments = [len(copy.events("segment", n)) for n in range(6)]

    assert copy.run("search") == 0

    same(copy, calmly_played)
    if lines == 1:  # each trial's end: nothing is trained again
        assert [len(copy.events("segment", n)) for n in range(6)] == segments


def lose_log(home, trial):
    (home.study / f"trials/t{trial:04d}/events.jsonl").write_bytes(b"")
    home.forget(0)


@pytest.mark.parametrize("trial", [0, 3])
def test_a_trial_whose_whole_log_is_gone_is_run_again_with_the_same_parameters(
    copy, calmly_played, trial
):
    lose_log(copy, trial)
    assert copy.run("search") == 0
    same(copy, calmly_played)


@pytest.mark.story
def test_a_trial_whose_whole_log_is_gone_is_trained_again_to_the_same_values(home, calm):
    shutil.copytree(calm.folder, home.folder)
    lose_log(home, 3)
    assert home.run("search") == 0
    same(home, calm)


@pytest.mark.parametrize(
    ("how", "ended"),
    [("empty", True), ("gone", True), ("an event less", True), ("folder", True), ("folder", False)],
)
@pytest.mark.parametrize("trial", [0, 3])
def test_a_trial_that_is_lost_is_named_by_every_command_and_its_number_never_given_again(
    copy, calmly_played, trial, how, ended, capsys
):
    if not ended:
        copy.forget(0)
    log = copy.study / f"trials/t{trial:04d}/events.jsonl"
    kept = copy.folder.parent / "kept"
    shutil.copytree(log.parent, kept)
    if how == "folder":
        shutil.rmtree(log.parent)
    elif how == "gone":
        log.unlink()
    else:
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(lines[:-1]) if how == "an event less" else b"")

    for command in (["search"], ["search", "stop.trials=8"], ["status"], ["report"], ["sync"]):
        assert copy.run(*command) == 2
        told = capsys.readouterr().err
        assert f"{log}: the log of trial {trial} is gone, or" in told
        assert (
            "from its last 'closed' on: the same search then runs that trial again" in told
        ) == (how != "folder")
    shutil.rmtree(log.parent, ignore_errors=True)
    shutil.copytree(kept, log.parent)
    assert copy.run("search") == 0
    same(copy, calmly_played)


@pytest.mark.parametrize("log", ["events.jsonl", "trials/t0002/events.jsonl"])
def test_a_log_that_is_damaged_before_its_end_is_refused_by_every_command_and_stays_as_it_is(
    copy, capsys, log
):
    path = copy.study / log
    data = path.read_bytes().replace(b'"time": 1', b'"time": 2', 1)
    path.write_bytes(data)
    for command in (["search", "stop.trials=8"], ["status"], ["sync"]):
        assert copy.run(*command) == 2
        assert f"{path}, line 1: it was changed after it was written" in capsys.readouterr().err
    assert path.read_bytes() == data


def test_a_config_that_is_damaged_is_refused_and_written_again_when_deleted(
    copy, calmly_played, capsys
):
    path = copy.study / "study.yaml"
    path.write_bytes(path.read_bytes()[:200])
    assert copy.run("search") == 2
    assert f"{path}: not the config that embsearch wrote" in capsys.readouterr().err
    path.unlink()
    copy.forget(0)
    assert copy.run("search") == 0
    same(copy, calmly_played)


# ---- checkpoints -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory, calm):
    """The study, killed while trial 0 had its checkpoint."""
    home = calm.at(tmp_path_factory.mktemp("cut") / "home")
    process = home.start("search")
    checkpoint = home.study / "trials/t0000/checkpoint.safetensors"
    while not (checkpoint.exists() and home.seen("measured", 0)):
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert checkpoint.exists()
    return home


@pytest.mark.story
@pytest.mark.parametrize("how", ["a byte", "empty"])  # more of them: tests/train/test_checkpoint.py
def test_a_damaged_checkpoint_is_told_and_its_trial_trained_again_to_the_same_end(
    home, cut_off, calm, how, capsys
):
    shutil.copytree(cut_off.folder, home.folder)
    path = home.study / "trials/t0000/checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    if how == "a byte":
        data[-1000] ^= 1
    path.write_bytes({"a byte": data, "empty": b""}[how])

    assert home.run("search") == 0

    same(home, calm)
    (failed,) = home.events("failed", 0)
    assert (failed["failure"], failed["attempt"]) == ("checkpoint", 0)
    assert f"trial 0 checkpoint: {path}: not a whole checkpoint" in capsys.readouterr().err


# ---- Optuna's database -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["gone", "empty", "no database", "garbled", "cut", "of another time"]
)
def test_a_damaged_optuna_database_changes_no_suggestion(copy, longer, how, capsys):
    path = copy.folder / "optuna.db"
    with closing(sqlite3.connect(path)) as database:  # else its log may still hold every page
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = path.read_bytes()
    half = len(data) // 2
    if how in ("gone", "of another time"):
        path.unlink()
    if how == "of another time":
        assert copy.run("search", "study.name=other", "stop.trials=1") == 0
    elif how != "gone":
        path.write_bytes({
            "empty": b"", "no database": os.urandom(8192), "cut": data[:half],
            "garbled": data[:4096] + bytes(half) + data[4096 + half :],
        }[how])  # fmt: skip

    assert copy.run("search", "stop.trials=8") == 0

    same(copy, longer)
    told = f"{path} is damaged: kept as optuna.db.damaged, made again from the event logs"
    assert (told in capsys.readouterr().err) == (how in ("no database", "garbled", "cut"))


# ---- the disk, the clock -----------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own: 24 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this system mounts nothing: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.story
def test_a_full_disk_stops_the_study_wherever_it_comes_and_loses_nothing(calm, small_disk, capsys):
    home = calm.at(small_disk / "home")
    filler = small_disk / "filler"
    seen = []
    for free in (0, 20, 60, 150, 400, 700, 1000, 1500, 2500):  # KiB
        with filler.open("wb") as file:
            stat = os.statvfs(small_disk)
            file.truncate(0)
            os.posix_fallocate(file.fileno(), 0, max(stat.f_bavail * stat.f_bsize - free * 1024, 1))
        code = home.run("search")
        err = capsys.readouterr().err
        seen.append(err.splitlines()[-1])
        assert (code, "Traceback" in err, "space" in err) == (2, False, True), err
        filler.unlink()
    print("\n".join(seen))
    assert home.run("search") == 0
    same(home, calm)


@pytest.mark.story
def test_a_clock_that_is_set_back_breaks_nothing(home, tmp_path, monkeypatch):
    calm = home.at(tmp_path / "calm")  # with the same limit, by which a rung does not wait
    assert calm.run("search", "stop.seconds=600") == 0
    real, calls = time.time, itertools.count()
    monkeypatch.setattr(
        time, "time", lambda: real() - 3600 * (next(calls) // 40)
    )  # every 40th look: an hour back
    began = time.monotonic()
    assert home.run("search", "track=mlflow", "stop.seconds=600") == 0
    same(home, calm)
    first = home.result["seconds"]
    assert home.run("search", "track=mlflow", "stop.seconds=600", "stop.trials=7") == 0
    monkeypatch.undo()

    assert len(home.trials) == 7
    times = [e["time"] for e in read_events(home.study / "events.jsonl")]
    assert times != sorted(times)
    assert 0 < first < home.result["seconds"] < time.monotonic() - began
    assert home.run("sync", "track=mlflow") == 0
    assert home.run("status") == 0
