"""The share of searches in which schedulers keep the best configuration, and its cost, on known curves.

    python benchmarks/schedulers.py              # a few minutes; writes benchmarks/results/schedulers.json
    python benchmarks/schedulers.py --seeds 5    # a first look

Every search is by one worker over configurations drawn at random. A row of the table is the mean of
``--seeds`` searches: the share of the budget that training every configuration to its end would take; in how
many searches the best configuration ran to its end; and the AUC lost: the best configuration's at its end
minus that of the best one that ran to its end.

Synthetic: 64 configurations of 27 evaluations. They end anywhere in 0.65 ... 0.95 and get there at different
speeds, so that early places mislead; on top comes the noise of a measurement. Recorded: 24 random
configurations of studies/product_search, five evaluations each, in another order for every seed.

The searches ask the schedulers directly. ``--check`` (first seed of each family) plays the same searches
through the coordinator, as whole studies with logs and database, and compares what came to its end.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from embsearch.cli.curves import from_json
from embsearch.config.build import build
from embsearch.config.schema import Config, EvaluateConfig, SchedulerConfig, StopConfig, StudyConfig
from embsearch.history.board import Board
from embsearch.history.trial import Trial
from embsearch.hpo.scheduler import make
from embsearch.launch.curves import Table
from embsearch.launch.replay import Replay, VirtualClock
from embsearch.study.run import Study
from embsearch.track.base import Recorders
from embsearch.values import Outcome, State

HERE = Path(__file__).parent
RULES: dict[str, dict[str, Any]] = {
    "promotion": {"name": "promotion", "min_rung": 3},
    "promotion, stop.seconds set": {"name": "promotion", "min_rung": 3},
    "median, 5 startup trials": {"name": "median", "startup_trials": 5, "min_rung": 3},
    "asha, min 1": {"name": "asha", "min_rung": 1},
    "asha, min 3": {"name": "asha", "min_rung": 3},
    "hyperband": {"name": "hyperband", "min_rung": 1},
}
NAME = "schedulers"  # of every study: hyperband deals its brackets by name


@dataclass(frozen=True)
class Family:
    """Searches of one kind: ``curves(seed)`` gives what is true and what is measured, (trials, evaluations)."""

    name: str
    at: tuple[float, ...]
    first: (
        int  # the evaluation that has 1/9 of the budget behind it, where promotion and asha-3 begin
    )
    curves: Callable[[int], tuple[np.ndarray, np.ndarray]]


def synthetic(noise: float) -> Family:
    def curves(seed: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        end, speed = (
            random.uniform(0.65, 0.95, (64, 1)),
            np.exp(random.uniform(np.log(0.5), np.log(6), (64, 1))),
        )
        true = end - 0.3 * np.exp(-np.arange(1, 28) / speed)
        return true, true + random.normal(0, noise, true.shape)

    return Family(f"synthetic, noise {noise:g}", tuple(k / 27 for k in range(1, 28)), 3, curves)


def recorded(file: Path) -> Family:
    known = from_json(json.loads(file.read_text(encoding="utf-8")), file.name)
    values = np.array(
        [[m.metrics["val/auc"] for m in c.measurements] for c in known.curves if c.failure is None]
    )

    def curves(seed: int) -> tuple[np.ndarray, np.ndarray]:
        seen = values[np.random.default_rng(seed).permutation(len(values))]
        return seen, seen

    return Family(f"recorded, {file.stem}", tuple(known.at), 1, curves)


def config_of(rule: str, family: Family, trials: int) -> Config:
    """Return the scheduler's settings, by evaluations of this family."""
    settings = dict(RULES[rule])
    if family.first == 1 and settings["name"] != "asha":
        settings["min_rung"] = 1
    stop = StopConfig(trials=trials, seconds=1e9 if rule.endswith("stop.seconds set") else None)
    return Config(
        scheduler=SchedulerConfig(**settings),
        evaluate=EvaluateConfig(at=family.at),
        stop=stop,
        study=StudyConfig(name=NAME),
    )


