"""One trial, top to bottom: config -> data -> encoder -> objective -> optimizer -> loop.

A trial is a generator. At every evaluation it saves its model when it is the best so far, saves a
checkpoint, and yields a Measurement. Whoever drives it decides whether to call ``next``; nothing
else controls a trial, except that a process which must end soon may ask it to save a checkpoint
where it is. ``embsearch train`` drives one to its end, a worker drives many, segment by segment.

Several processes may train one trial together (``train.devices``): each runs this function, with
its place in the ``group``. The first one leads; what it alone does is marked by ``leads`` and
``of_first``.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from embsearch.codec import JsonObject
from embsearch.config.schema import Config, EvaluateConfig
from embsearch.data.augment import Augmenter
from embsearch.data.dataset import Rows, TaskData, stops_of
from embsearch.errors import Diverged, Unfaithful
from embsearch.history.events import Point
from embsearch.model import pretrained
from embsearch.model.device import Compute
from embsearch.model.embed import embed
from embsearch.model.tower import Inputs, Tower
from embsearch.objectives.build import loss_of
from embsearch.tasks.base import AnyTask
from embsearch.tasks.catalogue import task_of
from embsearch.train import checkpoint
from embsearch.train.group import ALONE, Alone
from embsearch.train.optimizer import adamw, clip, learning_rate, warmup_steps
from embsearch.train.step import Stepper
from embsearch.values import Measurement

# Called after every step: step, Unix milliseconds, metrics.
Report = Callable[[int, int, dict[str, float]], None]

# A loss this many times its own running mean, after the first steps, has left the basin it was in.
# Guess: losses of healthy runs stay within a factor of 5 of their mean (seen on six data sets).
EXPLODED = 20.0

# A checkpoint between two evaluations makes a crash cheaper. It may take this share of the time, and none
# follows another within so many seconds: one of 150 MB takes 0.2 s (measured), so both come to 5 s.
CHECKPOINT_SHARE, CHECKPOINT_EVERY = 0.05, 5.0
CHECK_SHARE = 0.01  # of a trial's time, that comparing its saved models may take; one takes 0.2 s


@dataclass
class Position:
    """The place of a trial: what its checkpoint holds beside weights, optimizer and random states.

    ``best``: rows and objective of the best evaluation; on more rows is better, whatever it is.
    ``points``: training metrics since the measurement. Whoever got them may have died with us, and
    gets them again.
    """

    step: int = 0
    rung: int = 0
    seen: int = 0  # texts
    seconds: float = 0.0
    best: Sequence[float] = (0, -math.inf)
    best_step: int = 0
    since_best: int = 0  # evaluations
    mean_loss: float = math.nan
    set_losses: dict[str, float] = field(default_factory=dict)  # the same of each of several sets
    measured: JsonObject | None = None
    points: list[Point] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """True once the trial has come to its end."""
        return self.measured is not None and bool(self.measured["last"])

    def take_loss(self, loss: float, norm: float, rate: float, of: str = "") -> None:
        """Take the next step's loss into the running mean, that of its set. Raises Diverged."""
        mean = self.set_losses.get(of, math.nan) if of else self.mean_loss
        if not math.isfinite(loss) or (self.step > 10 and loss > EXPLODED * max(mean, 0.1)):
            raise Diverged(
                f"loss {loss:.4g} at step {self.step + 1} (running mean {mean:.4g}, "
                f"learning rate {rate:.3g})"
            )
        if not math.isfinite(norm):
            raise Diverged(
                f"gradient norm {norm} at step {self.step + 1} (loss {loss:.4g}, "
                f"learning rate {rate:.3g})"
            )
        mean = loss if math.isnan(mean) else 0.9 * mean + 0.1 * loss
        if of:
            self.set_losses[of] = mean
        else:
            self.mean_loss = mean


