"""A study under kill -9, whose tracking server is away for a third of the time, ends as if nothing had been.

The short form of benchmarks/chaos.py, which says what is checked. The long form, ``make chaos``, has two workers.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # not a package

import pytest
from chaos import Plan, run, table, tracking

pytestmark = pytest.mark.story
TINY = [
    "study.name=s", "study.task=s", "device=cpu", "train.precision=fp32", "launcher.workers=1", "launcher.threads=1",
    "space=small", "space.train.lr={low: 1e-6, high: 3e-5, log: true}", "train.lr=1e-5", "train.batch_size=32",
    "~space.train.batch_size", "train.warmup_steps=2", "evaluate.at=[0.11,0.33,1.0]", "evaluate.draws=50",
    "stop.trials=6", "train.texts=32000", "confirm.top_k=0",
]  # fmt: skip


def test_a_study_ends_as_if_nothing_had_been(tmp_path, tiny_bert, judgements_csv):
    """With one worker, results come in the order in which trials were given out. The sampler draws each trial from a
    seed of its own and the results before it, the scheduler decides by the results so far, and a trial that
    goes on from a checkpoint computes the same bits on one thread: so that every parameter, value and decision
    is as in the undisturbed study is a promise."""
    words = [*TINY, f"model.path={tiny_bert}", f"data.path={judgements_csv}"]
    with tracking(tmp_path / "mlflow") as mlflow:
        found = run(
            words, tmp_path, Plan(kills=5, between=(0.05, 0.6), after_a_step=True, seed=2), mlflow
        )
    assert found["faults"] == [], table(found)