def search(rule: str, family: Family, seen: np.ndarray) -> tuple[float, set[int]]:
    """Run one search. Return the share of the full budget it spent, and the trials that ran to their end."""
    trials, evaluations = seen.shape
    scheduler = make(config_of(rule, family, trials))
    board = Board()
    while (number := scheduler.next_paused(board)) is not None or len(board) < trials:
        if number is None:
            number = len(board)
            board.add(Trial(number))
        trial = board[number]
        _move(board, trial, "running")
        while trial.state == "running":
            with board.changing(trial):
                trial.values = {**trial.values, trial.rung + 1: float(seen[number, trial.rung])}
            if trial.rung == evaluations:
                _move(board, trial, "complete")
                continue
            decision = scheduler.decide(trial, board)
            trial.attributes.update(decision.attributes)
            if decision.kind != "continue":
                _move(board, trial, "paused" if decision.kind == "pause" else "pruned")
    spent = sum(family.at[t.rung - 1] for t in board.values())
    return spent / trials, {t.number for t in board.in_state("complete")}


def _move(board: Board, trial: Trial, state: State) -> None:
    """Give a trial its state, and its outcome where it has ended."""
    with board.changing(trial):
        trial.state = state
        if state in ("complete", "pruned"):
            trial.outcome = Outcome(state, "it ended", trial.best)


def played(rule: str, family: Family, seen: np.ndarray) -> tuple[float, set[int]]:
    """Play the same search as a whole study on a virtual clock."""
    with tempfile.TemporaryDirectory() as home:
        data = Path(home) / "rows.csv"
        data.write_text(
            "query,title,grade\n" + "".join(f"q{n},a {n},1\nq{n},b {n},0\n" for n in range(12))
        )
        ours = config_of(rule, family, len(seen))
        config = build({
            "home": home, "data": {"path": str(data)}, "study": {"name": NAME}, "sampler": {"name": "random"},
            "space": {"train.lr": {"low": 1e-5, "high": 1e-3, "log": True}}, "stop": vars(ours.stop),
            "evaluate": {"at": family.at}, "scheduler": vars(ours.scheduler), "launcher": {"name": "replay"},
            "train": {"texts": 192_000},
        })  # fmt: skip
        clock = VirtualClock()
        study = Study(
            config,
            lambda _: Replay(Table(seen.tolist()), clock),
            lambda _: Recorders(),
            clock=clock,
        )
        study.run()
        ended = {t.number for t in study.trials.in_state("complete")}
        return sum(family.at[t.rung - 1] for t in study.trials.values()) / len(seen), ended


def table(families: Sequence[Family], seeds: int, check: bool) -> Iterator[dict[str, Any]]:
    for family in families:
        for rule in RULES:
            rows = []
            for seed in range(seeds):
                true, seen = family.curves(seed)
                share, ended = search(rule, family, seen)
                if check and seed == 0 and played(rule, family, seen) != (share, ended):
                    raise AssertionError(
                        f"{family.name}, {rule}: the coordinator came to another end"
                    )
                best, end = int(true[:, -1].argmax()), true[:, -1]
                rows.append(
                    (share, best in ended, end[best] - max((end[n] for n in ended), default=0.5))
                )
            share, kept, lost = np.mean(rows, axis=0)
            yield {"curves": family.name, "rule": rule, "searches": seeds, "share": round(float(share), 4),
                   "kept": round(float(kept), 4), "auc_lost": round(float(lost), 6)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument(
        "--check", action="store_true", help="play the first searches through the coordinator too"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "schedulers.json")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    families = [synthetic(0.005), synthetic(0.02), recorded(HERE / "data" / "product_search.json")]
    rows = []
    print(f"{'curves':30}{'rule':30}{'budget':>8}{'best kept':>11}{'AUC lost':>10}")
    for row in table(families, args.seeds, args.check):
        rows.append(row)
        print(
            f"{row['curves']:30}{row['rule']:30}{row['share']:8.3f}{row['kept']:10.0%} {row['auc_lost']:10.5f}"
        )
        sys.stdout.flush()
    made = {
        "optuna": optuna.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    args.out.write_text(
        json.dumps({"made_with": made, "checked": args.check, "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