class Saver:
    """The checkpoints of a trial, so seldom that they take CHECKPOINT_SHARE of its time."""

    def __init__(self, path: Path, tower: Tower, optimizer: torch.optim.Optimizer) -> None:
        self._path, self._tower, self._optimizer = path, tower, optimizer
        self._cost = self._saved = self._started = 0.0

    def start_clock(self, seconds: float) -> None:
        """Go on counting from ``seconds``: while others train the trial sleeps."""
        self._saved = time.monotonic()
        self._started = self._saved - seconds

    @property
    def seconds(self) -> float:
        """The seconds that the trial has trained and measured."""
        return time.monotonic() - self._started

    @property
    def due(self) -> bool:
        """True where a checkpoint between two evaluations is worth its time."""
        pause = max(CHECKPOINT_EVERY, self._cost / CHECKPOINT_SHARE)
        return time.monotonic() - self._saved > pause

    def save(self, at: Position) -> None:
        """Save a checkpoint. Raises OSError (disk full)."""
        begun = time.monotonic()
        position = vars(at) | {"seconds": begun - self._started}
        checkpoint.save(self._path, self._tower, self._optimizer, position, at.ended)
        self._saved = time.monotonic()
        self._cost = self._saved - begun


class Keeper:
    """The best model of a trial, beside the older one until a checkpoint knows of it.

    ``check``: raises Unfaithful where a folder does not hold the model that was trained.
    """

    def __init__(self, folder: Path, tower: Tower, check: Callable[[Path], None]) -> None:
        self._folder, self._tower, self._check = folder, tower, check
        self._spent = 0.0

    def save(self, step: int, seconds: float) -> None:
        """Save the model of ``step``, after so many seconds of the trial.

        The first is checked, others while that takes CHECK_SHARE of the time. Raises OSError,
        Unfaithful.
        """
        draft = self._folder / f".model.{step}"
        self._tower.save(draft)
        if self._spent > CHECK_SHARE * seconds:
            return
        begun = time.monotonic()
        try:
            self._check(draft)
        except Unfaithful:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        self._spent += time.monotonic() - begun


