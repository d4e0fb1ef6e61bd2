"""A batch of any size fits: its gradients are cached where its activations would not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

STEP = """
import json, resource, sys
from pathlib import Path
import numpy as np, torch
from embsearch.config.schema import ModelConfig, TrainConfig
from embsearch.data.batch import Batch
from embsearch.data.tokenise import Tokens
from embsearch.kernels.select import select
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.encoder import Encoder
from embsearch.objectives.triplet import Triplet
from embsearch.train import process_memory
from embsearch.train.optimizer import adamw
from embsearch.train.step import Stepper

size = int(sys.argv[1])
process_memory.retain_freed()
torch.set_num_threads(2)
config = TrainConfig(batch_size=size)
encoder = Encoder(pretrained.build(ModelConfig("minilm")))
select(encoder, choose("cpu", "auto"))
texts = 3 * size
rows = torch.arange(texts).view(3, -1)
batch = Batch(np.arange(texts), *rows, torch.ones(size), rows[1:].flatten(), torch.eye(1))
optimizer = adamw(encoder, config)
for longest in map(int, sys.argv[2:]):
    drawn = np.random.default_rng(longest)
    ends = np.cumsum([0, *drawn.integers(3, longest + 1, texts)])
    tokens = Tokens(drawn.integers(1000, 9000, ends[-1]), ends)
    stepper = Stepper(encoder.train(), tokens, Triplet(2.0), choose("cpu", "auto"), config)
    loss = stepper(batch).item()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
# getrusage also counts what the process that started this one held, which is the whole test run
own, kib = Path("/proc/self/status"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if own.exists():
    kib = own.read_text().split("VmHWM:")[1].split()[0]
plan = stepper.plan(batch)
print(json.dumps({"chunks": len(plan.chunks), "kept": plan.kept, "loss": loss, "peak": int(kib) * 1024}))
"""


def steps(size, *longest):
    words = [sys.executable, "-c", STEP, *map(str, (size, *longest))]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


@pytest.mark.serial  # it trains with both cores
@pytest.mark.timeout(1200)
def test_a_batch_of_1024_triplets_works_in_4_gb():
    found = steps(1024, 33, 9, 40, 26, 22, 33)
    assert 0 < found["kept"] < found["chunks"]
    assert found["peak"] < 4e9
    small = steps(64, 33)
    assert small["kept"] == small["chunks"]
