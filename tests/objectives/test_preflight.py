"""Settings that cannot learn are refused, with what to do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from embsearch.config.catalogue import OBJECTIVES as NAMES
from embsearch.config.schema import ObjectiveConfig
from embsearch.data.dataset import Triplets
from embsearch.errors import ConfigError
from embsearch.objectives.preflight import preflight


def triplets(*rows):
    anchor, positive, negative = np.array(rows, dtype=np.int32).T
    return Triplets(anchor, positive, negative, np.ones(len(rows), dtype=np.float32))


WITH = triplets((0, 1, 2), (3, 4, -1))
WITHOUT = triplets((0, 1, -1), (3, 4, -1))
SCORED = replace(WITHOUT, score=np.array([0.2, 0.9], dtype=np.float32))


def refused(config, rows=WITH, batch_size=32):
    with pytest.raises(ConfigError) as caught:
        preflight(config, rows, batch_size)
    return str(caught.value)


BY_SCORES = ("cosent", "angle", "cosine_mse")
BY_TEACHER = ("margin_mse", "kl")


@pytest.mark.parametrize("name", BY_TEACHER)
def test_what_learns_from_a_teacher_needs_its_scores_of_both_titles_of_a_row(name):
    said = f"objective.name={name}: learns from a teacher's scores, and none of the 2 training rows"
    assert refused(ObjectiveConfig(name)).startswith(said)
    half = np.array([[0.2, np.nan], [np.nan, np.nan]], np.float32)
    assert refused(ObjectiveConfig(name), replace(WITH, teacher=half)).startswith(said)
    whole = np.array([[0.2, 0.1], [0.3, np.nan]], np.float32)
    preflight(ObjectiveConfig(name), replace(WITH, teacher=whole), 1)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BY_SCORES + BY_TEACHER])
def test_the_defaults_pass_on_rows_with_negatives(name):
    preflight(ObjectiveConfig(name), WITH, 1)


@pytest.mark.parametrize("name", BY_SCORES)
def test_what_learns_from_scores_passes_on_these_alone(name):
    preflight(ObjectiveConfig(name), SCORED, 2)
    assert refused(ObjectiveConfig(name), WITH) == (
        f"objective.name={name}: learns from scores, and none of the 2 training rows has one. Set "
        "objective.name=infonce, or give pairs with a score of how alike they are (data.format=scored)"
    )


@pytest.mark.parametrize("name", ["infonce", "triplet", "contrastive", "bce"])
def test_what_takes_every_pair_for_a_good_one_refuses_scores(name):
    assert refused(ObjectiveConfig(name), SCORED) == (
        f"objective.name={name}: takes every pair for a good one, and the 2 training rows are pairs with "
        "scores, low ones too. Set objective.name=cosent, angle or cosine_mse; for judgements of titles, "
        "whose grades make triplets, data.format=judgements"
    )


def test_an_order_of_scores_needs_two_in_a_batch():
    preflight(ObjectiveConfig("cosine_mse"), SCORED, 1)
    for name in ("cosent", "angle"):
        assert "train.batch_size=1 there is one" in refused(ObjectiveConfig(name), SCORED, 1)


@pytest.mark.parametrize("name", ["triplet", "contrastive", "bce"])
def test_what_learns_from_negatives_alone_refuses_rows_without_any(name):
    assert NAMES[name].needs == "negatives"
    assert refused(ObjectiveConfig(name), WITHOUT) == (
        f"objective.name={name}: none of the 2 training rows has a negative (worse) title, and this objective "
        "learns from nothing else. Set objective.name=infonce, or give data with negatives (a 'negative' column, "
        "judgements of two grades, or unclicked titles)"
    )


def test_infonce_needs_something_to_choose_from():
    infonce = ObjectiveConfig("infonce")
    preflight(infonce, WITHOUT, 2)
    assert "train.batch_size=1 no other row offers one" in refused(infonce, WITHOUT, 1)
    assert "no two different titles" in refused(infonce, triplets((0, 1, -1), (3, 1, -1)))
    assert "no two different queries" in refused(infonce, triplets((0, 1, -1), (0, 2, -1)))


@pytest.mark.parametrize("name", ["triplet", "contrastive"])
def test_a_margin_that_cannot_be_met_or_asks_nothing_is_refused(name):
    preflight(ObjectiveConfig(name, margin=2.0), WITH, 32)
    assert "objective.margin=2.5 can never be met" in refused(ObjectiveConfig(name, margin=2.5))
    for margin in (0.0, -0.1, float("nan")):
        assert f"objective.margin={margin} is not above 0" in refused(
            ObjectiveConfig(name, margin=margin)
        )


@pytest.mark.parametrize("name", ["infonce", "bce"])
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_no_number_above_zero_is_refused(name, temperature):
    message = refused(ObjectiveConfig(name, temperature=temperature))
    assert f"objective.temperature={temperature} is not a number above 0" in message


def test_settings_of_other_objectives_are_not_looked_at():
    preflight(ObjectiveConfig("infonce", margin=9), WITH, 32)
    preflight(ObjectiveConfig("triplet", temperature=-1), WITH, 32)


def test_all_faults_come_at_once():
    with pytest.raises(ConfigError) as caught:
        preflight(ObjectiveConfig("triplet", margin=3), WITHOUT, 32)
    assert len(caught.value.faults) == 2


def test_preflight_needs_no_torch():
    code = "import sys, embsearch.objectives.preflight; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
