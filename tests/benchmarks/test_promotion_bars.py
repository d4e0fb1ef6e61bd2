"""The two benchmarks of promotion in their small form: what they claim at 400 promotions and 200 kills, at fewer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.story
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script, *words):
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_equal_models_are_rarely_promoted_and_visibly_better_ones_nearly_always(tmp_path):
    run("gates.py", "--promotions=40", "--queries=40", f"--out={tmp_path / 'gates.json'}")
    equal, _, better = json.loads((tmp_path / "gates.json").read_text())["found"]
    assert equal["d"] == 0
    assert equal["promoted"] <= 3  # of 40
    assert better["d"] == 2 * better["visible"]
    assert better["promoted"] >= 36


def test_a_promotion_killed_at_every_step_leaves_a_champion_and_a_whole_history(
    tiny_bert, tmp_path
):
    said = run(
        "kills.py",
        "--kills=3",
        "--every=3",
        f"--model={tiny_bert}",
        f"--out={tmp_path / 'kills.json'}",
    )
    found = json.loads((tmp_path / "kills.json").read_text())
    assert found["steps"] >= 8
    assert found["moves"] >= 2
    assert "the champion always loaded, the history is whole" in said
