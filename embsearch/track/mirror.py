"""The points that recorders show. Pure: events in, points out; how a study stands is in history.state.

Each (metric, step) of a trial is one point, the first that was logged. A segment that is
given out again after a crash logs its steps again, and those repeats are left out, so any
view, live or rebuilt, holds the same points.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from embsearch.codec import Json
from embsearch.history import events
from embsearch.history.events import Event
from embsearch.history.state import StudyState
from embsearch.history.trial import Trial
from embsearch.values import Scalar


class Point(NamedTuple):
    """One value of one metric. ``time`` is in Unix milliseconds."""

    key: str
    value: float
    time: int
    step: int


class Points:
    """Points waiting for a view, each (metric, step) once."""

    def __init__(self) -> None:
        self.waiting: list[Point] = []
        self._known: set[tuple[str, int]] = set()

    def add(self, key: str, value: object, time: int, step: int, again: bool = False) -> None:
        """Queue a point unless its step has one; ``again`` adds a second, later value."""
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            return
        if (key, step) in self._known and not again:
            return
        self._known.add((key, step))
        self.waiting.append(Point(metric_name(key), float(value), time, step))

    def forget(self) -> None:
        """Free the memory of a finished trial."""
        self._known.clear()


def objective_at(rung: int) -> str:
    """Return the metric that holds the objective at one evaluation, by which trials can be
    compared.
    """
    return f"objective at evaluation {rung}"


def metric_name(text: str) -> str:
    """``text`` with only the characters that trackers take in a metric's name."""
    return re.sub(r"[^\w\-. /]", "_", text, flags=re.ASCII)[:250]


class Told(NamedTuple):
    """A trial's value at the moment it ended, and the best of the study then."""

    trial: int
    value: float | None
    best: float | None
    time: int


class TrialMirror:
    """The points of one trial so far. How the trial stands is its ``trial`` in the study's state."""

    def __init__(self, objective: str, state: StudyState | None = None) -> None:
        self.objective = objective  # the metric that is maximised, as val/auc
        self._state = state or StudyState(objective.removeprefix("val/"))
        self.number = -1
        self.trial = Trial(self.number)  # in the study's state; an empty one before its first event
        self.created = 0  # Unix ms
        self.axes: Mapping[str, Scalar] = {}
        self.best_metrics: dict[str, Point] = {}  # the evaluation with the best objective
        self._newest: Mapping[str, float] = {}  # the last evaluation's metrics
        self.ended = 0  # Unix ms
        self.model: str | None = None
        self.test: dict[str, Point] = {}
        self.events = 0
        self.points = Points()

    def fold(self, log: Iterable[Event]) -> None:
        """Take in new events. Kinds it does not know are counted and left alone."""
        for event in log:
            self.events += 1
            if isinstance(event, events.Created):
                self._create(event)
            elif self.number >= 0:
                self._fold(event)

    def _create(self, event: events.Created) -> None:
        self.number = event.trial
        self.created = self.created or event.time
        self.axes = event.axes or event.params
        self._state.apply(event, event.trial)
        self.trial = self._state.trials[event.trial]

    def _fold(self, event: Event) -> None:
        before = self.trial.best_score
        self._state.apply(event, self.number)
        match event:
            case events.Trained():
                for step, time, metrics in event.points:
                    for key, value in metrics.items():
                        self.points.add(_of_seed(event.seed, key), value, time, step)
            case events.Measured():
                self._measure(event)
                if event.seeds == 1:
                    self._add_objective(before, event)
            case events.Repeated():
                for key, value in event.metrics.items():
                    self.points.add(
                        _of_seed(event.seed, validation(key)), value, event.time, event.step
                    )
            case events.Compared():
                self._compare(event)
                self._add_objective(before, event)
            case events.Ended():
                self.ended, self.model = event.time, event.model

    def _measure(self, event: events.Measured) -> None:
        self._newest = {validation(key): value for key, value in event.metrics.items()}
        for key, value in self._newest.items():
            self.points.add(key, value, event.time, event.step)
        self.points.add("cost/seconds", event.seconds, event.time, event.step)
        self.points.add("cost/texts", event.texts_seen, event.time, event.step)
        for name, value in event.costs.items():
            self.points.add(f"cost/{name}", value, event.time, event.step)

    def _compare(self, event: events.Compared) -> None:
        """Add the mean of several seeds, which is the trial's value, and how far they lie apart."""
        name = validation(self.objective)
        self.points.add(f"{name} mean", event.value, event.time, event.step)
        if len(event.values) > 1:
            deviation = statistics.stdev(event.values)
            self.points.add(f"{name} deviation", deviation, event.time, event.step)

    def _add_objective(
        self, before: tuple[int, float] | None, event: events.Measured | events.Compared
    ) -> None:
        if self.trial.best_score != before:
            self.best_metrics = {
                key: Point(metric_name(key), float(value), event.time, event.step)
                for key, value in self._newest.items()
            }
        self.points.add("objective", self.trial.best, event.time, event.step)
        value = self.trial.values.get(event.rung)
        self.points.add(objective_at(event.rung), value, event.time, event.step)

    def told(self, value: Told) -> None:
        """Take in the trial's place in the search's history."""
        self.events += 1
        self.points.add("search/trial number", value.trial, value.time, 0)
        self.points.add("search/best so far", value.best, value.time, 0)

    def tested(self, points: Mapping[str, Point]) -> None:
        """Take in the scores of the trial's model on the test rows."""
        self.events += 1
        self.test |= points
        for point in points.values():
            self.points.add(*point)

    # ---- how it stands -------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return f"t{self.number:04d}"

    @property
    def failure(self) -> str:
        outcome = self.trial.outcome
        return (outcome.failure or "") if outcome is not None else ""


