"""gpu_check.py in its small form, without a GPU: it runs with torch and transformers alone, and is exact."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

from embsearch.model import packing
from embsearch.model.device import choose

CHECK = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"
ALONE = """
import runpy, sys
for name in ("sentence_transformers", "mlflow", "optuna", "hydra", "pandas"):
    sys.modules[name] = None
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_with_a_kernel_the_step_without_padding_is_timed_beside_the_padded_one(monkeypatch):
    check = runpy.run_path(str(CHECK))
    monkeypatch.setattr(packing, "varlen_attn", dense)
    found = check["without_padding"]("tiny", 8, choose("cpu", "bf16"), rounds=2)
    assert (found["path"], found["distance"] < 1e-3) == ("varlen_attn", True)
    assert min(found["padded ms"], found["packed ms"], found["ratio"]) > 0


def dense(query, key, value, borders, *more, scale, window_size):
    """Stands in for torch's kernel."""
    sizes = borders.diff().tolist()
    texts = zip(*(torch.split(t.transpose(0, 1), sizes, dim=1) for t in (query, key, value)), strict=True)
    return torch.cat([scaled_dot_product_attention(*text, scale=scale) for text in texts], dim=1).transpose(0, 1)


def test_it_runs_alone_and_every_way_of_a_step_is_exact(tmp_path):
    out = tmp_path / "found.json"
    command = f"import sys; sys.argv = [{str(CHECK)!r}, '--small', '--device=cpu', '--out={out}']\n{ALONE}"
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(out.read_text())
    distances = found["tiny, distance to the plain forward in fp32"]
    assert len(distances) == 3
    assert max(distances.values()) < 1e-5
    assert found["tiny, batch 8"]["ratio"] > 0
    assert found["tiny, batch 8, without padding"]["path"].startswith("padded: varlen_attn: ")  # a kernel for GPUs
    assert found["tiny, batch 32, 2 trials at once: steps a second"] > 0