def trial(
    config: Config,
    data: TaskData,
    inputs: Inputs,
    tower: Tower,
    compute: Compute,
    folder: Path,
    report: Report = lambda step, at, metrics: None,
    halt: Callable[[], bool] = lambda: False,
    queries: Sequence[int] = (),
    group: Alone = ALONE,
) -> Iterator[Measurement]:
    """Fine-tune ``tower``, given with its base weights, from the checkpoint in ``folder`` if any.

    ``queries``: of how many validation queries each evaluation reads the rows; without it all read
    all. Ends without a measurement, its checkpoint saved, once ``halt``, asked after every step,
    says so. Raises Diverged before the optimizer applies a step whose loss is not finite or
    exploded, OutOfMemory when not even one text fits, OSError when the disk is full, Lost when a
    process of ``group`` is gone, Unfaithful where a saved model is another than the trained one.
    """
    train, objective_name = config.train, config.evaluate.metric
    torch.manual_seed(train.seed)
    check = partial(tower.check_saved, data=data, inputs=inputs, compute=compute)
    keeper = Keeper(folder, tower, check)
    task = task_of(config)
    data = task.trained_on(data, config)
    rows = task.rows(data, "valid", config.evaluate.max_rows)
    augment = Augmenter(train.augment, data, inputs, tower.tokenizer, train.seed)
    objective = loss_of(config)
    optimizer = adamw(tower, train)
    step_gradients = Stepper(tower, augment.tokens, objective, compute, train, group)
    steps = task.steps(data, train.texts, train.batch_size)
    stops = stops_of(steps, config.evaluate.at)
    warmup = warmup_steps(train, steps, stops[0])

    at = Position()
    resume = folder / "checkpoint.safetensors"
    if resume.exists():
        at = Position(**checkpoint.load(resume, tower, optimizer))
    group.check(at.step, tower)  # nobody writes before all have read
    if group.leads:
        tidy(folder, at.best_step)
    for point in at.points:
        report(*point)
    if at.measured is not None:
        yield Measurement(**at.measured)
        if at.ended:
            return
        at.points = at.points if at.step > at.measured["step"] else []
    saver = Saver(resume, tower, optimizer)
    saver.start_clock(at.seconds)

    tower.train()
    for batch in task.batches(data, config, at.step):
        lap = time.monotonic()
        rate = learning_rate(at.step, steps, warmup, train)
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        batch = augment(batch, at.step)
        group.reseed(train.seed, at.step)
        late = [step_gradients(batch), clip(tower, train.clip_norm or math.inf)]
        loss, norm = torch.stack(late).tolist()  # both at once, as a GPU is still at work on them
        at.take_loss(loss, norm, rate, batch.of)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        at.step, at.seen = at.step + 1, at.seen + batch.texts_seen
        speed = batch.texts_seen / (time.monotonic() - lap)
        metrics = {"train/loss": loss, "train/lr": rate, "cost/texts_per_second": speed}
        metrics |= {f"train/{batch.of}/loss": loss} if batch.of else {}
        at.points.append([at.step, int(time.time() * 1000), metrics])
        report(*at.points[-1])
        if at.step not in stops:
            halted = group.of_first(halt)
            if group.leads and (halted or saver.due):
                saver.save(at)
            if halted:
                return
            continue

        at.rung += stops.count(at.step)
        valid = task.sample(rows, queries[at.rung - 1]) if queries else rows
        group.check(at.step, tower)
        when = f"step {at.step} (loss {loss:.4g}, learning rate {rate:.3g})"
        found = group.of_first(
            partial(measure, task, tower, inputs, valid, compute, config.evaluate, when)
        )
        score = len(valid), found[objective_name]
        at.since_best += 1
        if score > tuple(at.best):
            at.best, at.best_step, at.since_best = score, at.step, 0
            if group.leads:
                keeper.save(at.step, saver.seconds)
        why = ""
        if at.step >= steps:
            why = "budget spent"
        elif train.patience and at.since_best >= train.patience:
            why = f"early stopping: no better {objective_name} in {at.since_best} evaluations"
        at.seconds = saver.seconds
        measurement = Measurement(
            rung=at.rung,
            step=at.step,
            texts_seen=at.seen,
            metrics={f"val/{name}": value for name, value in found.items()},
            seconds=at.seconds,
            last=bool(why),
            why=why,
            rows=len(valid),
        )
        at.measured = vars(measurement)
        if group.leads:
            saver.save(at)
            if at.since_best == 0:
                pretrained.put(folder / f".model.{at.step}", folder / "model")
        yield measurement
        if why:
            return
        at.points = []
        saver.start_clock(at.seconds)


def measure(
    task: AnyTask,
    tower: Tower,
    inputs: Inputs,
    rows: Rows,
    compute: Compute,
    config: EvaluateConfig,
    when: str,
) -> dict[str, float]:
    """Return the metrics of the encoder on ``rows`` after ``when``. Raises Diverged."""
    ids, vectors = vectors_of(task, tower, inputs, rows, compute)
    if not np.isfinite(vectors).all():
        raise Diverged(f"vectors not finite after {when}")
    return task.measured(rows, ids, vectors, config)


def vectors_of(
    task: AnyTask, tower: Tower, inputs: Inputs, rows: Rows, compute: Compute
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of the items that ``rows`` need, rising, and their vectors."""
    ids = task.items(rows)
    return ids, embed(tower, inputs, ids, compute)


def tidy(folder: Path, best_step: int) -> None:
    """Finish or clear away what a process that died here was writing.

    The model of the best evaluation takes its place once the checkpoint knows of it, so that
    neither is ever ahead of the other.
    """
    if (folder / f".model.{best_step}").exists():
        pretrained.put(folder / f".model.{best_step}", folder / "model")
    for draft in folder.glob(".*"):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)
