"""Samplers: what is suggested depends on the study's history alone, not on the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from embsearch.config.schema import Config, SamplerConfig, StudyConfig
from embsearch.errors import StudyError
from embsearch.history.trial import Trial
from embsearch.hpo.memory_study import as_told
from embsearch.hpo.scheduler import make
from embsearch.hpo.space import parse
from embsearch.hpo.suggest import Suggester, check_kinds
from embsearch.values import Outcome

SAMPLERS = ["tpe", "random", "grid", "qmc", "gp", "cmaes"]
FLAT = {
    "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "train.batch_size": {"choices": [32, 64], "ordered": True},
    "train.schedule": {"choices": ["linear", "cosine"]},
}
CONDITIONAL = FLAT | {
    "objective.name": {"choices": ["triplet", "infonce"]},
    "objective.margin": {"low": 0.05, "high": 0.5, "when": {"objective.name": "triplet"}},
}


def config(sampler="tpe", raw=None, **more):
    return Config(
        space=raw or CONDITIONAL, sampler=SamplerConfig(sampler, startup_trials=2), **more
    )


def suggester(config):
    return Suggester(config, parse(config.space, config), make(config))


def score(params):
    return 0.5 + 100 * params["train.lr"] + 0.001 * params["train.batch_size"]


def complete(suggestion, value):
    """Return the trial of a suggestion at its end, as its log tells it."""
    outcome = Outcome("complete", "budget spent", value)
    return Trial(
        suggestion.trial, "complete", {3: value}, params=suggestion.params,
        attributes=dict(suggestion.attributes), outcome=outcome,
    )  # fmt: skip


def history(config, trials, stop):
    """Suggest and end further trials until there are ``stop``, by one process; return all parameters."""
    mine = suggester(config)
    for number in range(len(trials), stop):
        suggestion = mine.suggest(number, trials)
        trials[number] = complete(suggestion, score(suggestion.params))
    return [dict(trial.params) for trial in trials.values()]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_suggests_the_same_after_the_same_history_in_another_process(name):
    here = history(config(name), {}, 6)
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import test_sampler as t\n"
        "config, trials = t.config(sys.argv[2]), {}\n"
        "t.history(config, trials, 3); print(json.dumps(t.history(config, trials, 6)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), name],
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == here, done.stderr
    assert here[0] == parse(config(name).space, Config()).default(Config())
    assert len({json.dumps(p) for p in here}) == 6, "a suggestion was repeated"
    assert {p["train.batch_size"] for p in here} == {32, 64}
    assert {p["train.schedule"] for p in here} == {"linear", "cosine"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_suggestion_that_was_not_recorded_changes_no_other(name):
    wanted = history(config(name), {}, 4)
    trials = {}
    history(config(name), trials, 2)
    shaken = suggester(config(name))
    asked = [
        shaken.suggest(2, trials) for _ in range(2)
    ]  # and the process dies before it writes this down
    assert asked[0] == asked[1]
    assert history(config(name), trials, 4) == wanted


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_a_process_remembers_changes_no_suggestion(name):
    """One process that suggests all against one for every suggestion; trials move in between."""
    one, trials = suggester(config(name)), {}
    for number in range(8):
        suggestion = one.suggest(number, trials)
        assert suggestion == suggester(config(name)).suggest(number, trials)
        trials[number] = Trial(
            number, "running", params=suggestion.params, attributes=dict(suggestion.attributes)
        )
        if number >= 2:  # ends late, as where several workers train
            ended = trials[number - 2]
            ended.state, ended.values = "complete", {3: score(ended.params)}
            ended.outcome = Outcome("complete", "budget spent", ended.values[3])


def test_a_grid_tries_every_point_once_also_beside_points_tried_first():
    raw = {k: FLAT[k] for k in ("train.batch_size", "train.schedule")}
    raw |= {"train.l2": {"low": 0, "high": 0.02, "step": 0.01}}
    mine = config("grid", raw)
    points, default = 2 * 2 * 3, mine.train.l2
    also = default not in (0, 0.01, 0.02)  # beside the grid
    asked = [tuple(params.values()) for params in history_of_grid(mine, points + also)]
    assert len(set(asked)) == points + also
    assert {l2 for _, _, l2 in asked} == {0, 0.01, 0.02, default}


def test_a_grid_has_four_values_of_a_range_and_keeps_to_conditions():
    asked = history_of_grid(config("grid"), 1 + 4 * 2 * 2 * (1 + 4))
    margins = {params["objective.margin"] for params in asked if "objective.margin" in params}
    on_grid = [margin for margin in sorted(margins) if margin != Config().objective.margin]
    assert on_grid == pytest.approx([0.05, 0.2, 0.35, 0.5])
    assert all(
        ("objective.margin" in params) == (params["objective.name"] == "triplet")
        for params in asked
    )


def history_of_grid(config, stop):
    mine, trials = suggester(config), {}
    for number in range(stop):
        trials[number] = complete(mine.suggest(number, trials), 0.5)
    return [trial.params for trial in trials.values()]


def test_points_tried_first_come_first_and_once():
    points = [{"train.lr": 2e-4, "train.batch_size": 32, "train.schedule": "cosine"},
              {"train.lr": 3e-4, "train.batch_size": 64, "train.schedule": "linear"}]  # fmt: skip
    mine = config(raw=FLAT, study=StudyConfig(defaults=points))
    trials = {}
    asked = history(mine, trials, 3)
    assert asked[1:] == points
    assert history(mine, trials, 4)[3] not in asked


@pytest.mark.parametrize(
    ("failure", "state"),
    [("diverged", "PRUNED"), ("out_of_memory", "PRUNED"), ("hung", "FAIL"), ("bug", "FAIL")],
)
def test_only_failures_that_the_parameters_caused_teach_the_sampler(failure, state):
    params = {"train.lr": 9e-4, "train.batch_size": 64, "train.schedule": "cosine"}
    trial = Trial(
        4, "failed", {1: 0.9}, params=params, outcome=Outcome("failed", "why", 0.9, failure)
    )
    told = as_told(trial, parse(FLAT, Config()), (0.1, 1.0))
    assert (told.state.name, told.value) == (state, None)


@pytest.mark.parametrize("name", SAMPLERS)
def test_only_samplers_that_keep_a_state_leave_one_in_a_trial(name):
    trials = {}
    history(config(name), trials, 6)
    kept = [bool(trial.attributes) for trial in trials.values()]
    assert kept == [False] * 6 if name != "cmaes" else any(kept)
    json.dumps([trial.attributes for trial in trials.values()])  # logs hold JSON


def test_choices_that_changed_are_refused_with_the_way_out():
    other = config(raw=FLAT | {"train.schedule": {"choices": ["linear", "constant"]}})
    with pytest.raises(StudyError, match=r"space\.train\.schedule.*study\.name"):
        check_kinds(parse(other.space, other), config(raw=FLAT))
    check_kinds(parse(FLAT, other), config(raw=FLAT))
    wider = config(raw=FLAT | {"train.lr": {"low": 1e-6, "high": 1e-3, "log": True}})
    check_kinds(parse(wider.space, wider), config(raw=FLAT))
