"""Which parameters mattered, asked of the trials that used them, at an evaluation where they can be compared."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from embsearch.config.build import build
from embsearch.history.trial import Trial, common_rung
from embsearch.hpo.space import parse
from embsearch.report.compare import _budgets
from embsearch.report.importance import importances
from embsearch.report.record import Course
from embsearch.report.tables import _trials

SPACE = {
    "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "objective.name": {"choices": ["triplet", "infonce"]},
    "objective.margin": {"low": 0.05, "high": 0.5, "when": {"objective.name": "triplet"}},
    "objective.temperature": {"low": 0.01, "high": 0.1, "when": {"objective.name": "infonce"}},
}


@pytest.fixture
def record():
    """Twenty trials of which ten use a temperature, and by that alone differ much."""
    config = build({"space": SPACE})
    space, draw = parse(config.space, config), np.random.default_rng(0)
    courses = {}
    for number in range(20):
        loss = "triplet" if number % 2 else "infonce"
        params = {"train.lr": float(10 ** draw.uniform(-5, -3)), "objective.name": loss}
        own = "objective.temperature" if loss == "infonce" else "objective.margin"
        params[own] = float(draw.uniform(0.05, 0.1))
        value = 0.8 + (params[own] if loss == "infonce" else 0.01 * draw.random())
        trial = Trial(number, params=params, values={1: value, 2: value}, rows={})
        courses[number] = Course(trial, axes=space.axes(params, config))
    trials = [course.trial for course in courses.values()]
    return SimpleNamespace(
        space=space,
        courses=courses,
        searched=courses,
        common_rung=lambda: common_rung(trials),
        best=courses[0],
    )


def test_a_parameter_is_ranked_by_the_trials_that_used_it(record):
    found, rung, count = importances(record)
    by_name = {one.name: one for one in found}
    assert (rung, count) == (2, 20)
    assert {name: one.trials for name, one in by_name.items()} == {
        "lr": 20, "objective": 20, "margin": 10, "temperature": 10,
    }  # fmt: skip
    assert by_name["temperature"].value > 0.5
    assert by_name["temperature"].value > by_name["margin"].value


def test_every_importance_lies_within_its_interval(record):
    for seed in range(3):
        for one in importances(record, seed)[0]:
            assert one.low <= one.value <= one.high


def test_the_page_draws_a_parameter_for_the_trials_that_used_it(record):
    courses = list(record.courses.values())
    rows = _trials(record, courses, courses, rung=2)
    at = list(record.space.short_names()).index("temperature")
    assert [row[f"p{at}"] is None for row in rows] == [n % 2 == 1 for n in range(20)]


@pytest.mark.parametrize(("texts", "unlike"), [(1040, False), (1100, True)])
def test_a_comparison_says_the_texts_of_both_and_where_they_differ(texts, unlike):
    def side(name, texts):
        best = SimpleNamespace(texts=lambda: 100)
        return SimpleNamespace(name=name, record=SimpleNamespace(texts=texts, best=best))

    words = _budgets(side("a", 1000), side("b", texts))
    assert f"a 1,000 texts, its winner 100; b {texts:,} texts, its winner 100" in words
    assert ("unlike budgets, which may explain a difference" in words) == unlike
