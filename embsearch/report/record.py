"""The record of a study by its logs, gathered once for pages, comparisons and charts. Nothing is
judged here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from embsearch.codec import Json
from embsearch.config.build import build
from embsearch.config.schema import Config
from embsearch.errors import StudyError
from embsearch.history import events
from embsearch.history.events import E, Event
from embsearch.history.folder import StudyFolder, holder, refuse_lost_logs
from embsearch.history.log import read_events
from embsearch.history.state import StudyState
from embsearch.history.trial import Trial, common_rung
from embsearch.hpo.space import Dimension, Space, parse
from embsearch.values import Reading, Scalar


class Evaluation(NamedTuple):
    """One evaluation of one of a trial's runs. ``value`` is the objective, ``texts`` the budget
    spent by then.
    """

    rung: int
    step: int
    texts: int
    value: float
    metrics: Mapping[str, float]
    seed: int
    spent: float  # seconds of the study by then
    rows: int = 0  # that were read, where not all evaluations read all


class Loss(NamedTuple):
    """The mean training loss of the steps around ``texts``."""

    texts: float
    loss: float


@dataclass
class Course:
    """The course of one trial."""

    trial: Trial
    axes: Mapping[str, Scalar]  # every searched parameter by short name
    evaluations: list[Evaluation] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(
        default_factory=list
    )  # (step, loss) of the run with the first seed
    machine: Json = field(
        default_factory=dict
    )  # that made its last evaluation; empty in old records

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def best(self) -> float | None:
        """The best value it measured."""
        return self.trial.best

    def uses(self, dimension: Dimension) -> bool:
        """Return whether its training depends on a parameter: a triplet loss has no temperature."""
        return not dimension.when or dimension.path in self.trial.params

    @property
    def own(self) -> list[Evaluation]:
        """Those of the run with the first seed, by rung."""
        return [e for e in self.evaluations if e.seed == 0]

    @property
    def saved(self) -> Evaluation | None:
        """The evaluation whose model was saved."""
        return max(self.own, key=lambda e: (e.rows, e.value), default=None)

    def texts(self, seed: int = 0) -> int:
        """Texts trained on, by the trial's runs from this seed on."""
        runs: dict[int, int] = {}
        for one in self.evaluations:
            runs[one.seed] = max(runs.get(one.seed, 0), one.texts)
        return 0 if self.trial.is_soup else sum(n for at, n in runs.items() if at >= seed)

    def texts_at(self, step: float) -> float:
        """Return the number of texts that the run had seen at a step."""
        if not self.own:
            return step
        last = next((e for e in self.own if e.step >= step), self.own[-1])
        return step * last.texts / max(last.step, 1)

    def loss_curve(self, points: int = 40) -> list[Loss]:
        """Return the loss in at most so many points, each the mean of as many steps."""
        size = -(-len(self.losses) // points)
        parts = (
            [self.losses[i : i + size] for i in range(0, len(self.losses), size)] if size else []
        )
        middle = [
            (sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part))
            for part in parts
        ]
        return [Loss(self.texts_at(step), loss) for step, loss in middle]


