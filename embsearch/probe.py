"""The measurements that ``embsearch plan`` asks of a worker: the trial's own loop, on the real
data, for seconds.

Every function is one probe task. All slots run the same one at the same time, because workers that
share a machine slow each other. Where several processes train together, each of them runs it.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from embsearch.codec import JsonObject
from embsearch.config.schema import Config
from embsearch.data.augment import Augmenter
from embsearch.data.batch import Batch
from embsearch.data.dataset import TaskData
from embsearch.model.device import Compute
from embsearch.model.tower import Inputs, Tower
from embsearch.objectives.build import loss_of
from embsearch.tasks.catalogue import task_of
from embsearch.train.group import ALONE, Alone
from embsearch.train.step import Stepper
from embsearch.trial import trial

# The mean of so many steps: at least LEAST, then until SECONDS have passed or MOST are done. Lengths of
# texts make steps differ by some percent; plan must be quick. The first are left out: one on a CPU, on a GPU those
# in which it records what recurs (kernels/cuda_graphs.py).
LEAST, MOST, SECONDS = 2, 40, 5.0
FIRST = {"cpu": 1, "cuda": 15}
BATCHES = 50  # among which the one with the most tokens is looked for


def speed(
    config: Config,
    data: TaskData,
    tokens: Inputs,
    encoder: Tower,
    compute: Compute,
    folder: Path,
    group: Alone = ALONE,
) -> JsonObject:
    """Return seconds a step, the first ones left out, and what they took longer, with all that came
    before them.
    """
    first = FIRST[compute.device.type]
    laps: list[float] = []
    last = time.monotonic()

    def report(step: int, at: int, metrics: dict[str, float]) -> None:
        nonlocal last
        laps.append(time.monotonic() - last)
        last = time.monotonic()

    def enough() -> bool:
        timed = laps[first:]
        return len(timed) >= LEAST and (sum(timed) > SECONDS or len(timed) >= MOST)

    whole = replace(config, evaluate=replace(config.evaluate, at=(1.0,)))
    next(trial(whole, data, tokens, encoder, compute, folder, report, enough, group=group), None)
    first = min(first, len(laps) - 1)
    steps = laps[first:]
    step = sum(steps) / len(steps)
    return {"step": step, "steps": len(steps), "begin": max(0.0, sum(laps[:first]) - first * step)}


def edge(
    config: Config,
    data: TaskData,
    tokens: Inputs,
    encoder: Tower,
    compute: Compute,
    folder: Path,
    group: Alone = ALONE,
) -> JsonObject:
    """Run a trial of one step.

    Return what evaluating and saving it takes, what its files weigh, what going on from them takes;
    and, while its optimizer is there, the memory of the batch with the most tokens.
    """
    ends: list[float] = []
    one = replace(
        config, train=replace(config.train, texts=1), evaluate=replace(config.evaluate, at=(1.0,))
    )
    run = trial(
        one,
        data,
        tokens,
        encoder,
        compute,
        folder,
        lambda *point: ends.append(time.monotonic()),
        group=group,
    )
    next(run)
    measure = time.monotonic() - ends[-1]
    memory = _memory(config, data, tokens, encoder, compute, group)
    del run  # and with it the optimizer
    started = time.monotonic()
    next(trial(one, data, tokens, encoder, compute, folder, group=group))
    resume = time.monotonic() - started
    return {
        "measure": measure,
        "resume": resume,
        "checkpoint": _bytes(folder / "checkpoint.safetensors"),
        "model": _bytes(folder / "model"),
        **memory,
    }


def _memory(
    config: Config, data: TaskData, tokens: Inputs, encoder: Tower, compute: Compute, group: Alone
) -> JsonObject:
    """Run one step of the longest batch.

    Return its chunks, and the most memory this worker has ever held, and its crew with it, which
    holds about the same in each process.
    """
    augment = Augmenter(config.train.augment, data, tokens, encoder.tokenizer, config.train.seed)
    stepper = Stepper(encoder, augment.tokens, loss_of(config), compute, config.train, group)
    batch = augment(_longest(config, data, tokens), 0)
    stepper(batch)
    encoder.zero_grad(set_to_none=True)
    plan = stepper.plan(stepper.own(batch))
    peak = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024)
        * group.size
    )
    gpu = {}
    if compute.device.type == "cuda":
        gpu = {
            "gpu": torch.cuda.max_memory_reserved(compute.device),
            "gpu_total": torch.cuda.mem_get_info(compute.device)[1],
        }
    return {
        "texts": batch.texts_seen,
        "distinct": len(batch.text_D),
        "tokens": plan.tokens,
        "chunks": len(plan.chunks),
        "cached": len(plan.chunks) - plan.kept,
        "halved": stepper.budget.shrunk,
        "peak": peak,
        **gpu,
    }


def _longest(config: Config, data: TaskData, tokens: Inputs) -> Batch:
    drawn = task_of(config).batches(data, config)
    lengths = tokens.lengths
    longest: Batch = max(
        (next(drawn) for _ in range(BATCHES)), key=lambda batch: int(lengths[batch.text_D].sum())
    )
    return longest


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
