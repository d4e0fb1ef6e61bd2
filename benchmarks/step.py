"""The cost of a training step and an evaluation with texts padded and packed, paired in one run.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/step.py [overrides of studies/product_search]

CPU seconds of one thread, medians; "against" is the median of the ratios within each round.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from embsearch.config.load import compose
from embsearch.data.batch import ClickGraph, batches
from embsearch.data.load import prepare_dataset
from embsearch.model.device import choose
from embsearch.model.embed import embed
from embsearch.objectives.build import build as build_objective
from embsearch.train.optimizer import adamw
from embsearch.train.step import Stepper
from embsearch.worker import Worker

ROUNDS = 8  # the first warms up
ARMS = {
    "padded, 4,096": (False, 4096),
    "packed, 4,096": (True, 4096),
    "packed, 8,192": (True, 8192),
}


def main(overrides: list[str]) -> None:
    torch.set_num_threads(1)
    config = compose(["study=product_search", "objective.name=infonce", *overrides])
    compute = choose("cpu", config.train.precision)
    with tempfile.TemporaryDirectory() as cache:
        folder = prepare_dataset(config.data, Path(cache))
        data = Worker().dataset(config, str(folder))
        sides = {}
        for name, (packed, chunk) in ARMS.items():
            encoder, tokens = Worker()._encoder(config, data, folder, compute)
            if not packed:
                encoder.kernel = None
            train = replace(config.train, chunk_tokens=chunk)
            stepper = Stepper(
                encoder.train(), tokens, build_objective(config.objective), compute, train
            )
            sides[name] = (encoder, tokens, stepper, adamw(encoder, train))
        steps: dict[str, list[float]] = {name: [] for name in sides}
        evaluations: dict[str, list[float]] = {name: [] for name in sides}
        stream = batches(data.train, ClickGraph(data), config.train.batch_size, 0, start=0)
        for _ in range(ROUNDS):
            batch = next(stream)
            for name, (_, _, stepper, optimizer) in sides.items():
                start = time.process_time()
                stepper(batch)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                steps[name].append(time.process_time() - start)
        texts = np.arange(0, len(data.texts), 8)
        for _ in range(3):
            for name, (encoder, tokens, _, _) in sides.items():
                start = time.process_time()
                embed(encoder, tokens, texts, compute)
                evaluations[name].append(time.process_time() - start)
    print(f"batch {config.train.batch_size}, dropout {config.model.dropout}, {compute.why}")
    print(f"{'':16}{'step, s':>10}{'against':>10}{'evaluate, s':>14}{'against':>10}")
    first = next(iter(ARMS))
    for name in sides:
        step, against = compared(steps[first][1:], steps[name][1:])
        evaluation, also = compared(evaluations[first], evaluations[name])
        print(f"{name:16}{step:10.3f}{against:10.2f}{evaluation:14.2f}{also:10.2f}")


def compared(base: list[float], other: list[float]) -> tuple[float, float]:
    """Return the median, and how many times faster than the base it is."""
    return statistics.median(other), statistics.median(
        a / b for a, b in zip(base, other, strict=True)
    )


if __name__ == "__main__":
    main(sys.argv[1:])
