"""What the logs say, as recorders show it. Pure: events in, state and points out.

Each (metric, step) of a trial is one point, the first that was logged. A segment that is
given out again after a crash logs its steps again, and those repeats are left out, so any
view, live or rebuilt, holds the same points.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from embsearch.track.events import Event, whole
from embsearch.values import Scalar


class Point(NamedTuple):
    """One value of one metric. ``time`` is in Unix milliseconds."""

    key: str
    value: float
    time: int
    step: int


class LogTail:
    """The events of one log that were not read yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read(self) -> list[Event]:
        """New whole events, oldest first. A torn last line is left for the next call."""
        try:
            if self.path.stat().st_size <= self._offset:
                return []
        except FileNotFoundError:
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        events: list[Event] = []
        for line in data.splitlines(keepends=True):
            event = whole(line)
            if event is None:
                break  # torn: its writer cuts it off before it appends again
            events.append(event)
            self._offset += len(line)
        return events


class Points:
    """Points waiting for a view, each (metric, step) once."""

    def __init__(self) -> None:
        self.waiting: list[Point] = []
        self._known: set[tuple[str, int]] = set()

    def add(self, key: str, value: Any, time: int, step: int, again: bool = False) -> None:
        """Queue a point unless its step has one; ``again`` adds a second, later value."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return
        if (key, step) in self._known and not again:
            return
        self._known.add((key, step))
        self.waiting.append(Point(metric_name(key), float(value), time, step))

    def forget(self) -> None:
        """Free the memory of a finished trial."""
        self._known.clear()


def metric_name(text: str) -> str:
    """``text`` with only the characters that trackers take in a metric's name."""
    return re.sub(r"[^\w\-. /]", "_", text, flags=re.ASCII)[:250]


class Told(NamedTuple):
    """A trial's value at the moment it ended, and the best of the study then."""

    trial: int
    value: float | None
    best: float | None
    time: int


