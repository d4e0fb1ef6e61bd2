"""A study whose PostgreSQL and MLflow server are killed under it ends as if nothing had been, and its passwords are
nowhere."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from home import signals_at_default
from postgres import PASSWORD, quoted

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # not a package

from chaos import Search, end, faults, of_mlflow, of_optuna, tracking, undisturbed

from embsearch.cli.main import main

pytestmark = pytest.mark.story
TINY = [
    "study.name=s", "study.task=s", "device=cpu", "train.precision=fp32", "launcher.workers=1", "launcher.threads=1",
    "space=small", "space.train.lr={low: 1e-6, high: 3e-5, log: true}", "train.lr=1e-5", "train.batch_size=32",
    "~space.train.batch_size", "train.warmup_steps=2", "evaluate.at=[0.11,0.33,1.0]", "evaluate.draws=50",
    "stop.trials=5", "train.texts=20000", "confirm.top_k=0",
]  # fmt: skip
LOGIN = "tr4cker-secret"
AWAY = 4.0  # seconds that both servers are away


def wait_for(what, search, seconds=240.0):
    until = time.monotonic() + seconds
    while True:
        with suppress(FileNotFoundError, ValueError):  # no study yet
            if what():
                return
        assert search.process.poll() is None, (search.home / "search.log").read_text()
        assert time.monotonic() < until, (search.home / "search.log").read_text()
        time.sleep(0.05)


def measured(search):
    return sum(
        event["kind"] == "measured" for events in search.trials().values() for event in events
    )


def test_a_study_outlives_kill_9_of_both_its_servers(
    tmp_path, tiny_bert, judgements_csv, pg, capfd
):
    """One worker, so that every parameter, value and decision is as in the undisturbed study (test_chaos.py). Nothing
    of the study's own is killed: not one segment may be trained twice."""
    storage = pg.address(pg.database())
    with tracking(tmp_path / "mlflow") as mlflow:
        uri = mlflow.url.replace("http://", f"http://me:{LOGIN}@")
        words = [
            *TINY, f"model.path={tiny_bert}", f"data.path={judgements_csv}", f"track.uri={uri}", "track.timeout=30",
            f"study.storage={storage}",
        ]  # fmt: skip
        calm, search = Search(words, tmp_path / "calm"), Search(words, tmp_path / "home")
        undisturbed(calm)
        search.start()
        try:
            for evaluations in (1, 4):  # of eight; the next trial is asked for after the first
                wait_for(lambda least=evaluations: measured(search) >= least, search)
                mlflow.anew()
                pg.kill()
                mlflow.kill()
                time.sleep(AWAY)
                pg.start()
                mlflow.come_back()
                mlflow.be_there()
            assert search.process.wait(240) == 0, (search.home / "search.log").read_text()
        finally:
            end(search)
        undisturbed(search)  # starts nothing, and brings MLflow what it may lack
        assert faults(calm, search, [], mlflow.url, storage) == []
        assert [
            f"undisturbed: {fault}"
            for fault in (*of_mlflow(calm, mlflow.url), *of_optuna(calm, storage))
        ] == []

    said = (search.home / "search.log").read_text()
    assert "Traceback" not in said
    for verb in ("status", "report", "plan"):
        assert main([verb, *words, f"home={search.home}", "open=false"]) == 0
    shown = "".join(capfd.readouterr())
    secrets = (PASSWORD, quoted(PASSWORD), LOGIN)
    assert [secret for secret in secrets if secret in shown] == []
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"optuna.db", "mlflow.db", "study.yaml", "search.log", "config.yaml"} - {
        p.name for p in files
    } == {"optuna.db"}
    told = [
        (path, secret)
        for path in files
        for secret in secrets
        if secret.encode() in path.read_bytes()
    ]
    assert told == []


def test_a_study_ends_without_its_database_and_the_same_command_brings_that_up_to_date(
    tmp_path, pg, judgements_csv
):
    storage = pg.address(pg.database())
    words = [
        f"study.storage={storage}", "launcher=replay", f"data.path={judgements_csv}", "track=none", "space=small",
        "study.name=s", "stop.trials=60",
    ]  # fmt: skip
    search = Search(words, tmp_path / "home")
    with signals_at_default():
        search.start()
    try:
        wait_for(lambda: len(search.trials()) > 5, search)
        pg.kill()
        assert search.process.wait(120) == 0
    finally:
        end(search)
    said = (search.home / "search.log").read_text()
    assert "events are not in Optuna's database yet" in said
    assert "the same command brings them" in said
    assert PASSWORD not in said
    pg.start()
    undisturbed(search)
    assert list(of_optuna(search, storage)) == []
