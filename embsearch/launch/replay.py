"""Studies played on a virtual clock: curves instead of training, so that hours pass in seconds.

The coordinator is the real one, with its logs and its database; only the work is not done. For tests
of a study's mechanics, for trying samplers and schedulers on curves that are known, and for
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
from typing import Any

from embsearch.errors import TrialError, UserError
from embsearch.launch.base import ENDS, Message, Task
from embsearch.launch.curves import Curve, Curves
from embsearch.values import Measurement, record

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
    """Answers tasks as a worker would, from curves: (seconds since the task began, message)."""

    def __init__(self, curves: Curves) -> None:
        self._curves = curves

    def __call__(self, task: Task) -> Iterator[tuple[float, Message]]:
        """The messages of one task; the last one ends it. Never raises."""
        try:
            yield from getattr(self, f"_{task['do']}")(task)
        except (UserError, TrialError) as error:
            yield 0.0, _failed("data" if isinstance(error, UserError) else error.failure, str(error))
        except Exception as error:
            yield 0.0, _failed("bug", f"{type(error).__name__}: {error}")

    def _segment(self, task: Task) -> Iterator[tuple[float, Message]]:
        segment = task["segment"]
        curve = self._curves.curve(segment["trial"], task["config"])
        began, passed = _standing(curve, segment["from_checkpoint"])
        for measured in curve.measurements:
            if measured.rung <= segment["from_checkpoint"]:
                continue
            seconds = measured.seconds - began
            yield seconds, {"kind": "points", "points": _points(curve, passed, measured.step)}
            passed = measured.step
            if measured.rung >= segment["until"] or measured.last:
                _save(curve, measured, Path(task["folder"]), task["config"]["evaluate"]["objective"])
                yield seconds, {"kind": "measured", "measurement": record(measured)}
                return
        if curve.failure is not None:
            yield 0.0, _failed(*curve.failure)
        else:
            raise RuntimeError(f"trial {segment['trial']} had already ended before evaluation {segment['until']}")

    def _probe(self, task: Task) -> Iterator[tuple[float, Message]]:
        raise UserError("launcher=replay trains nothing: there is nothing to time; plan with another launcher")

    def _evaluate(self, task: Task) -> Iterator[tuple[float, Message]]:
        """Of a model: what its trial measured with it, also where the test rows are asked for."""
        if task["split"] not in ("train", "valid", "test"):
            raise AttributeError(f"a dataset has no split {task['split']!r}")
        model, name = task.get("model"), task["config"]["evaluate"]["objective"]
        metrics = dict(self._curves.untuned) if model is None else _saved(Path(model))
        found: Message = {"kind": "evaluated", "metrics": metrics, "seconds": EVALUATION,
                          "compute": f"a replay of {self._curves.origin}: nothing is trained"}  # fmt: skip
        if task.get("full"):
            value = metrics.get("auc", metrics[name])
            interval = {"value": value, "low": value, "high": value, "level": 0.95, "draws": 0}
            found |= {"auc": interval, "segments": {}}
        yield EVALUATION, found


class Replay:
    """Slots that need no time but the clock's: ``wait`` moves it on to whatever comes next."""

    def __init__(self, curves: Curves, clock: VirtualClock, workers: int = 1) -> None:
        self._play, self._clock = Player(curves), clock
        self._busy: set[int] = set()
        self._coming: list[tuple[float, int, int, Message]] = []  # when, in what order, slot, message
        self.workers, self._sent = workers, 0

    @property
    def idle(self) -> list[int]:
        return [slot for slot in range(self.workers) if slot not in self._busy]

    def submit(self, slot: int, task: Task) -> None:
        if slot not in self.idle:
            raise RuntimeError(f"slot {slot} is not idle")
        self._busy.add(slot)
        now = self._clock.monotonic()
        for seconds, message in self._play(task):
            heapq.heappush(self._coming, (now + seconds, self._sent, slot, message))
            self._sent += 1

    def wait(self, timeout: float) -> list[tuple[int, Message]]:
        """Everything that comes next at one moment. Where tasks run it comes, however long that takes
        on the clock; else the clock moves on by ``timeout``."""
        if not self._coming:
            self._clock.move_to(self._clock.monotonic() + timeout)
            return []
        found: list[tuple[int, Message]] = []
        self._clock.move_to(self._coming[0][0])
        while self._coming and self._coming[0][0] <= self._clock.monotonic():
            _, _, slot, message = heapq.heappop(self._coming)
            if message["kind"] == "points":
                now = int(self._clock.time() * 1000)
                message = {"kind": "points", "points": [[step, now, metrics] for step, metrics in message["points"]]}
            if message["kind"] in ENDS:
                self._busy.discard(slot)
            found.append((slot, message))
        return found

    def halt(self) -> None:
        """A segment that is cut off here has done nothing yet."""
        now, busy = self._clock.monotonic(), sorted(self._busy)
        self._coming = [(now, order, slot, {"kind": "halted"}) for order, slot in enumerate(busy)]

    def close(self) -> None:
        self._coming, self._busy = [], set()


def _standing(curve: Curve, rung: int) -> tuple[float, int]:
    """Seconds and steps a trial has behind it at an evaluation."""
    behind = next((m for m in reversed(curve.measurements) if m.rung <= rung), None)
    return (behind.seconds, behind.step) if behind is not None else (0.0, 0)


def _points(curve: Curve, after: int, until: int) -> list[Any]:
    return [point for point in curve.points if after < point[0] <= until]


def _failed(failure: str, message: str) -> Message:
    return {"kind": "failed", "failure": failure, "message": message, "traceback": traceback.format_exc()}


def _save(curve: Curve, measured: Measurement, trial: Path, objective: str) -> None:
    """What stands for the model that a trial saves when it is the best so far."""
    so_far = [m for m in curve.measurements if m.rung <= measured.rung]
    best = max(so_far, key=lambda m: (m.metrics[f"val/{objective}"], -m.rung))
    if best is measured:
        trial.mkdir(parents=True, exist_ok=True)
        draft = trial / f".{SAVED}"
        draft.write_text(json.dumps({k.removeprefix("val/"): v for k, v in best.metrics.items()}), encoding="utf-8")
        os.replace(draft, trial / SAVED)


def _saved(model: Path) -> dict[str, float]:
    try:
        return dict(json.loads((model.parent / SAVED).read_text(encoding="utf-8")))
    except OSError:
        raise UserError(f"model={model}: a replay has no models but those of its own trials") from None