@dataclass
class TrialMirror:
    """One trial so far."""

    objective: str  # the metric that is maximised, as val/auc
    number: int = -1
    created: int = 0  # Unix ms
    axes: Mapping[str, Scalar] = field(default_factory=dict)
    params: Mapping[str, Scalar] = field(default_factory=dict)
    state: str = "waiting"  # values.State
    reason: str = ""
    failure: str = ""
    failures: list[str] = field(default_factory=list)
    best: float | None = None  # of the evaluations on the most rows
    best_metrics: dict[str, Point] = field(default_factory=dict)  # the evaluation with the best objective
    _newest: dict[str, float] = field(default_factory=dict)  # the last evaluation's metrics
    _read: int = 0  # rows that it read
    _score: tuple[int, float] = (0, -math.inf)  # rows and value of the best
    step: int = 0
    rung: int = 0
    texts: int = 0
    seconds: float = 0.0
    ended: int = 0  # Unix ms
    model: str | None = None
    test: dict[str, Point] = field(default_factory=dict)
    events: int = 0
    points: Points = field(default_factory=Points)

    def fold(self, events: Iterable[Event]) -> None:
        """Take in new events. Kinds it does not know are counted and left alone."""
        for event in events:
            self.events += 1
            handle = getattr(self, f"_{event['kind']}", None)
            if handle is not None:
                handle(event)

    def _created(self, event: Event) -> None:
        self.number = event["trial"]
        self.created = self.created or event["time"]
        self.params = event.get("params") or {}
        self.axes = event.get("axes") or self.params

    def _segment(self, event: Event) -> None:
        self.state, self.reason = "running", ""

    def _points(self, event: Event) -> None:
        for step, time, metrics in event["points"]:
            for key, value in metrics.items():
                self.points.add(_of_seed(event, key), value, time, step)

    def _measured(self, event: Event) -> None:
        step, time = event["step"], event["time"]
        metrics = {validation(key): value for key, value in event["metrics"].items()}
        self.step, self.rung = max(self.step, step), max(self.rung, event["rung"])
        self.texts, self.seconds = event["texts_seen"], event["seconds"]
        for key, value in metrics.items():
            self.points.add(key, value, time, step)
        self.points.add("cost/seconds", self.seconds, time, step)
        self.points.add("cost/texts", self.texts, time, step)
        value = metrics.get(validation(self.objective))
        self._newest = metrics
        self._read = event.get("rows", 0)
        if event.get("seeds", 1) == 1:
            self._valued(value, step, time)

    def _repeated(self, event: Event) -> None:
        for key, value in event["metrics"].items():
            self.points.add(_of_seed(event, validation(key)), value, event["time"], event["step"])

    def _compared(self, event: Event) -> None:
        """The mean of several seeds is the trial's value; how far they lie apart says what a difference is worth."""
        name, step, time = validation(self.objective), event["step"], event["time"]
        self.points.add(f"{name} mean", event["value"], time, step)
        self.points.add(f"{name} deviation", statistics.stdev(event["values"]), time, step)
        self._valued(event["value"], step, time)

    def _valued(self, value: float | None, step: int, time: int) -> None:
        metrics = self._newest
        if value is not None and math.isfinite(value) and (self._read, value) > self._score:
            self._score, self.best = (self._read, value), value
            self.best_metrics = {k: Point(metric_name(k), float(v), time, step) for k, v in metrics.items()}
        self.points.add("objective", self.best, time, step)

    def _decided(self, event: Event) -> None:
        if event["decision"] == "pause":
            self.state = "paused"
        self.reason = event["reason"]

    def _failed(self, event: Event) -> None:
        self.state = "waiting"
        self.failures.append(event["failure"])
        self.reason = f"{event['failure']}: {event.get('message', '')}"

    def _ended(self, event: Event) -> None:
        self.state, self.ended, self.model = event["state"], event["time"], event.get("model")
        self.reason = event.get("reason") or self.reason
        self.failure = event.get("failure") or ""
        best = event.get("objective", event.get("value"))
        if best is not None and best != self.best:
            self.best = best
            self.points.add("objective", best, event["time"], self.step, again=True)

    def told(self, value: Told) -> None:
        """The study took the trial's result: its place in the search's history."""
        self.events += 1
        self.points.add("search/trial number", value.trial, value.time, 0)
        self.points.add("search/best so far", value.best, value.time, 0)

    def tested(self, points: Mapping[str, Point]) -> None:
        """The trial's model was scored on the test rows."""
        self.events += 1
        self.test |= points
        for point in points.values():
            self.points.add(*point)

    @property
    def name(self) -> str:
        return f"t{self.number:04d}"


