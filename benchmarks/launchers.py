"""The throughput of the same study by ``launcher=local`` and by others, with as many workers on this machine.

    python benchmarks/launchers.py                          # ray beside local, 4 turns each, about 15 minutes
    python benchmarks/launchers.py --launchers ray slurm

MiniLM on the data of studies/product_search; sampler=qmc, scheduler=none, so that every run trains the same trials,
whoever is quicker. Throughput is texts a second from the untuned encoder's measurement, when the first worker
is warm, to the last trial's end; in turns, so that the machine's moods meet all alike. Written to
benchmarks/results/launchers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from embsearch.history.log import read_json as read_events
from embsearch.track.mirror import trial_folders

HERE = Path(__file__).parent


def words_of(args: argparse.Namespace, launcher: str, home: Path) -> list[str]:
    return [
        "study=product_search", f"home={home}", "study.name=pace", f"launcher={launcher}",
        f"launcher.workers={args.workers}", "launcher.threads=1", "sampler=qmc", "scheduler=none", "track=none",
        f"stop.trials={args.trials}", f"train.texts={args.texts}", "evaluate.at=[0.5,1.0]",
        "evaluate.max_rows=1000", "evaluate.draws=100", "confirm.top_k=0", "device=cpu", *args.words,
    ]  # fmt: skip


def measure(args: argparse.Namespace, launcher: str) -> dict[str, Any]:
    """Run once. Return the texts a second after its start, and every trial's value."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        command = [
            sys.executable,
            "-m",
            "embsearch.cli.main",
            "search",
            *words_of(args, launcher, home),
        ]
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        (study,) = (home / "studies").iterdir()
        logs = [read_events(trial / "events.jsonl") for trial in trial_folders(study)]
        (baseline,) = (e for e in read_events(study / "events.jsonl") if e["kind"] == "baseline")
        ends = [e for log in logs for e in log if e["kind"] == "ended"]
        texts = sum(max(e["texts_seen"] for e in log if e["kind"] == "measured") for log in logs)
        seconds = (max(e["time"] for e in ends) - baseline["time"]) / 1000
        return {"launcher": launcher, "texts": texts, "seconds": round(seconds, 2),
                "texts_a_second": round(texts / seconds, 2), "values": [e["value"] for e in ends]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--launchers", nargs="*", default=["ray"])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--texts", type=int, default=3840, help="a trial")
    parser.add_argument("--words", nargs="*", default=[], help="more words for every search")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "launchers.json")
    args = parser.parse_args()
    runs = []
    for turn in range(args.turns):
        for launcher in ["local", *args.launchers]:
            runs.append(measure(args, launcher))
            print(f"turn {turn}: {launcher} {runs[-1]['texts_a_second']:.1f} texts/s", flush=True)
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "runs": runs,
        "ratios": {},
    }
    paces = {
        name: [r["texts_a_second"] for r in runs if r["launcher"] == name]
        for name in ["local", *args.launchers]
    }
    for name in args.launchers:
        ratios = [mine / theirs for mine, theirs in zip(paces[name], paces["local"], strict=True)]
        found["ratios"][name] = {
            "median": round(statistics.median(ratios), 3),
            "turns": [round(r, 3) for r in ratios],
        }
        same = all(sorted(r["values"]) == sorted(runs[0]["values"]) for r in runs)
        turns = ", ".join(f"{r:.2f}" for r in ratios)
        print(f"{name}: {statistics.median(ratios):.2f} times local's throughput (turns {turns}); "
              f"values of all trials {'equal' if same else 'DIFFER'}")  # fmt: skip
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
