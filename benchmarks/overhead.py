"""The wall time of a study beside training and evaluating, everything recorded in MLflow.

    python benchmarks/overhead.py                    # 12 trials of about a minute, one worker: 13 minutes
    python benchmarks/overhead.py stop.trials=3 train.texts=9600

The command runs as its user runs it. Inside: the seconds that trials report (steps, evaluations, their
checkpoints and models), and those of evaluating the untuned encoder and the final test. Outside: imports,
reading data, loading weights, suggestions, logs, MLflow, and waiting for any of them. Written to
benchmarks/results/overhead.json.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from embsearch.history.log import read_json as read_events

RESULT = Path(__file__).parent / "results" / "overhead.json"
WORDS = [
    "study=product_search", "study.defaults=[]", "space=none", "+space.train.lr={low: 5e-5, high: 3e-4, log: true}",
    "sampler=qmc", "scheduler=none", "launcher.workers=1", "stop.trials=12", "stop.seconds=null", "train.texts=38400",
    "objective.name=infonce", "train.batch_size=64", "confirm.top_k=0",
]  # fmt: skip


def main(overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as home:
        command = [
            sys.executable,
            "-m",
            "embsearch.cli.main",
            "search",
            *WORDS,
            f"home={home}",
            *overrides,
        ]
        started = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = shares(Path(home) / "studies" / "product_search", time.monotonic() - started)
    made = {"command": f"python benchmarks/overhead.py {' '.join(overrides)}".strip(), "cpus": os.cpu_count(),
            "python": platform.python_version()}  # fmt: skip
    RESULT.write_text(json.dumps({"made_with": made, **found}, indent=1) + "\n")
    for name, value in found.items():
        print(f"{name:<28}{value:>10.4g}")


def shares(study: Path, wall: float) -> dict[str, Any]:
    """Return the seconds inside and outside, and from one trial's end to the next one's first step."""
    trials = [read_events(path) for path in sorted(study.glob("trials/t*/events.jsonl"))]
    events = read_events(study / "events.jsonl")
    last = [[e for e in log if e["kind"] == "measured"][-1] for log in trials]
    training = sum(e["seconds"] for e in last)
    evaluating = sum(e["seconds"] for e in events if e["kind"] in ("baseline", "tested"))
    began = min(log[0]["time"] for log in trials) / 1000
    ended = max(log[-1]["time"] for log in trials) / 1000
    return {
        "trials": len(trials),
        "seconds a trial": training / len(trials),
        "wall seconds": wall,
        "outside, share": 1 - (training + evaluating) / wall,
        "between trials, share": 1 - training / (ended - began),
        "outside, seconds a trial": (ended - began - training) / len(trials),
        "outside, once a study": wall - evaluating - (ended - began),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
