"""A study of a thousand trials asks, records and tells as one of a hundred does; the long form, ten thousand, is
benchmarks/coordinator.py."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import optuna
import pytest

from embsearch.config.build import build
from embsearch.hpo.space import parse
from embsearch.launch.curves import Synthetic
from embsearch.launch.replay import SAVED, Replay, VirtualClock
from embsearch.study.run import Study
from embsearch.track.base import Recorders
from embsearch.track.optuna_follower import OptunaFollower

pytestmark = pytest.mark.story
NEW = 40  # trials that are measured, after those that exist
SPACE = {
    "train.lr": {"low": 3e-5, "high": 5e-4, "log": True},
    "train.batch_size": {"choices": [32, 64, 128], "ordered": True},
    "objective.name": {"choices": ["triplet", "infonce"]},
    "objective.margin": {"low": 0.05, "high": 0.5, "when": {"objective.name": "triplet"}},
}


def study_of(config, watch=lambda study, line: None):
    clock = VirtualClock()
    return Study(
        config, lambda folder: Replay(Synthetic(), clock), lambda folder: Recorders(), watch, clock
    )


def begun(home, trials):
    """The config of a study in which so many trials exist: the better third complete, the others paused."""
    home.mkdir()
    data = home / "rows.csv"
    data.write_text(
        "query,title,grade\n" + "".join(f"q{n},right {n},1\nq{n},wrong {n},0\n" for n in range(12))
    )
    config = build({"home": str(home), "data": {"path": str(data)}, "study": {"name": "s"}, "space": SPACE,
                    "stop": {"trials": 1}, "track": {"mlflow": False}})  # fmt: skip
    study_of(config).run()
    draw, space = np.random.default_rng(0), parse(SPACE, config)
    for number, value in enumerate(draw.permutation(trials - 1) / trials, 1):
        write_trial(
            home, number, float(value), space.fill({"train.lr": draw.uniform(3e-5, 5e-4)}, config)
        )
    return replace(config, stop=replace(config.stop, trials=trials + NEW))


def write_trial(home, number, value, params):
    rungs = range(1, 6) if value > 0.7 else [1]
    events = [{"kind": "created", "trial": number, "params": params}]
    for rung in rungs:
        measured = {
            "rung": rung,
            "step": rung,
            "texts_seen": rung,
            "seconds": 1.0,
            "last": False,
            "why": "",
        }
        segment = {"trial": number, "attempt": 0, "from_checkpoint": rung - 1, "until": rung}
        events.append({"kind": "segment", "segment": segment})
        events.append({"kind": "measured", "metrics": {"val/auc": value}, **measured})
    if len(rungs) == 5:
        events.append(
            {
                "kind": "ended",
                "state": "complete",
                "reason": "spent",
                "value": value,
                "failure": None,
            }
        )
    else:
        events.append({"kind": "decided", "decision": "pause", "reason": "not yet"})
    folder = home / "studies" / "s" / "trials" / f"t{number:04d}"
    folder.mkdir(parents=True)
    stamped = [
        {"seq": n, "time": int(time.time() * 1000), **event} for n, event in enumerate(events)
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in stamped))
    (folder / SAVED).write_text(json.dumps({"auc": value}))


def cost(home, trials):
    """Seconds of CPU from one suggestion to the next, the median of those after ``trials``."""
    marks = {}

    def watch(study, line):
        marks.setdefault(len(study.trials), time.process_time())

    study = study_of(begun(home, trials), watch)
    study.run()
    assert len(study.trials) == trials + NEW
    assert sum(t.state == "pruned" for t in study.trials.values()) > trials / 2
    times = [marks[n] for n in range(trials + 1, trials + NEW)]
    return statistics.median(b - a for a, b in pairwise(times))


def test_the_thousandth_trial_costs_at_most_three_times_the_hundredth(tmp_path):
    few, many = cost(tmp_path / "few", 100), cost(tmp_path / "many", 1000)
    assert many <= 3 * few, f"{1000 * few:.1f} ms at 100 trials, {1000 * many:.1f} ms at 1000"
    assert few <= 0.5


@pytest.mark.parametrize("workers", [1, 4])
def test_a_study_of_many_trials_ends_with_exactly_so_many(tmp_path, workers):
    config = begun(tmp_path / "home", 300)
    clock = VirtualClock()
    study = Study(
        config, lambda _: Replay(Synthetic(), clock, workers), lambda _: Recorders(), clock=clock
    )
    result = study.run()
    assert sum(result.counts.values()) == 300 + NEW
    assert OptunaFollower(config, study.folder.path).sync() == 0
    database = f"sqlite:///{config.home}/optuna.db"
    trials = optuna.load_study(study_name=None, storage=database).get_trials(deepcopy=False)
    assert sum("soup" not in trial.user_attrs for trial in trials) == 300 + NEW
    assert all(trial.state.is_finished() for trial in trials)
