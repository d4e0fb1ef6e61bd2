"""What a person watches: readable at 80 columns, honest about what is left."""

from __future__ import annotations

from types import SimpleNamespace

from rich.console import Console

from embsearch.config.schema import Config, EvaluateConfig, StopConfig
from embsearch.history.trial import Trial
from embsearch.hpo.space import parse
from embsearch.report.live import reads, summary, trials_table
from embsearch.values import Reading

RAW = {
    "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "train.batch_size": {"choices": [32, 64, 128], "ordered": True},
    "objective.name": {"choices": ["triplet", "infonce"]},
    "objective.temperature": {"low": 0.01, "high": 0.1, "when": {"objective.name": "infonce"}},
}


def study(*trials, most=12):
    config = Config(stop=StopConfig(trials=most), evaluate=EvaluateConfig(at=(0.1, 0.3, 1.0)))
    params = {
        "train.lr": 2.2e-4,
        "train.batch_size": 128,
        "objective.name": "infonce",
        "objective.temperature": 0.05,
    }
    for trial in trials:
        trial.params = params
    return SimpleNamespace(
        config=config, space=parse(RAW, config), trials={t.number: t for t in trials}, elapsed=100.0,
        baseline={"auc": 0.6}, best=max(trials, key=lambda t: t.best or 0, default=None),
    )  # fmt: skip


def drawn(shown, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(trials_table(shown))
    return console.export_text().splitlines()


def test_at_80_columns_only_the_parameters_are_cut_off():
    lines = drawn(
        study(
            Trial(7, "complete", {1: 0.9, 2: 0.91, 3: 0.92}),
            Trial(11, "running", {1: 0.9}, speed=250),
        ),
        80,
    )
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["trial", "state", "rung", "best", "texts/s", "parameters"]
    assert lines[1].split()[:5] == ["11", "running", "1/3", "0.9000", "250"]
    assert lines[2].split()[:4] == ["7", "complete", "3/3", "0.9200"]
    assert "lr 0.00022 batch_size 128" in lines[2]


def test_many_trials_are_counted_where_they_are_not_shown():
    lines = drawn(study(*[Trial(n, "paused", {1: 0.5 + n / 100}) for n in range(30)]), 80)
    assert "+12 more" in lines[-1]


def test_the_summary_says_how_far_how_good_and_how_long():
    going = summary(
        study(
            Trial(0, "complete", {1: 0.9, 2: 0.9, 3: 0.95}), Trial(1, "running", {1: 0.8}, speed=99)
        )
    )
    assert (
        "1 of 12 trials ended, 2 begun, best auc 0.9500 (trial 0), 99 texts/s, 1:40 spent, about"
        in going
    )
    ended = summary(study(Trial(0, "complete", {1: 0.9, 2: 0.9, 3: 0.95}), most=1))
    assert ended.endswith("1 of 1 trials ended, 1 begun, best auc 0.9500 (trial 0), 1:40 spent")


def test_what_evaluations_read_is_said_with_its_error_where_they_differ():
    every = Reading(300, 2500, 0.00447)
    found = reads([Reading(60, 510, 0.00981), Reading(240, 2010, 0.00498), every, every])
    assert found == (
        "evaluations read 510 (0.0098), 2,010 (0.0050), then all 2,500 (0.0045) rows; in brackets the standard error "
        "of AUC"
    )
    assert reads([every, every]) == reads([]) == ""
