"""A study whose trials are trained on two devices: one is killed, and the study ends as if nothing had been."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from home import Home

pytestmark = pytest.mark.story
WORDS = ("launcher=local", "launcher.workers=1", "launcher.threads=1", "train.devices=2", "stop.trials=2",
         "train.texts=9600", "model.dropout=0.1")  # fmt: skip


def members(process):
    """The processes that a worker trains with: its children."""
    workers = psutil.Process(process.pid).children()
    return [
        child
        for worker in workers
        for child in worker.children()
        if "embsearch.worker" in child.cmdline()
    ]


def test_a_study_on_two_devices_survives_the_death_of_one_and_is_reproduced(
    tmp_path, tiny_bert, judgements_csv
):
    calm = Home(tmp_path / "calm", tiny_bert, judgements_csv)
    process = calm.start("search", *WORDS)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err

    home = calm.at(tmp_path / "home")
    process = home.start("search", *WORDS)
    until = time.monotonic() + 120
    while (
        not home.study.exists()
        or not (home.study / "trials/t0000").exists()
        or not home.seen("measured", 0)
    ):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.1)
    crew = members(process)
    for member in crew:
        os.kill(member.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=240)

    assert process.returncode == 0, err
    assert len(crew) == 1
    killed = [event for number in range(2) for event in home.events("failed", number)]
    assert [event["failure"] for event in killed] in (
        ["killed"],
        [],
    )  # none, if it died between two segments
    assert home.values() == calm.values()
    assert not any(member.is_running() for member in crew)
    assert home.run("reproduce", "trial=0") == 0