@dataclass
class StudyMirror:
    """The study's own log so far."""

    opened: Event | None = None
    uid: str = ""
    state: str = "running"  # running | closed
    created: int = 0
    ended: int = 0
    why: str = ""
    best: float | None = None
    best_trial: int | None = None
    told: dict[int, Told] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    tested: list[tuple[int, dict[str, Point]]] = field(default_factory=list)  # of trials' models
    promoted: str = ""
    _tests: dict[str, int] = field(default_factory=dict)  # how often a label was tested
    _score: tuple[int, float] = (0, -math.inf)  # rows and value of the best
    events: int = 0
    points: Points = field(default_factory=Points)

    def fold(self, events: Iterable[Event]) -> None:
        """Take in new events. Kinds it does not know are counted and left alone."""
        for event in events:
            self.events += 1
            handle = getattr(self, f"_{event['kind']}", None)
            if handle is not None:
                handle(event)

    def _opened(self, event: Event) -> None:
        if self.opened is None:
            self.created = event["time"]
            self.uid = study_uid(event)
        self.opened, self.state, self.ended = event, "running", 0

    def _baseline(self, event: Event) -> None:
        self.baseline = {k.removeprefix("val/"): v for k, v in event["metrics"].items()}
        for key, value in self.baseline.items():
            self.points.add(f"baseline/{key}", value, event["time"], 0)

    def _told(self, event: Event) -> None:
        trial, value = event["trial"], event.get("value")
        if trial in self.told:
            return
        if value is not None and (score := (event.get("rows", 0), value)) > self._score:
            self._score, self.best, self.best_trial = score, value, trial
        self.points.add("objective", self.best, event["time"], len(self.told))
        self.told[trial] = Told(trial, value, self.best, event["time"])

    def _closed(self, event: Event) -> None:
        self.state, self.ended, self.why = "closed", event["time"], event["why"]
        winner = self.told.get(event["best"])  # the study may prefer a complete trial to a better pruned one
        if winner is not None and winner.value is not None:
            self.best, self.best_trial = winner.value, winner.trial

    def _tested(self, event: Event) -> None:
        label, split, time = event["label"], event.get("split", "test"), event["time"]
        again = self._tests[label] = self._tests.get(label, -1) + 1  # a study that went on has another winner
        metrics = dict(event["metrics"])
        if interval := event.get("auc"):
            metrics |= {"auc_low": interval["low"], "auc_high": interval["high"]}
        for key, value in metrics.items():
            self.points.add(f"{split}/{label}/{key}", value, time, again)
        if event.get("trial") is not None:
            points = {
                key: Point(metric_name(f"{split}/{key}"), float(value), time, 0)
                for key, value in metrics.items()
                if isinstance(value, (int, float))
            }
            self.tested.append((event["trial"], points))

    def _confirmed(self, event: Event) -> None:
        """What fresh seeds say of a trial's configuration stands beside its value in the search."""
        found = {"mean": event["mean"], "luck": event["luck"], "seeds": len(event["values"])}
        again = sum(trial == event["trial"] for trial, _ in self.tested)
        points = {
            f"confirmed/{key}": Point(f"confirmed/{key}", float(value), event["time"], again)
            for key, value in found.items()
        }
        self.tested.append((event["trial"], points))
        for key, value in found.items():
            self.points.add(f"confirmed/{key} by trial", value, event["time"], event["trial"])

    def _promoted(self, event: Event) -> None:
        if event.get("refused"):
            self.promoted = f"refused: {event['refused']}"
        else:
            self.promoted = f"{event['version']['name']} version {event['version']['version']}"


def _of_seed(event: Event, key: str) -> str:
    """A metric of a trial's repeat with another seed."""
    seed = event.get("seed", 0)
    return f"seed{seed}/{key}" if seed else key


def validation(key: str) -> str:
    """A measurement's metric with its room: ``auc`` is ``val/auc``."""
    return key if "/" in key else f"val/{key}"


def study_uid(opened: Event) -> str:
    """The name that tells a study from a later one of the same name, and from that of another home that began in
    the same millisecond: ``product@20261124-083009.214-3f9a2c10be``."""
    moment = datetime.fromtimestamp(opened["time"] / 1000, UTC)
    home = f"-{opened['home_id']}" if "home_id" in opened else ""  # older studies have none
    return f"{opened['name']}@{moment:%Y%m%d-%H%M%S}.{moment.microsecond // 1000:03d}{home}"


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Searched config paths by the names that ``created`` events call them in ``axes``, as
    search.space does: the last component (``objective`` for ``objective.name``), the whole path
    where two are alike."""
    paths = list(paths)
    ends = [_end(path) for path in paths]
    return {p: p if ends.count(e) > 1 else e for p, e in zip(paths, ends, strict=True)}


def _end(path: str) -> str:
    room, _, leaf = path.rpartition(".")
    return room.rpartition(".")[2] if leaf in ("name", "path") else leaf


def trial_folders(study_folder: Path) -> Iterator[Path]:
    """The trials of a study, by number."""
    yield from sorted((study_folder / "trials").glob("t[0-9][0-9][0-9][0-9]*"))
