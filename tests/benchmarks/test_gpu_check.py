"""gpu_check.py in its small form, without a GPU: it runs with torch and transformers alone, and is exact."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import kernel
import pytest

from embsearch.kernels import flash
from embsearch.model.device import choose

pytestmark = pytest.mark.story
CHECK = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"
ALONE = """
import runpy, sys
for name in ("sentence_transformers", "mlflow", "optuna", "hydra", "pandas"):
    sys.modules[name] = None
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_with_a_kernel_the_step_without_padding_is_timed_beside_the_padded_one(monkeypatch):
    check = runpy.run_path(str(CHECK))
    monkeypatch.setattr(flash, "varlen", kernel.varlen)
    compute = choose("cpu", "bf16")
    assert check["agreement"]("tiny", compute) < 1e-3
    found = check["steps"]("tiny", 8, compute, rounds=2, peak=1e12, packs=True, compiled=False)
    assert found["sizes recorded"].startswith("none: ")  # no GPU, and that is said
    assert (
        min(
            found["theirs, ms"],
            found["ours, padded, ms"],
            found["ours, ms"],
            found["theirs / ours"],
        )
        > 0
    )


def test_it_runs_alone_and_every_way_of_a_step_is_exact(tmp_path):
    out = tmp_path / "found.json"
    command = f"import sys; sys.argv = [{str(CHECK)!r}, '--small', '--device=cpu', '--out={out}']\n{ALONE}"
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(out.read_text())
    distances = found["tiny, distance to the plain forward in fp32"]
    assert len(distances) == 3
    assert max(distances.values()) < 1e-5
    assert found["tiny, batch 8"]["theirs / ours, padded"] > 0
    assert found["tiny, 1 - cosine without and with padding"].startswith(
        "padded: the flash kernel: "
    )  # for GPUs
    assert found["tiny, batch 32, 2 trials at once: steps a second"] > 0
