"""Stopping a study of two worker processes: by Ctrl-C, by SIGTERM, by closing the terminal, by impatience.

One study is stopped in every way, one after another, and the same command goes on with it each time.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import contextmanager, suppress

import psutil
import pytest
from safetensors import safe_open

pytestmark = [
    pytest.mark.story,
    pytest.mark.serial,
]  # seconds until it has stopped; its workers take both cores
WORDS = [
    "launcher=local", "launcher.workers=2", "launcher.threads=1", "scheduler=none", "sampler=qmc", "stop.trials=2",
    "train.batch_size=16", "~space.train.batch_size", "train.texts=96000", "evaluate.at=[0.5,1.0]",
]  # fmt: skip


class Running:
    """A study in a process group of its own, as a shell starts it, with both workers training."""

    def __init__(self, home):
        self.home = home
        before = self.count("points")
        self.process = home.start("search", *WORDS, process_group=0)
        until = time.monotonic() + 120
        while any(now == then for now, then in zip(self.count("points"), before, strict=True)):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        self.workers = psutil.Process(self.process.pid).children()
        assert len(self.workers) == 2

    def count(self, kind):
        """Return how many such events each trial has."""
        return [len(self.home.events(kind, number)) for number in (0, 1)]

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
            int(path.parent.name[1:]): json.loads(safe_open(path, "pt").metadata()["position"])[
                "step"
            ]
            for path in self.home.study.glob("trials/*/checkpoint.safetensors")
        }


@contextmanager
def running(home):
    started = Running(home)
    try:
        yield started
    finally:
        for process in [*started.workers, started.process]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def sigterm_saves_checkpoints_in_the_middle_of_segments(home, to):
    with running(home) as study:
        for process in [study.process, *(study.workers if to == "every process" else [])]:
            process.send_signal(signal.SIGTERM)
        err = study.ends(130, within=5)
        assert err.endswith("embsearch: stopped; the same command goes on with this study\n")
        steps = {
            n: [p[0] for e in home.events("points", n) for p in e["points"]][-1] for n in (0, 1)
        }
        assert study.checkpoints() == steps


def a_terminal_that_is_closed_stops_the_study_as_sigterm_does(home):
    with running(home) as study:
        for number in (0, 1):
            (home.study / f"trials/t{number:04d}/checkpoint.safetensors").unlink(missing_ok=True)
        study.process.stderr.close()  # and nobody reads any more
        study.process.send_signal(signal.SIGHUP)
        assert study.process.wait(10) != 0
        psutil.wait_procs(study.workers, timeout=5)
        assert study.checkpoints().keys() == {0, 1}


def ctrl_c_reaches_only_the_coordinator_which_lets_the_running_segments_finish(home):
    with running(home) as study:
        before = study.count("measured")
        os.killpg(
            study.process.pid, signal.SIGINT
        )  # as a terminal does: to everybody in the foreground
        err = study.ends(130, within=60)
        assert "stopping when the running segments are done; once more stops at once" in err
        assert err.endswith("embsearch: stopped; the same command goes on with this study\n")
        assert study.count("measured") == [count + 1 for count in before]


def ctrl_c_twice_stops_at_once(home):
    with running(home) as study:
        before = study.count("measured")
        os.killpg(study.process.pid, signal.SIGINT)
        time.sleep(0.3)
        os.killpg(study.process.pid, signal.SIGINT)
        assert study.ends(130, within=3).endswith("embsearch: interrupted\n")
        assert study.count("measured") == before


def a_worker_that_gets_sigterm_alone_saves_a_checkpoint_and_the_study_goes_on_with_a_fresh_one(
    home,
):
    with running(home) as study:
        before = study.count("segment")
        study.workers[0].terminate()
        study.ends(0, within=120)
        assert sorted(
            now - then for now, then in zip(study.count("segment"), before, strict=True)
        ) == [0, 1]


def test_a_study_that_is_stopped_in_every_way_comes_to_its_end_and_trains_every_step_once(home):
    sigterm_saves_checkpoints_in_the_middle_of_segments(home, to="the coordinator")
    sigterm_saves_checkpoints_in_the_middle_of_segments(home, to="every process")
    a_terminal_that_is_closed_stops_the_study_as_sigterm_does(home)
    ctrl_c_reaches_only_the_coordinator_which_lets_the_running_segments_finish(home)
    ctrl_c_twice_stops_at_once(home)
    a_worker_that_gets_sigterm_alone_saves_a_checkpoint_and_the_study_goes_on_with_a_fresh_one(home)

    assert home.trials == ["t0000", "t0001"]
    for number in (0, 1):
        (ended,) = home.events("ended", number)
        assert ended["state"] == "complete"
        assert home.events("failed", number) == []
        steps = [step for event in home.events("points", number) for step, _, _ in event["points"]]
        assert steps == list(range(1, home.events("measured", number)[-1]["step"] + 1))
