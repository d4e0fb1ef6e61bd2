"""The number of trials that TPE should see: its best, its late suggestions, and the cost of a suggestion.

    python benchmarks/tpe_history.py        # about fifteen minutes; writes benchmarks/results/tpe_history.json

Searches of 2,000 trials over seven parameters, two of them conditional, on the synthetic curves of
``launcher=replay`` (measured once, noise 0.01). A row is the mean of four searches:

- ``found``: what the best configuration would measure at its end without noise;
- ``late``: the mean of that over the last 200 suggestions. A sampler that has seen enough suggests good ones;
- ``cpu_ms``: of the last 50 suggestions.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from embsearch.config.build import build, to_dict, with_values
from embsearch.config.schema import SamplerConfig
from embsearch.history.board import Board
from embsearch.history.trial import Trial
from embsearch.hpo import sampler, sampler_history
from embsearch.hpo.memory_study import memory_study
from embsearch.hpo.scheduler import make
from embsearch.hpo.space import parse
from embsearch.launch.curves import Synthetic

HERE = Path(__file__).parent
MARKS = (500, 1000, 2000)
SPACE = {
    "train.lr": {"low": 3e-5, "high": 5e-4, "log": True},
    "train.l2": {"low": 1e-4, "high": 1e-1, "log": True},
    "train.batch_size": {"choices": [16, 32, 64, 128], "ordered": True},
    "train.warmup_steps": {"low": 0, "high": 100, "step": 10},
    "objective.name": {"choices": ["triplet", "infonce"]},
    "objective.margin": {"low": 0.05, "high": 0.5, "when": {"objective.name": "triplet"}},
    "objective.temperature": {
        "low": 0.01,
        "high": 0.1,
        "log": True,
        "when": {"objective.name": "infonce"},
    },
}


def search(seed: int, trials: int) -> tuple[list[float], list[float]]:
    """Run one search. Return the true value of every trial's configuration, and its suggestion's CPU seconds."""
    config = build({
        "space": SPACE, "train": {"warmup_steps": 20},
        "evaluate": {"at": [1.0]}, "scheduler": {"name": "none"},
    })  # fmt: skip
    space, rule, curves = parse(config.space, config), make(config), Synthetic(seed, 0.01)
    board = Board()
    kept: sampler_history.Kept = {}
    worth, seconds = [], []
    for number in range(trials):
        began = time.process_time()
        known = sampler_history.ranked(board, space, rule, config.evaluate.at, kept)
        mine = sampler.make(SamplerConfig(seed=seed), space, number)
        params = space.suggest(memory_study(known, number, "shown", mine).ask())
        seconds.append(time.process_time() - began)
        tried = to_dict(with_values(config, params))
        worth.append(curves.ends_at(tried))
        measured = curves.curve(number, tried).measurements[-1].metrics["val/auc"]
        board.add(Trial(number, "complete", {1: measured}, params=params))
    return worth, seconds


def row(shown: int, until: int, found: list[tuple[list[float], list[float]]]) -> dict[str, Any]:
    return {
        "shown": shown, "trials": until, "searches": len(found),
        "found": round(float(np.mean([max(worth[:until]) for worth, _ in found])), 4),
        "late": round(float(np.mean([np.mean(worth[until - 200 : until]) for worth, _ in found])), 4),
        "cpu_ms": round(1000 * float(np.mean([np.mean(seconds[until - 50 : until]) for _, seconds in found])), 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shown", type=int, nargs="+", default=[150, 300, 500, 1000, 1_000_000])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "tpe_history.json")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = []
    for shown in args.shown:
        sampler_history.MAX_HISTORY, sampler_history.BEST = shown, min(50, shown // 4)
        found = [search(seed, max(MARKS)) for seed in range(args.seeds)]
        for until in MARKS:
            rows.append(row(shown, until, found))
            print(rows[-1], flush=True)
    made = {"optuna": optuna.__version__, "python": platform.python_version()}
    args.out.write_text(json.dumps({"made_with": made, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
