"""The second of two processes that compute steps together: python second.py PORT. A line of JSON a step, until
standard input ends; it answers each with a line of JSON."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed import TCPStore

sys.path.insert(0, str(Path(__file__).parent))

from test_step import ROWS, batch_of, gradients, laid_out, tokens_of

from embsearch.config.schema import ModelConfig, ObjectiveConfig, TrainConfig
from embsearch.errors import EmbsearchError
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.encoder import Encoder
from embsearch.objectives.build import build
from embsearch.train.group import Group
from embsearch.train.step import Stepper

TEN_SECONDS = timedelta(seconds=10)


class Small(Encoder):
    """An encoder on a device that holds ``limit`` tokens at once, or so many with what its backward pass needs."""

    limit = 10**9
    only_backward = False

    def encode(self, tokens, texts, *more):
        count = int(tokens.lengths[texts].sum())
        if count > self.limit and (torch.is_grad_enabled() or not self.only_backward):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode(tokens, texts, *more)


def compute(group, task):
    """The loss of one step, every parameter's gradient, and the stepper; one device where ``group`` is Alone."""
    model = pretrained.build(ModelConfig(task["model"], dropout=task.get("dropout", 0.0)))
    encoder = laid_out(task.get("how", "packed"), Small(model))
    encoder.limit = task.get("limits", {}).get(str(group.rank), encoder.limit)
    encoder.only_backward = task.get("only_backward", False)
    loss = build(ObjectiveConfig(task.get("objective", "triplet"), symmetric=True))
    train = TrainConfig(
        chunk_tokens=task.get("chunk", 4096), cache_gradients=task.get("cache", "never")
    )
    stepper = Stepper(encoder, tokens_of(encoder), loss, choose("cpu", "fp32"), train, group)
    group.reseed(task.get("seed", 0), task.get("step", 0))
    found = stepper(batch_of([tuple(row) for row in task.get("rows", ROWS)])).item()
    return found, gradients(encoder), stepper


def main():
    torch.set_num_threads(1)
    store = TCPStore(
        "127.0.0.1", int(sys.argv[1]), None, False, TEN_SECONDS, wait_for_workers=False
    )
    group = Group(store, 1, 2, "cpu")
    for line in sys.stdin:
        task = json.loads(line)
        try:
            loss, found, stepper = compute(group, task)
            said = {"loss": loss, "sum": sum(float(g.double().abs().sum()) for g in found.values()),
                    "budget": stepper.budget.chunk_tokens}  # fmt: skip
        except EmbsearchError as error:
            said = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