class StudyMirror:
    """The points of the study's own log so far."""

    def __init__(self, state: StudyState | None = None) -> None:
        self._state = state or StudyState("")
        self.opened: events.Opened | None = None  # the last session
        self.uid = ""
        self.created = 0  # Unix ms
        self.ended = 0  # Unix ms
        self.told: dict[int, Told] = {}
        self.baseline: dict[str, float] = {}
        self.tested: list[tuple[int, dict[str, Point]]] = []  # of trials' models
        self._tests: dict[str, int] = {}  # how often a label was tested
        self._score: tuple[int, float] = (0, -math.inf)  # rows and value of the best that ended
        self.events = 0
        self.points = Points()

    def fold(self, log: Iterable[Event]) -> None:
        """Take in new events. Kinds it does not know are counted and left alone."""
        for event in log:
            self.events += 1
            self._state.apply(event)
            match event:
                case events.Opened():
                    self._open(event)
                case events.Baseline():
                    self.baseline = {k.removeprefix("val/"): v for k, v in event.metrics.items()}
                    for key, value in self.baseline.items():
                        self.points.add(f"baseline/{key}", value, event.time, 0)
                case events.Told():
                    self._tell(event)
                case events.Closed():
                    self.ended = event.time
                case events.Tested():
                    self._test(event)
                case events.Confirmed():
                    self._confirm(event)

    def _open(self, event: events.Opened) -> None:
        if self.opened is None:
            self.created = event.time
            self.uid = study_uid(event)
        self.opened, self.ended = event, 0

    def _tell(self, event: events.Told) -> None:
        if event.trial in self.told:
            return
        if event.value is not None:
            self._score = max(self._score, (event.rows, event.value))
        best = self._score[1] if self._score[1] > -math.inf else None
        self.points.add("objective", best, event.time, len(self.told))
        self.told[event.trial] = Told(event.trial, event.value, best, event.time)

    def _test(self, event: events.Tested) -> None:
        again = self._tests[event.label] = (
            self._tests.get(event.label, -1) + 1
        )  # another winner of a longer study
        metrics = dict(event.metrics)
        if event.auc:
            objective = self._state.objective
            judges = event.metrics.get(objective) == event.auc["value"]
            primary = objective if judges else "auc"
            metrics |= {f"{primary}_{end}": event.auc[end] for end in ("low", "high")}
        for key, value in metrics.items():
            self.points.add(f"{event.split}/{event.label}/{key}", value, event.time, again)
        if event.trial is not None:
            points = {
                key: Point(metric_name(f"{event.split}/{key}"), float(value), event.time, 0)
                for key, value in metrics.items()
                if isinstance(value, (int, float))
            }
            self.tested.append((event.trial, points))

    def _confirm(self, event: events.Confirmed) -> None:
        """Add what fresh seeds say of a trial's configuration, beside its value in the search."""
        found = {"mean": event.mean, "luck": event.luck, "seeds": len(event.values)}
        again = sum(trial == event.trial for trial, _ in self.tested)
        points = {
            f"confirmed/{key}": Point(f"confirmed/{key}", float(value), event.time, again)
            for key, value in found.items()
        }
        self.tested.append((event.trial, points))
        for key, value in found.items():
            self.points.add(f"confirmed/{key} by trial", value, event.time, event.trial)

    # ---- how it stands -------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``closed``, or ``running`` while it goes on."""
        return "running" if self._state.closed is None else "closed"

    @property
    def why(self) -> str:
        """The reason why it ended."""
        return "" if self._state.closed is None else self._state.closed.why

    @property
    def leader(self) -> Trial | None:
        """The best trial, as ``embsearch status`` names it."""
        return self._state.leader

    @property
    def data(self) -> str:
        """The fingerprint of its data."""
        return "" if self.opened is None else self.opened.data

    @property
    def environment(self) -> Json:
        """Packages and machine of the last session."""
        return {} if self.opened is None else self.opened.environment

    @property
    def promoted(self) -> str:
        """The decision of ``embsearch promote``."""
        promoted = self._state.promoted
        if promoted is None:
            return ""
        if promoted.version is None:
            return f"refused: {promoted.refused}"
        return f"{promoted.version['name']} version {promoted.version['version']}"


def _of_seed(seed: int, key: str) -> str:
    """Return the name of a metric of a trial's repeat with another seed."""
    return f"seed{seed}/{key}" if seed else key


def validation(key: str) -> str:
    """Return a measurement's metric with its room: ``auc`` is ``val/auc``."""
    return key if "/" in key else f"val/{key}"


def study_uid(opened: events.Opened) -> str:
    """Return the name that tells a study from a later one of the same name, and from that of
    another home that began in the same millisecond: ``product@20261124-083009.214-3f9a2c10be``.
    """
    moment = datetime.fromtimestamp(opened.time / 1000, UTC)
    home = f"-{opened.home_id}" if opened.home_id else ""  # older studies have none
    return f"{opened.name}@{moment:%Y%m%d-%H%M%S}.{moment.microsecond // 1000:03d}{home}"


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
    """Yield the folders of a study's trials, by number."""
    yield from sorted((study_folder / "trials").glob("t[0-9][0-9][0-9][0-9]*"))
