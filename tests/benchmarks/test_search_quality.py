"""search_quality.py on curves of a formula: it knows what a search ends with, and what was given."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # not a package

import record_curves
import search_quality as quality

FIGURES = {
    "test AUC", "not below given", "above known-good", "texts", "texts to above known-good",
    "share at 25 %", "share at 50 %", "share at 75 %",
}  # fmt: skip


def auc(point: dict, share: float) -> float:
    """Return the value of a formula: the best learning rate is 5e-4, and InfoNCE is better."""
    away = np.log10(point["train.lr"] / 5e-4) ** 2 + (point["objective.name"] == "triplet")
    return 0.95 - 0.05 * away - 0.1 * (1 - share)


@pytest.fixture
def curves(tmp_path, monkeypatch):
    """Curves of 40 configurations, five of them with three seeds."""
    dice = np.random.default_rng(0)
    configs = record_curves.KNOWN + [record_curves.draw(dice) for _ in range(38)]
    runs = []
    for number, seed in [(n, 0) for n in range(40)] + [(n, s) for n in range(5) for s in (1, 2)]:
        noise = 0.001 * dice.standard_normal()
        values = [{"auc": auc(configs[number], share) + noise} for share in record_curves.AT]
        run = {"config": number, "seed": seed, "val": values, "test": values[-2:], "failure": ""}
        runs.append(run)
    untuned = {"val": {"auc": 0.7}, "test": {"auc": 0.7}}
    made = {"at": record_curves.AT, "configs": configs, "runs": runs, "untuned": untuned}
    (tmp_path / "made.json").write_text(json.dumps(made))
    monkeypatch.setattr(quality, "CURVES", tmp_path)
    quality.world.cache_clear()
    yield tmp_path
    quality.world.cache_clear()


@pytest.mark.parametrize("kind", quality.WORLDS)
def test_a_world_knows_the_formula_behind_its_curves(curves, kind):
    here = quality.world("made", kind)
    assert here.correlation > 0.8
    assert here.test(quality.KNOWN_GOOD) == pytest.approx(auc(quality.KNOWN_GOOD, 1.0), abs=0.012)
    triplet = record_curves.KNOWN[0]
    assert here.test(triplet) < here.test(quality.KNOWN_GOOD) - 0.02
    one, other = (here.curve(quality.KNOWN_GOOD, (0, 1, seed)) for seed in (0, 1))
    assert one != other
    assert one == sorted(one)


def test_a_search_is_judged_by_its_winner_and_by_what_it_was_given(curves):
    found = [quality.play("random", "made", "process", seed, 6) for seed in range(3)]
    here = quality.world("made", "process")
    for one in found:
        assert one.given == here.test(quality.KNOWN_GOOD)
        assert 6 <= one.texts <= 9  # six whole trials, and fresh seeds
        assert one.trace[-1][0] == pytest.approx(6)
    figures = quality.summary(found, here.test(quality.KNOWN_GOOD))
    assert set(figures) == FIGURES
    promoted = quality.play("product", "made", "process", 0, 6)
    assert promoted.trace[-1][0] < 5


def test_curves_without_several_seeds_say_what_to_do(curves):
    made = json.loads((curves / "made.json").read_text())
    made["runs"] = [run for run in made["runs"] if run["seed"] == 0]
    (curves / "made.json").write_text(json.dumps(made))
    with pytest.raises(SystemExit, match="no configuration has been run with several seeds yet"):
        quality.world("made", "trees")
