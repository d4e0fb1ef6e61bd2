"""A small study written through the event log, and ways to look at what MLflow has of it.

The study: four trials over four axes. t0000 complete, t0001 pruned, t0002 failed before any
evaluation, t0003 still running: it was given out again after its first evaluation.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import sysconfig
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers import append

import embsearch
from embsearch.config.build import to_dict
from embsearch.config.schema import Config
from embsearch.history.log import EventLog
from embsearch.track.mlflow_store import connect, experiment_name

SPACE = {
    "train.lr": {"low": 1e-5, "high": 1e-2, "log": True},
    "train.batch_size": {"choices": [16, 32, 64, 128], "ordered": True},
    "objective.name": {"choices": ["triplet", "infonce"]},
    "objective.margin": {"low": 0.05, "high": 0.5, "when": {"objective.name": "triplet"}},
}


def write_study(folder: Path) -> Path:
    """The synthetic study, through the event log that a real one uses."""
    (folder / "trials").mkdir(parents=True)
    (folder / "study.yaml").write_text("study: {name: shop}\n")
    log = EventLog(folder / "events.jsonl")
    append(log,
        "opened", name="shop", task="search", config="c" * 64, data="f" * 64, rows={"rows": {"train": 10}},
        environment={"git_commit": "abc123", "git_dirty": False, "packages": {"torch": "2.13.0"}},
    )  # fmt: skip
    append(log, "baseline", metrics={"auc": 0.596})

    complete = start_trial(folder, 0, lr=1e-4, batch=64, loss="triplet")
    train(complete, steps=6, measure={3: 0.90, 6: 0.95})
    append(complete, "ended", state="complete", reason="budget spent", value=0.95, failure=None,
                    objective=0.95, model=None)  # fmt: skip
    append(log, "told", trial=0, state="complete", value=0.95)

    pruned = start_trial(folder, 1, lr=1e-3, batch=32, loss="infonce")
    train(pruned, steps=3, measure={3: 0.70})
    append(pruned, "decided", decision="stop", reason="median: 0.70 below 0.90")
    append(pruned, "ended", state="pruned", reason="median: 0.70 below 0.90", value=0.70, failure=None,
                  objective=0.70, model=None)  # fmt: skip
    append(log, "told", trial=1, state="pruned", value=0.70)

    failed = start_trial(folder, 2, lr=1e-2, batch=16, loss="triplet")
    train(failed, steps=2, measure={})
    append(failed, "failed", failure="diverged", message="loss nan at step 3", attempt=0)
    append(failed, "ended", state="failed", reason="loss nan at step 3", value=None, failure="diverged",
                  objective=None, model=None)  # fmt: skip
    append(log, "told", trial=2, state="failed", value=None)

    running = start_trial(folder, 3, lr=5e-5, batch=128, loss="triplet")
    train(running, steps=3, measure={3: 0.92})
    append(running, "decided", decision="continue", reason="0.92 above the median")
    give_out(running, 3, rung=1)
    train(running, steps=4, measure={}, first=4)
    return folder


def finish_study(folder: Path) -> Path:
    """The last trial and the study come to their ends."""
    last = EventLog(folder / "trials/t0003/events.jsonl")
    train(last, steps=6, measure={6: 0.94}, first=5)
    append(last, "ended", state="complete", reason="budget spent", value=0.94, failure=None,
                objective=0.94, model=None)  # fmt: skip
    log = EventLog(folder / "events.jsonl")
    append(log, "told", trial=3, state="complete", value=0.94)
    append(log, "tested", label="untuned encoder", trial=None, split="test", metrics={"auc": 0.59})
    append(log, "tested", label="best trial", trial=0, split="test", metrics={"auc": 0.93})
    append(log, "closed", why="4 trials", best=0, result={})
    return folder


STUDY_POINTS = sorted(
    [
        ("baseline/auc", 0, 0.596), *(("objective", step, 0.95) for step in range(4)),
        ("test/untuned encoder/auc", 0, 0.59), ("test/best trial/auc", 0, 0.93),
    ]
)  # fmt: skip  # of a study that has come to its end


def history(number: int, best: float) -> list[tuple[str, int, float]]:
    """What the study says about a trial whose result it has taken."""
    return [("search/best so far", 0, best), ("search/trial number", 0, number)]


def in_a_process(code: str, config: Config, folder: Path) -> subprocess.Popen[str]:
    """A process that runs ``code`` with a ``config`` and the study's ``folder``."""
    head = (
        "import json, sys; from pathlib import Path; from embsearch.config.build import build\n"
        "config, folder = build(json.loads(sys.argv[1])), Path(sys.argv[2])\n"
    )
    words = [sys.executable, "-c", head + code, json.dumps(to_dict(config)), str(folder)]
    alone = {
        name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"
    }  # this process's
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=alone)


