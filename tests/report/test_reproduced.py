"""What is said of a trial that was trained again."""

from __future__ import annotations

import pytest

from embsearch.report.reproduced import Evaluated, Reproduction, Weights

FIRST, LAST = {"val/auc": 0.8, "val/mrr_10": 0.5}, {"val/auc": 0.9, "val/mrr_10": 0.6}


def made(last=LAST, weights=("aa", "aa"), **more):
    """Two evaluations: the first one the same, the second one ``last`` now."""
    pairs = (Evaluated(1, 100, FIRST, dict(FIRST)), Evaluated(2, 300, LAST, last))
    return Reproduction("val/auc", pairs, Weights(*weights), tolerance=0.005, **more)


def test_the_same_bits_are_identical():
    assert made().verdict() == "identical: 2 of 2 evaluations, weights sha256 aa"
    assert made().reproduced


@pytest.mark.parametrize("metric", LAST)
def test_the_last_bit_of_any_metric_is_a_difference(metric):
    one = made({**LAST, metric: LAST[metric] + 2e-16})
    assert not one.measured_alike
    assert one.reproduced
    assert "not bit by bit" in one.verdict()


def test_within_the_tolerance_it_says_how_far_and_why():
    one = made(
        {**LAST, "val/auc": 0.8992},
        ("aa", "bb"),
        changed=("torch 2.12.0 -> 2.13.0",),
        loose="2 threads add",
    )
    assert one.reproduced
    assert one.verdict() == (
        "equal within 0.0008 auc (tolerance 0.005), not bit by bit, because torch 2.12.0 -> 2.13.0; 2 threads add"
    )


def test_beyond_the_tolerance_it_is_not_reproduced():
    one = made({**LAST, "val/auc": 0.88})
    assert not one.reproduced
    assert one.verdict() == (
        "not reproduced: auc lies 0.0200 from the record at evaluation 2 (tolerance 0.005), because of something "
        "that the record does not hold: everything recorded is as it was"
    )


def test_equal_measurements_of_another_model_are_not_a_reproduction():
    one = made(weights=("aa", "bb"))
    assert not one.reproduced
    assert one.verdict().startswith(
        "not reproduced: 2 of 2 evaluations are identical, the saved model is not: weights sha256 aa is recorded, bb"
    )
    other_packages = made(weights=("aa", "bb"), changed=("safetensors 0.7 -> 0.8",))
    assert other_packages.reproduced
    assert "the saved files differ" in other_packages.verdict()


def test_a_model_that_is_gone_leaves_the_measurements():
    one = made(weights=("", "bb"))
    assert one.reproduced
    assert (
        one.verdict()
        == "identical: 2 of 2 evaluations; of the model nothing is left to compare with (now sha256 bb)"
    )


def test_a_trial_that_stops_before_is_not_reproduced():
    one = made(None, stopped="diverged: loss nan at step 3")
    assert not one.reproduced
    assert "1 of 2 evaluations are identical, then it diverged: loss nan at step 3" in one.verdict()
