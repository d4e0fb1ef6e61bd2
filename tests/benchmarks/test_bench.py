"""make bench in its small form: a tiny encoder, a few steps, every part; that it runs, not what it measures."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.story
BENCH = Path(__file__).parents[2] / "benchmarks" / "bench.py"
# the trainer's own requirements, which pip install -e '.[dev]' brings
THEIRS = pytest.mark.skipif(
    not (importlib.util.find_spec("datasets") and importlib.util.find_spec("accelerate")),
    reason="SentenceTransformerTrainer needs datasets and accelerate",
)


def bench(tmp_path, tiny_bert, judgements_csv, *words):
    out = tmp_path / "bench.json"
    command = [sys.executable, str(BENCH), *words, "--steps=4", "--seeds=1", "--rounds=1", "--patience=0",
               "--threads=1", f"--out={out}", f"model.path={tiny_bert}", f"data.path={judgements_csv}",
               "train.batch_size=4"]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(out.read_text()), ended.stdout


@THEIRS
def test_steps_of_both_sides_are_compared_on_the_same_rows(tmp_path, tiny_bert, judgements_csv):
    found, shown = bench(
        tmp_path, tiny_bert, judgements_csv, "step", "--sides", "theirs, bf16", "ours", "peak"
    )
    step = found["step"]
    assert step["ratio"]["ours / theirs, bf16"]["wall"] > 0
    assert step["auc"].keys() == step["wall_ms"].keys()
    assert "step, full backward, against its best bf16" in shown
    assert step["made_with"]["sentence-transformers"]


def test_both_sides_encode_the_same_texts_to_the_same_vectors(tmp_path, tiny_bert, judgements_csv):
    found, shown = bench(tmp_path, tiny_bert, judgements_csv, "evaluate", "workers")
    assert found["evaluate"]["least_cosine"]["ours, fp32"] == pytest.approx(1, abs=1e-5)
    assert found["workers"]["ratio"] > 0
    assert "evaluation against bf16" in shown


def test_a_part_that_there_is_not_is_named(tmp_path):
    ended = subprocess.run([sys.executable, str(BENCH), "stpe"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "no such part: stpe; there are step, bert, evaluate, sizes, workers" in ended.stderr