def without_package(
    package: str, tmp_path: Path, words: list[str]
) -> subprocess.CompletedProcess[str]:
    """``embsearch`` in an environment that lacks a package: this one's packages, but for it."""
    site = Path(sysconfig.get_path("purelib"))
    lacking = tmp_path / "site"
    lacking.mkdir()
    for entry in site.iterdir():
        if not entry.name.startswith((package, f"{package}-")):
            (lacking / entry.name).symlink_to(entry)
    root = Path(embsearch.__file__).parents[1]
    code = f"import sys; sys.path += [{str(root)!r}, {str(lacking)!r}]\nfrom embsearch.cli.main import main\n"
    command = [sys.executable, "-I", "-S", "-c", f"{code}sys.exit(main(sys.argv[1:]))", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)


def start_trial(folder: Path, number: int, lr: float, batch: int, loss: str) -> EventLog:
    trial = folder / "trials" / f"t{number:04d}"
    trial.mkdir(parents=True)
    (trial / "config.yaml").write_text(f"train: {{lr: {lr}}}\n")
    log = EventLog(trial / "events.jsonl")
    params = {"train.lr": lr, "train.batch_size": batch, "objective.name": loss}
    axes = {"lr": lr, "batch_size": batch, "objective": loss, "margin": 0.3}
    if loss == "triplet":
        params["objective.margin"] = 0.3
    append(log, "created", trial=number, params=params, axes=axes, attempt=0)
    give_out(log, number, rung=0)
    return log


def give_out(log: EventLog, number: int, rung: int) -> None:
    """A worker gets the trial, which stands at an evaluation, to train it until the next."""
    segment = {"trial": number, "attempt": 0, "from_checkpoint": rung, "until": rung + 1}
    append(log, "segment", segment=segment, slot=0)


def train(log: EventLog, steps: int, measure: dict[int, float], first: int = 1) -> None:
    """Points for every step and a measurement where ``measure`` has one."""
    for step in range(first, steps + 1):
        metrics = {
            "train/loss": 1.0 / step,
            "train/lr": 1e-4,
            "cost/texts_per_second": 100.0 + step,
        }
        append(log, "points", points=[[step, 1_700_000_000_000 + step, metrics]])
        if step in measure:
            append(log,
                "measured", rung=step // 3, step=step, texts_seen=step * 96, seconds=step * 2.0, last=False, why="",
                metrics={"val/auc": measure[step], "val/triplet_accuracy": measure[step] - 0.01},
            )  # fmt: skip


def expected_points(last: int, evaluations: dict[int, float]) -> list[tuple[str, int, float]]:
    points = []
    for step in range(1, last + 1):
        points += [("train/loss", step, 1.0 / step), ("train/lr", step, 1e-4)]
        points += [("cost/texts_per_second", step, 100.0 + step)]
    best = 0.0
    for step, value in evaluations.items():
        best = max(best, value)
        points += [
            ("val/auc", step, value),
            ("val/triplet_accuracy", step, value - 0.01),
            ("objective", step, best),
            (f"objective at evaluation {step // 3}", step, value),
        ]
        points += [("cost/seconds", step, step * 2.0), ("cost/texts", step, step * 96.0)]
    return sorted(points)


def without_history(points: list[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
    return [p for p in points if not p[0].startswith("search/")]


def every_point(config: Config, name: str) -> list[tuple[str, int, float]]:
    """All points that MLflow has of a run, as (metric, step, value)."""
    client = connect(config)
    run = run_named(config, name)
    points = [
        (key, p.step, p.value)
        for key in run.data.metrics
        for p in client.get_metric_history(run.info.run_id, key)
    ]
    return sorted(points)


def run_named(config: Config, name: str) -> Any:
    """mlflow's Run."""
    client = connect(config)
    experiment = client.get_experiment_by_name(experiment_name(config))
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    return run


class Gate:
    """A door in front of a server: shut, it refuses connections as a dead server does."""

    def __init__(self, port_behind: int) -> None:
        self._behind = port_behind
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._behind))
            self._connections += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
