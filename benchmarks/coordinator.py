"""The cost of a trial beside its training: ask, record, decide and tell, at trial 100 and at trial 10,000.

    python benchmarks/coordinator.py                        # 10,000 trials, about ten minutes
    python benchmarks/coordinator.py --trials 1000

A study with the default sampler (TPE) and scheduler (promotion) whose trials need no time: a replay of
synthetic curves, with the real logs and database. Written to benchmarks/results/coordinator.json:

- milliseconds a trial, CPU and wall, from one suggestion to the next, in windows of 100 trials: a trial's
  suggestion, its events, its decisions, those of trials that were promoted meanwhile;
- milliseconds to tell one of the trials that were still paused at the end;
- seconds to open the study again, and the coordinator's largest memory;
- seconds a trial with a warm worker process at the other end of a pipe (--piped of them).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from embsearch.config.build import build
from embsearch.config.schema import Config
from embsearch.launch.base import Points, decode_job, encode
from embsearch.launch.curves import Synthetic
from embsearch.launch.local import Local
from embsearch.launch.replay import Player, Replay, VirtualClock
from embsearch.study.run import Study
from embsearch.track.base import Recorders

HERE = Path(__file__).parent
WINDOW = 100
SPACE = {
    "train.lr": {"low": 3e-5, "high": 5e-4, "log": True},
    "train.batch_size": {"choices": [32, 64, 128], "ordered": True},
    "objective.name": {"choices": ["triplet", "infonce"]},
    "objective.margin": {"low": 0.05, "high": 0.5, "when": {"objective.name": "triplet"}},
    "objective.temperature": {
        "low": 0.01,
        "high": 0.1,
        "log": True,
        "when": {"objective.name": "infonce"},
    },
}


def config_of(home: Path, trials: int) -> Config:
    data = home / "rows.csv"
    data.write_text(
        "query,title,grade\n" + "".join(f"q{n},a {n},1\nq{n},b {n},0\n" for n in range(12))
    )
    return build({
        "home": str(home), "data": {"path": str(data)}, "study": {"name": "noop"}, "space": SPACE,
        "stop": {"trials": trials}, "launcher": {"name": "replay"}, "track": {"mlflow": False},
    })  # fmt: skip


class Marks:
    """A listener to a study's changes that notes CPU and wall time at every suggestion."""

    def __init__(self) -> None:
        self.at: list[tuple[float, float]] = []

    def __call__(self, study: Study, line: str) -> None:
        while len(self.at) < len(study.trials):
            self.at.append((time.process_time(), time.perf_counter()))

    def mean(self, until: int) -> dict[str, float]:
        """Return the milliseconds a trial in the window that ends with trial ``until``."""
        first, last = self.at[max(until - WINDOW, 0)], self.at[until - 1]
        trials = until - 1 - max(until - WINDOW, 0)
        cpu, wall = (1000 * (b - a) / trials for a, b in zip(first, last, strict=True))
        return {"cpu_ms": round(cpu, 2), "wall_ms": round(wall, 2)}


def replayed(config: Config, watch: Any = lambda study, line: None) -> Study:
    clock = VirtualClock()
    return Study(config, lambda _: Replay(Synthetic(), clock), lambda _: Recorders(), watch, clock)


def measure(home: Path, trials: int) -> dict[str, Any]:
    config, marks = config_of(home, trials), Marks()
    study = replayed(config, marks)
    study.run()
    ended = (time.process_time(), time.perf_counter())
    windows = sorted({WINDOW, *(n for n in (1000, 2000, 5000) if n < trials), trials})
    pruned = len(study.trials.in_state("pruned"))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    replayed(replace(config, stop=replace(config.stop, trials=trials + 1))).run()
    return {
        "trials": trials,
        "by_trial": {str(n): marks.mean(n) for n in windows},
        "ratio_cpu": round(marks.mean(trials)["cpu_ms"] / marks.mean(WINDOW)["cpu_ms"], 2),
        "ratio_wall": round(marks.mean(trials)["wall_ms"] / marks.mean(WINDOW)["wall_ms"], 2),
        "tell_at_the_end": {
            "trials": pruned,
            "cpu_ms": round(1000 * (ended[0] - marks.at[-1][0]) / pruned, 2),
            "wall_ms": round(1000 * (ended[1] - marks.at[-1][1]) / pruned, 2),
        },
        "memory_mb": round(memory),
        "open_again_s": round(time.perf_counter() - began, 1),
    }


def piped(home: Path, trials: int) -> dict[str, Any]:
    """Measure the same with ``launcher=local``: one warm process that answers at once."""
    config, marks = config_of(home, trials), Marks()
    command = [sys.executable, __file__, "--worker"]
    study = Study(
        config,
        lambda folder: Local(command, 1, 1, folder / "workers"),
        lambda _: Recorders(),
        marks,
    )
    study.run()
    wall = marks.at[-1][1] - marks.at[0][1]
    return {"trials": trials, "seconds_a_trial": round(wall / (trials - 1), 4)}


def worker() -> None:
    """Answer tasks from synthetic curves, over pipes as embsearch.worker does."""
    play = Player(Synthetic())
    for line in sys.stdin:
        for _, message in play(decode_job(json.loads(line))):
            if isinstance(message, Points):
                now = int(time.time() * 1000)
                message = Points(tuple((step, now, metrics) for step, _, metrics in message.points))
            print(json.dumps(encode(message)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--piped", type=int, default=200, metavar="TRIALS")
    parser.add_argument(
        "--home", type=Path, help="where the studies are written; a temporary folder by default"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "coordinator.json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker()
        return
    found: dict[str, Any] = {
        "optuna": optuna.__version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
    }
    with (
        tempfile.TemporaryDirectory(dir=args.home) as home,
        tempfile.TemporaryDirectory(dir=args.home) as other,
    ):
        found["replay"] = measure(Path(home), args.trials)
        found["local"] = piped(Path(other), args.piped)
    print(json.dumps(found, indent=1))
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
