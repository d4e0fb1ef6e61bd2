"""One trial, top to bottom: config -> data -> encoder -> objective -> optimizer -> loop.

A trial is a generator. At every evaluation it saves its model when it is the best so far,
saves a checkpoint, and yields a Measurement. Whoever drives it decides whether to call
``next``; nothing else controls a trial, except that a process which must end soon may ask it to save a
checkpoint where it is. ``embsearch train`` drives one to its end, a worker drives many, segment by segment.

Several processes may train one trial together (``train.devices``): each runs this function, with its place in the
``group``. The first one leads; what it alone does is marked by ``leads`` and ``of_first``.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embsearch.config.schema import Config
from embsearch.data.augment import Augmenter
from embsearch.data.batch import ClickGraph, batches
from embsearch.data.dataset import Dataset, Judged, sample, steps_of, subset, texts_of
from embsearch.data.tokenise import Tokens
from embsearch.errors import Diverged
from embsearch.evaluate.score import score, similarity
from embsearch.model import pretrained
from embsearch.model.device import Compute
from embsearch.model.embed import embed
from embsearch.model.encoder import Encoder
from embsearch.objectives.build import build as build_objective
from embsearch.train import checkpoint
from embsearch.train.group import ALONE, Alone
from embsearch.train.optimizer import adamw, clip, learning_rate
from embsearch.train.step import Stepper
from embsearch.values import Measurement

Report = Callable[[int, int, dict[str, float]], None]  # step, Unix ms, metrics: called after every step

# A loss this many times its own running mean, after the first steps, has left the basin it was in.
# Guess: losses of healthy runs stay within a factor of 5 of their mean (seen on six data sets).
EXPLODED = 20.0

# A checkpoint between two evaluations makes a crash cheaper. It may take this share of the time, and none
# follows another within so many seconds: one of 150 MB takes 0.2 s (measured), so both come to 5 s.
CHECKPOINT_SHARE, CHECKPOINT_EVERY = 0.05, 5.0


def trial(
    config: Config,
    data: Dataset,
    tokens: Tokens,
    encoder: Encoder,
    compute: Compute,
    folder: Path,
    report: Report = lambda step, at, metrics: None,
    halt: Callable[[], bool] = lambda: False,
    queries: Sequence[int] = (),
    group: Alone = ALONE,
) -> Iterator[Measurement]:
    """Fine-tune ``encoder``, given with its base weights, in ``folder``; from its checkpoint where there is one.

    ``queries``: of how many validation queries each evaluation reads the rows; without it all read all.
    Ends without a measurement, its checkpoint saved, once ``halt``, asked after every step, says so.
    Raises Diverged before the optimizer applies a step whose loss is not finite or exploded,
    OutOfMemory when not even one text fits, OSError when the disk is full, Lost when a process of ``group`` is gone.
    """
    train = config.train
    torch.manual_seed(train.seed)
    rows = subset(data.valid, config.evaluate.max_rows)
    graph = ClickGraph(data)
    augment = Augmenter(train.augment, data, tokens, encoder.model.tokenizer, train.seed)
    objective = build_objective(config.objective)
    optimizer = adamw(encoder, train)
    step_gradients = Stepper(encoder, augment.tokens, objective, compute, train, group)
    steps = steps_of(train.texts, data.train, train.batch_size)
    stops = [max(1, round(steps * share)) for share in config.evaluate.at]

    step, rung, seen, seconds, since_best, mean_loss = 0, 0, 0, 0.0, 0, math.nan
    best, best_step, cost = (0, -math.inf), 0, 0.0  # rows and objective: on more rows is better, whatever it is
    measured: dict[str, Any] | None = None
    points: list[Any] = []  # since the measurement; whoever was told may have died with us, and is told again
    resume = folder / "checkpoint.safetensors"
    if resume.exists():
        at = checkpoint.load(resume, encoder, optimizer)
        step, rung, seen, seconds = at["step"], at["rung"], at["seen"], at["seconds"]
        best, since_best, mean_loss = (*at["best"],), at["since_best"], at["mean_loss"]
        best_step, measured, points = at["best_step"], at["measured"], at["points"]
    group.check(step, encoder)  # nobody writes before all have read
    if group.leads:
        tidy(folder, best_step)
    for point in points:
        report(*point)
    if measured is not None:
        yield Measurement(**measured)
        if measured["last"]:
            return
        points = points if step > measured["step"] else []

    kept = time.monotonic()
    started = kept - seconds

    def keep() -> None:
        nonlocal kept, cost
        if not group.leads:
            return
        begun = time.monotonic()
        checkpoint.save(resume, encoder, optimizer, {
            "step": step, "rung": rung, "seen": seen, "seconds": begun - started, "best": best,
            "best_step": best_step, "since_best": since_best, "mean_loss": mean_loss,
            "measured": measured, "points": points,
        }, ended=measured is not None and bool(measured["last"]))  # fmt: skip
        kept = time.monotonic()
        cost = kept - begun

    encoder.train()
    for batch in batches(data.train, graph, train.batch_size, train.seed, start=step):
        lap = time.monotonic()
        rate = learning_rate(step, steps, train)
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        batch = augment(batch, step)
        group.reseed(train.seed, step)
        late = [step_gradients(batch), clip(encoder, train.clip_norm or math.inf)]
        loss, norm = torch.stack(late).tolist()  # both at once, as a GPU is still at work on them
        if not math.isfinite(loss) or (step > 10 and loss > EXPLODED * max(mean_loss, 0.1)):
            raise Diverged(
                f"loss {loss:.4g} at step {step + 1} (running mean {mean_loss:.4g}, learning rate {rate:.3g})"
            )
        mean_loss = loss if math.isnan(mean_loss) else 0.9 * mean_loss + 0.1 * loss
        if not math.isfinite(norm):
            raise Diverged(f"gradient norm {norm} at step {step + 1} (loss {loss:.4g}, learning rate {rate:.3g})")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + batch.texts_seen
        points.append([step, int(time.time() * 1000), {
            "train/loss": loss,
            "train/lr": rate,
            "cost/texts_per_second": batch.texts_seen / (time.monotonic() - lap),
        }])  # fmt: skip
        report(*points[-1])
        if step not in stops:
            halted = group.of_first(halt)
            if halted or time.monotonic() - kept > max(CHECKPOINT_EVERY, cost / CHECKPOINT_SHARE):
                keep()
            if halted:
                return
            continue

        rung += stops.count(step)
        valid = sample(rows, queries[rung - 1]) if queries else rows
        group.check(step, encoder)
        when = f"step {step} (loss {loss:.4g}, learning rate {rate:.3g})"
        metrics = group.of_first(partial(measure, encoder, tokens, valid, compute, when))
        found = len(valid), metrics[config.evaluate.objective]
        if found > best:
            best, best_step, since_best = found, step, 0
            if group.leads:
                save_model(encoder, folder / f".model.{step}")
        else:
            since_best += 1
        why = ""
        if step >= steps:
            why = "budget spent"
        elif train.patience and since_best >= train.patience:
            why = f"early stopping: no better {config.evaluate.objective} in {since_best} evaluations"
        seconds = time.monotonic() - started
        measurement = Measurement(
            rung, step, seen, {f"val/{k}": v for k, v in metrics.items()}, seconds, bool(why), why, len(valid)
        )
        measured = vars(measurement)
        keep()
        if since_best == 0 and group.leads:
            pretrained.put(folder / f".model.{step}", folder / "model")
        yield measurement
        if why:
            return
        points = []
        kept = time.monotonic()  # the trial may have slept while others trained
        started = kept - seconds


def measure(encoder: Encoder, tokens: Tokens, rows: Judged, compute: Compute, when: str) -> dict[str, float]:
    """What ``score`` says of the encoder after ``when``. Raises Diverged."""
    ids, vectors = vectors_of(encoder, tokens, rows, compute)
    if not np.isfinite(vectors).all():
        raise Diverged(f"vectors not finite after {when}")
    return score(rows, similarity(rows, ids, vectors))


def vectors_of(encoder: Encoder, tokens: Tokens, rows: Judged, compute: Compute) -> tuple[np.ndarray, np.ndarray]:
    """The text ids of the rows, rising, and their vectors."""
    ids = texts_of(rows)
    return ids, embed(encoder, tokens, ids, compute)


def tidy(folder: Path, best_step: int) -> None:
    """Finish or clear away what a process that died here was writing. The model of the best evaluation
    takes its place once the checkpoint knows of it, so that neither is ever ahead of the other."""
    if (folder / f".model.{best_step}").exists():
        pretrained.put(folder / f".model.{best_step}", folder / "model")
    for draft in folder.glob(".*"):
        shutil.rmtree(draft, ignore_errors=True) if draft.is_dir() else draft.unlink(missing_ok=True)


def save_model(encoder: Encoder, folder: Path) -> None:
    """The encoder with its whole token table, in sentence-transformers' format."""
    cut = encoder.table
    try:
        pretrained.save(encoder.uncut(), folder)
    finally:
        encoder.recut(cut)
