"""A batch of any size fits: its gradients are cached where its activations would not."""

from __future__ import annotations

import json
import subprocess
import sys

STEP = """
import json, resource, sys
from pathlib import Path
import numpy as np, torch
from embsearch.config.schema import ModelConfig, TrainConfig
from embsearch.data.batch import Batch
from embsearch.data.tokenise import Tokens
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.encoder import Encoder
from embsearch.objectives.triplet import Triplet
from embsearch.train.optimizer import adamw
from embsearch.train.step import Stepper

size, length = int(sys.argv[1]), 20
torch.set_num_threads(2)
config = TrainConfig(batch_size=size)
encoder = Encoder(pretrained.build(ModelConfig("minilm")))
encoder.pack()
texts = 3 * size
tokens = Tokens(np.random.default_rng(0).integers(1000, 9000, texts * length), np.arange(texts + 1) * length)
rows = torch.arange(texts).view(3, -1)
batch = Batch(np.arange(texts), *rows, torch.ones(size), rows[1:].flatten(), torch.eye(1))
stepper = Stepper(encoder.train(), tokens, Triplet(2.0), choose("cpu", "auto"), config)
loss = stepper(batch).item()
adamw(encoder, config).step()
# getrusage also counts what the process that started this one held, which is the whole test run
own, kib = Path("/proc/self/status"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if own.exists():
    kib = own.read_text().split("VmHWM:")[1].split()[0]
plan, _, kept = stepper.plan(batch)
print(json.dumps({"chunks": len(plan), "kept": kept, "loss": loss, "peak": int(kib) * 1024}))
"""


def step(size):
    ended = subprocess.run([sys.executable, "-c", STEP, str(size)], capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


def test_a_batch_of_1024_triplets_works_in_4_gb():
    found = step(1024)
    assert 0 < found["kept"] < found["chunks"]
    assert found["peak"] < 4e9
    small = step(64)
    assert small["kept"] == small["chunks"]