class Record:
    """One study, its logs read once: what ``status`` shows and pages explain."""

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        self.config: Config = build(folder.read_locked()["config"])
        self.space: Space = parse(self.config.space, self.config)
        self.running = holder(folder.path / "lock")
        self._events = read_events(folder.log.path)
        logs = dict(folder.trial_logs())
        self.state = StudyState(self.objective).apply_all(self._events, logs)
        refuse_lost_logs(folder, self.state)
        if not self.running:
            self.state.release_all()
        closed = self.state.closed
        self.result = None if closed is None else dict(closed.result)
        everything = {**self.state.trials} | {soup.number: soup for soup in self.state.trials.soups}
        self.courses = {
            number: _course(
                trial, logs[number], self.space.axes(trial.params, self.config), self.objective
            )
            for number, trial in sorted(everything.items())
        }

    @cached_property
    def searched(self) -> dict[int, Course]:
        """The trials that the search tried, by number: all but the soups."""
        return {n: course for n, course in self.courses.items() if not course.trial.is_soup}

    @property
    def name(self) -> str:
        return self.config.study.name

    @property
    def objective(self) -> str:
        """The validation metric that is maximised."""
        return self.config.evaluate.metric

    @cached_property
    def trials(self) -> dict[int, Trial]:
        """By number."""
        return {number: course.trial for number, course in self.courses.items()}

    def of_kind(self, kind: type[E]) -> list[E]:
        """Return the events of one kind in the study's own log."""
        return events.of_kind(self._events, kind)

    @property
    def elapsed(self) -> float:
        """Seconds of all sessions so far."""
        return self.state.spent

    @property
    def tested(self) -> dict[str, events.Tested]:
        """The last test of each model of the final table, by label. Empty
        while the study runs."""
        if self.result is None:
            return {}
        found = self.state.tested
        return {
            row["label"]: found[row["label"]]
            for row in self.result["table"]
            if row["label"] in found
        }

    @property
    def baseline(self) -> Mapping[str, float] | None:
        """The untuned encoder on the validation rows."""
        return None if self.state.baseline is None else self.state.baseline.metrics

    @property
    def readings(self) -> list[Reading]:
        """The rows that each evaluation of a trial reads; empty where all read all rows."""
        return self.state.readings

    @property
    def data(self) -> str:
        """The fingerprint of its data."""
        return self.state.sessions[-1].data if self.state.sessions else ""

    @cached_property
    def best(self) -> Course | None:
        """The winner; while the study runs, who is ahead."""
        if self.result is not None and self.result["best"] is None:
            return None
        leader = self.state.leader
        return None if leader is None else self.courses[leader.number]

    @property
    def configuration(self) -> Course | None:
        """The winner; of a soup, the trial whose runs it is the mean of."""
        best = self.best
        if best is None or not best.trial.is_soup:
            return best
        return self.courses[best.trial.averaged]

    @property
    def seconds(self) -> float:
        """The time that the search took; so far, while it runs."""
        return self.elapsed if self.result is None else float(self.result["seconds"])

    @property
    def texts(self) -> int:
        """Texts trained on in the whole study."""
        return sum(course.texts() for course in self.courses.values())

    @property
    def fresh_texts(self) -> int:
        """Those of them that the best were trained on again, after the search."""
        return sum(course.texts(self.config.study.seeds) for course in self.courses.values())

    def check_trial(self, number: int) -> None:
        """Raise StudyError where there is no such trial."""
        if number not in self.trials:
            known = (
                f"the trials {min(self.trials)} to {max(self.trials)}"
                if self.trials
                else "no trial yet"
            )
            raise StudyError(f"trial={number}: study {self.name} has {known}")

    def progress(self) -> list[tuple[float, int, float]]:
        """(seconds, texts trained on, best objective) by then, at every evaluation that raised the best; the first
        on more rows counts as one."""
        every = (
            (e.spent, number, e)
            for number, course in self.courses.items()
            for e in course.evaluations
        )
        ends = sorted(every, key=lambda end: end[:2])
        texts: dict[tuple[int, int], int] = {}
        found: list[tuple[float, int, float]] = []
        best = (0, -math.inf)
        for seconds, number, one in ends:
            texts[number, one.seed] = 0 if self.courses[number].trial.is_soup else one.texts
            if one.seed == 0 and (one.rows, one.value) > best:
                best = one.rows, one.value
                found.append((seconds, sum(texts.values()), one.value))
        return found

    def common_rung(self) -> int:
        """Return the evaluation whose values can be compared; 0 where nothing was measured."""
        return common_rung(course.trial for course in self.searched.values())

    def at_share(self, rung: int) -> str:
        """Return where an evaluation lies, in words."""
        at = self.config.evaluate.at  # an extended study may have fewer evaluations
        return f"{at[min(rung, len(at)) - 1]:.0%} of the texts" if rung else ""


def _course(
    trial: Trial, log: Sequence[Event], axes: Mapping[str, Scalar], objective: str
) -> Course:
    """Return how a trial went: each evaluation once, and the losses of its own run."""
    course = Course(trial, axes)
    known: set[tuple[int, int]] = set()
    for event in log:
        if isinstance(event, events.Trained) and event.seed == 0:
            course.losses += [
                (p[0], p[2]["train/loss"]) for p in event.points if "train/loss" in p[2]
            ]
        elif isinstance(event, events.Evaluated) and (event.rung, event.run) not in known:
            known.add((event.rung, event.run))
            course.machine = event.machine or course.machine
            evaluation = Evaluation(
                rung=event.rung,
                step=event.step,
                texts=event.texts_seen,
                value=event.metrics[f"val/{objective}"],
                metrics=event.metrics,
                seed=event.run,
                spent=event.spent or 0.0,
                rows=event.rows,
            )
            course.evaluations.append(evaluation)
    course.losses.sort()
    return course
