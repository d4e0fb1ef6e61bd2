"""What the logs say of a study, gathered once for pages, comparisons and charts. Nothing is judged here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from embsearch.config.build import build
from embsearch.config.schema import Config
from embsearch.folder import StudyFolder, holder
from embsearch.history import Trial, read_trials
from embsearch.search.space import Space, parse
from embsearch.track.events import Event
from embsearch.values import Scalar

UNTUNED, DEFAULT, BEST = "untuned encoder", "default configuration", "best trial"


class Evaluation(NamedTuple):
    """One evaluation of one of a trial's runs. ``value`` is the objective, ``texts`` the budget spent by then."""

    rung: int
    step: int
    texts: int
    value: float
    metrics: Mapping[str, float]
    seed: int
    spent: float  # seconds of the study by then


class Loss(NamedTuple):
    """The mean training loss of the steps around ``texts``."""

    texts: float
    loss: float


@dataclass
class Course:
    """How one trial went."""

    trial: Trial
    axes: Mapping[str, Scalar]  # every searched parameter by short name
    evaluations: list[Evaluation] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)  # (step, loss) of the run with the first seed
    decisions: list[tuple[float, str, str]] = field(default_factory=list)  # (seconds spent, decision, reason)

    @property
    def own(self) -> list[Evaluation]:
        """Those of the run with the first seed, by rung."""
        return [e for e in self.evaluations if e.seed == 0]

    @property
    def texts(self) -> int:
        """Texts trained on, by all of the trial's runs."""
        runs: dict[int, int] = {}
        for one in self.evaluations:
            runs[one.seed] = max(runs.get(one.seed, 0), one.texts)
        return sum(runs.values())

    def texts_at(self, step: float) -> float:
        """How many texts the run had seen at a step."""
        if not self.own:
            return step
        last = next((e for e in self.own if e.step >= step), self.own[-1])
        return step * last.texts / max(last.step, 1)

    def loss_curve(self, points: int = 40) -> list[Loss]:
        """The loss in at most so many points, each the mean of as many steps."""
        size = -(-len(self.losses) // points)
        parts = [self.losses[i : i + size] for i in range(0, len(self.losses), size)] if size else []
        middle = [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in parts]
        return [Loss(self.texts_at(step), loss) for step, loss in middle]


class Record:
    """One study. Properties are read from the logs when first asked for."""

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        self.config: Config = build(folder.read_locked()["config"])
        self.space: Space = parse(self.config.space, self.config)
        self.running = holder(folder.path / "lock")
        self.result = folder.result()
        self.courses = dict(self._read())

    def _read(self) -> Iterator[tuple[int, Course]]:
        trials = read_trials(self.folder, self.objective)
        for number, events in self.folder.trial_logs():
            if number in trials:
                axes = self.space.axes(trials[number].params, self.config)
                yield number, _fold(Course(trials[number], axes), events, f"val/{self.objective}")

    @property
    def name(self) -> str:
        return self.config.study.name

    @property
    def objective(self) -> str:
        """The validation metric that is maximised."""
        return self.config.evaluate.objective

    @cached_property
    def tested(self) -> dict[str, Event]:
        """The last test of the untuned encoder, the default configuration and the best trial, by label. Empty
        while the study runs."""
        if self.result is None:
            return {}
        found = {event["label"]: event for event in self.folder.log_of_kind("tested")}
        return {row["label"]: found[row["label"]] for row in self.result["table"] if row["label"] in found}

    @cached_property
    def untuned(self) -> Mapping[str, float]:
        """The untuned encoder on the validation rows."""
        logged = self.folder.log_of_kind("baseline")
        return logged[-1]["metrics"] if logged else {}

    @cached_property
    def opened(self) -> list[Event]:
        """A session each."""
        return self.folder.log_of_kind("opened")

    @cached_property
    def seconds(self) -> float:
        return self.folder.seconds_spent()

    @property
    def best(self) -> Course | None:
        """The winner; while the study runs, who is ahead."""
        if self.result is not None:
            return None if self.result["best"] is None else self.courses[self.result["best"]]
        measured = [c for c in self.courses.values() if c.trial.best is not None]
        key = lambda c: (c.trial.state == "complete", c.trial.best, -c.trial.number)  # noqa: E731
        return max(measured, key=key, default=None)

    @property
    def texts(self) -> int:
        """Texts trained on in the whole study."""
        return sum(course.texts for course in self.courses.values())

    def progress(self) -> list[tuple[float, int, float]]:
        """(seconds, texts trained on, best objective) by then, at every evaluation that raised the best."""
        ends = sorted((e.spent, number, e) for number, c in self.courses.items() for e in c.evaluations)
        texts: dict[tuple[int, int], int] = {}
        found: list[tuple[float, int, float]] = []
        for spent, number, one in ends:
            texts[number, one.seed] = one.texts
            if one.seed == 0 and (not found or one.value > found[-1][2]):
                found.append((spent, sum(texts.values()), one.value))
        return found

    def common_rung(self) -> int:
        """The highest evaluation that half of the measured trials came to, eight at least where there are as
        many: values there can be compared. 0 where nothing was measured."""
        rungs = sorted((c.trial.rung for c in self.courses.values() if c.trial.rung), reverse=True)
        return rungs[min(max(8, (len(rungs) + 1) // 2), len(rungs)) - 1] if rungs else 0


def _fold(course: Course, events: Sequence[Event], objective: str) -> Course:
    known: set[tuple[int, int]] = set()
    for event in events:
        kind = event["kind"]
        if kind == "points" and not event.get("seed", 0):
            course.losses += [(p[0], p[2]["train/loss"]) for p in event["points"] if "train/loss" in p[2]]
        elif kind in ("measured", "repeated") and (event["rung"], event.get("seed", 0)) not in known:
            known.add((event["rung"], event.get("seed", 0)))
            course.evaluations.append(
                Evaluation(event["rung"], event["step"], event["texts_seen"], event["metrics"][objective],
                           event["metrics"], event.get("seed", 0), event.get("spent", 0.0))
            )  # fmt: skip
        elif kind == "decided":
            course.decisions.append((event.get("spent", 0.0), event["decision"], event["reason"]))
    course.losses.sort()
    return course
