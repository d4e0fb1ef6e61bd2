"""Studies played on a virtual clock: curves instead of training, so that hours pass in seconds.

The coordinator is the real one, with its logs and its database; only the work is not done. For
tests of a study's mechanics, for trying samplers and schedulers on curves that are known, and for
looking at what a search of 500 trials would have done.
"""

from __future__ import annotations

import heapq
import json
import os
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from embsearch.config.schema import EvaluateConfig
from embsearch.errors import UserError
from embsearch.launch.base import (
    Ending,
    Evaluated,
    EvaluateJob,
    Failed,
    Halted,
    Job,
    Measured,
    Message,
    Point,
    Points,
    ProbeJob,
    TrainJob,
)
from embsearch.launch.curves import Curve, Curves
from embsearch.values import Interval, Measurement

SAVED = "replayed.json"  # in a trial's folder, where another launcher has a model
EVALUATION = 1.0  # virtual seconds of an evaluation by itself


class VirtualClock:
    """Stands still until it is moved on. Begins at ``start`` (Unix seconds), by default now."""

    def __init__(self, start: float | None = None) -> None:
        self._start = time.time() if start is None else start
        self._passed = 0.0

    def time(self) -> float:
        return self._start + self._passed

    def monotonic(self) -> float:
        return self._passed

    def move_to(self, monotonic: float) -> None:
        self._passed = max(self._passed, monotonic)


class Player:
    """A worker's answers, from curves: (seconds since the job began, message)."""

    def __init__(self, curves: Curves) -> None:
        self._curves = curves

    def __call__(self, job: Job) -> Iterator[tuple[float, Message]]:
        """Yield the messages of one job; the last one ends it. An error becomes ``Failed``."""
        try:
            yield from self._answers(job)
        except UserError as error:
            yield 0.0, Failed("data", str(error), traceback.format_exc())
        except Exception as error:
            yield 0.0, Failed("bug", f"{type(error).__name__}: {error}", traceback.format_exc())

    def _answers(self, job: Job) -> Iterator[tuple[float, Message]]:
        match job:
            case TrainJob():
                yield from self._train(job)
            case EvaluateJob():
                yield EVALUATION, self._evaluate(job)
            case ProbeJob():
                raise UserError(
                    "launcher=replay trains nothing: there is nothing to time; "
                    "plan with another launcher"
                )
            case _:
                raise TypeError(f"no such job: {job!r}")

    def _train(self, job: TrainJob) -> Iterator[tuple[float, Message]]:
        segment = job.segment
        curve = self._curves.curve(segment.trial, job.config)
        began, passed = _position(curve, segment.from_checkpoint)
        for measured in curve.measurements:
            if measured.rung <= segment.from_checkpoint:
                continue
            seconds = measured.seconds - began
            yield seconds, Points(_points(curve, passed, measured.step))
            passed = measured.step
            if measured.rung >= segment.until or measured.last:
                _save(curve, measured, Path(job.folder), _metric(job))
                yield seconds, Measured(measured)
                return
        if curve.failure is not None:
            failure, text = curve.failure
            yield 0.0, Failed(failure, text, traceback.format_exc())
        else:
            raise RuntimeError(
                f"trial {segment.trial} had already ended before evaluation {segment.until}"
            )

    def _evaluate(self, job: EvaluateJob) -> Evaluated:
        """Return what a model's trial measured with it, also where the test rows are asked for."""
        if job.split not in ("train", "valid", "test"):
            raise AttributeError(f"a dataset has no split {job.split!r}")
        metrics = dict(self._curves.untuned) if job.model is None else _saved(Path(job.model))
        compute = f"a replay of {self._curves.origin}: nothing is trained"
        interval = None
        if job.full:
            value = metrics.get("auc", metrics[_metric(job)])
            interval = Interval(value, value, value)
        return Evaluated(metrics, compute, EVALUATION, interval)


class Replay:
    """Slots that need no time but the clock's: ``wait`` moves it on to whatever comes next."""

    def __init__(self, curves: Curves, clock: VirtualClock, workers: int = 1) -> None:
        self._play, self._clock = Player(curves), clock
        self._busy: set[int] = set()
        # When, in what order, to which slot, what.
        self._coming: list[tuple[float, int, int, Message]] = []
        self.workers, self._sent = workers, 0

    @property
    def idle(self) -> list[int]:
        return [slot for slot in range(self.workers) if slot not in self._busy]

    def submit(self, slot: int, job: Job) -> None:
        if slot not in self.idle:
            raise RuntimeError(f"slot {slot} is not idle")
        self._busy.add(slot)
        now = self._clock.monotonic()
        for seconds, message in self._play(job):
            heapq.heappush(self._coming, (now + seconds, self._sent, slot, message))
            self._sent += 1

    def wait(self, timeout: float) -> list[tuple[int, Message]]:
        """Return everything that comes next at one moment. Where jobs run it comes, however long
        that takes on the clock; else the clock moves on by ``timeout``."""
        if not self._coming:
            self._clock.move_to(self._clock.monotonic() + timeout)
            return []
        found: list[tuple[int, Message]] = []
        self._clock.move_to(self._coming[0][0])
        while self._coming and self._coming[0][0] <= self._clock.monotonic():
            _, _, slot, message = heapq.heappop(self._coming)
            if isinstance(message, Points):
                now = int(self._clock.time() * 1000)
                message = Points(tuple((step, now, metrics) for step, _, metrics in message.points))
            if isinstance(message, Ending):
                self._busy.discard(slot)
            found.append((slot, message))
        return found

    def halt(self) -> None:
        """End every job as halted: a segment that is cut off here has done nothing yet."""
        now, busy = self._clock.monotonic(), sorted(self._busy)
        self._coming = [(now, order, slot, Halted()) for order, slot in enumerate(busy)]

    def close(self) -> None:
        self._coming, self._busy = [], set()


def _position(curve: Curve, rung: int) -> tuple[float, int]:
    """Return the seconds and steps that a trial has behind it at an evaluation."""
    behind = next((m for m in reversed(curve.measurements) if m.rung <= rung), None)
    return (behind.seconds, behind.step) if behind is not None else (0.0, 0)


def _points(curve: Curve, after: int, until: int) -> tuple[Point, ...]:
    """Return what was reported in these steps. The clock's time is put in when it is told."""
    return tuple((step, 0, metrics) for step, metrics in curve.points if after < step <= until)


def _metric(job: TrainJob | EvaluateJob) -> str:
    return EvaluateConfig(objective=job.config["evaluate"]["objective"]).metric


def _save(curve: Curve, measured: Measurement, trial: Path, objective: str) -> None:
    """Write what stands for the model that a trial saves when it is the best so far."""
    so_far = [m for m in curve.measurements if m.rung <= measured.rung]
    best = max(so_far, key=lambda m: (m.metrics[f"val/{objective}"], -m.rung))
    if best is measured:
        trial.mkdir(parents=True, exist_ok=True)
        draft = trial / f".{SAVED}"
        metrics = {name.removeprefix("val/"): value for name, value in best.metrics.items()}
        draft.write_text(json.dumps(metrics), encoding="utf-8")
        os.replace(draft, trial / SAVED)


def _saved(model: Path) -> dict[str, float]:
    try:
        return dict(json.loads((model.parent / SAVED).read_text(encoding="utf-8")))
    except OSError:
        text = f"model={model}: a replay has no models but those of its own trials"
        raise UserError(text) from None
