"""Stopping a study of two worker processes: by Ctrl-C, by SIGTERM, by closing the terminal, by impatience."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress

import psutil
import pytest
from safetensors import safe_open

WORDS = [
    "launcher=local", "launcher.workers=2", "launcher.threads=1", "scheduler=none", "sampler=qmc", "stop.trials=2",
    "train.batch_size=16", "~space.train.batch_size", "train.texts=24000", "evaluate.at=[0.5,1.0]",
]  # fmt: skip


class Running:
    """A study in a process group of its own, as a shell starts it, with both workers training."""

    def __init__(self, home):
        self.home = home
        self.process = home.start("search", *WORDS, process_group=0)
        until = time.monotonic() + 120
        while not (home.seen("points", 0) and home.seen("points", 1)):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        self.workers = psutil.Process(self.process.pid).children()
        assert len(self.workers) == 2

    def ends(self, code, within):
        """What it said; and nobody is left."""
        began = time.monotonic()
        _, err = self.process.communicate(timeout=120)
        assert (self.process.returncode, "Traceback" in err) == (code, False), err
        assert time.monotonic() - began < within
        _, alive = psutil.wait_procs(self.workers, timeout=5)
        assert alive == []
        return err

    def checkpoints(self):
        """Trial by trial: the step at which it was saved."""
        return {
            int(path.parent.name[1:]): json.loads(safe_open(path, "pt").metadata()["position"])["step"]
            for path in self.home.study.glob("trials/*/checkpoint.safetensors")
        }


@pytest.fixture
def running(home):
    started = Running(home)
    yield started
    for process in [*started.workers, started.process]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def goes_on(home):
    """The same command comes to the end, and every step of every trial was trained and logged once."""
    process = home.start("search", *WORDS)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert home.trials == ["t0000", "t0001"]
    for number in (0, 1):
        (ended,) = home.events("ended", number)
        assert ended["state"] == "complete"
        steps = [step for event in home.events("points", number) for step, _, _ in event["points"]]
        assert steps == list(range(1, home.events("measured", number)[-1]["step"] + 1))


def test_ctrl_c_reaches_only_the_coordinator_which_lets_the_running_segments_finish(home, running):
    before = {n: len(home.events("measured", n)) for n in (0, 1)}
    os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does: to everybody in the foreground
    err = running.ends(130, within=60)
    assert "stopping when the running segments are done; once more stops at once" in err
    assert err.endswith("embsearch: stopped; the same command goes on with this study\n")
    assert {n: len(home.events("measured", n)) - before[n] for n in (0, 1)} == {0: 1, 1: 1}


def test_ctrl_c_twice_stops_at_once(home, running):
    before = {n: len(home.events("measured", n)) for n in (0, 1)}
    os.killpg(running.process.pid, signal.SIGINT)
    time.sleep(0.3)
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.ends(130, within=3).endswith("embsearch: interrupted\n")
    assert {n: len(home.events("measured", n)) for n in (0, 1)} == before
    goes_on(home)


@pytest.mark.parametrize("to", ["the coordinator", "every process"])
def test_sigterm_saves_checkpoints_in_the_middle_of_segments(home, running, to):
    for process in [running.process, *(running.workers if to == "every process" else [])]:
        process.send_signal(signal.SIGTERM)
    err = running.ends(130, within=5)
    assert err.endswith("embsearch: stopped; the same command goes on with this study\n")
    steps = {n: [p[0] for e in home.events("points", n) for p in e["points"]][-1] for n in (0, 1)}
    assert running.checkpoints() == steps
    assert [home.events("failed", n) for n in (0, 1)] == [[], []]
    if to == "the coordinator":
        goes_on(home)


def test_a_worker_that_gets_sigterm_alone_saves_a_checkpoint_and_the_study_goes_on_with_a_fresh_one(home, running):
    running.workers[0].terminate()
    running.ends(0, within=120)
    assert [home.events("failed", n) for n in (0, 1)] == [[], []]
    assert sorted(len(home.events("segment", n)) for n in (0, 1)) == [2, 3]


def test_a_terminal_that_is_closed_stops_the_study_as_sigterm_does(home, running):
    running.process.stderr.close()  # and nobody reads any more
    running.process.send_signal(signal.SIGHUP)
    assert running.process.wait(10) != 0
    psutil.wait_procs(running.workers, timeout=5)
    assert running.checkpoints().keys() == {0, 1}
