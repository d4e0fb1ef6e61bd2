"""The Pareto front of a study that names costs, as a table for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from embsearch.codec import JsonObject
from embsearch.config.catalogue import COSTS
from embsearch.config.command import same_study
from embsearch.report.record import Course, Record
from embsearch.report.result import number
from embsearch.search.costs import front, settled

ON, OFF = "front", "other trials"
WORDS = (
    "No other trial that came to its end is better and costs no more; "
    "costs within 5 % count as equal."
)


@dataclass(frozen=True)
class Point:
    """A trial with its value and its costs."""

    course: Course
    costs: Sequence[float]
    on_front: bool
    won: bool
    model: str  # the searched settings that a cost depends on

    @property
    def cells(self) -> list[str]:
        """The cells of its row: trial, value, costs, settings."""
        costs = [_short(cost) for cost in self.costs]
        return [str(self.course.number), number(self.course.best), *costs, self.model]

    def row(self, names: Sequence[str]) -> JsonObject:
        """Return it as a row of a chart's data."""
        facts = {
            "n": self.course.number,
            "won": self.won,
            "kind": ON if self.on_front else OFF,
            "best": self.course.best,
        }
        return facts | dict(zip(names, self.costs, strict=True))


def points(record: Record) -> list[Point]:
    """Return the trials whose costs are known: the front, its best first, then the others."""
    names = record.config.evaluate.costs
    if not names:
        return []
    every = [settled(record.trials, name) for name in names]
    best_first = [trial.number for trial in front(record.trials, record.config)]
    found = []
    for place in dict.fromkeys([*best_first, *record.trials]):
        course = record.courses[place]
        if course.best is None or any(place not in one for one in every):
            continue
        costs = [one[place] for one in every]
        model = _model(record, course)
        found.append(Point(course, costs, place in best_first, course is record.best, model))
    return found


def heads(record: Record) -> list[str]:
    """Return the heads of the columns of ``Point.cells``."""
    costs = [COSTS[name].head for name in record.config.evaluate.costs]
    return ["trial", f"valid {record.objective}", *costs, ""]


def show_front(record: Record) -> None:
    """Print the front, where the study names costs."""
    found = [point for point in points(record) if point.on_front]
    if not found:
        return
    console = Console()
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
    for head in heads(record):
        table.add_column(head, justify="right" if head else "left", no_wrap=bool(head))
    for point in found:
        table.add_row(*point.cells)
    console.print(f"Pareto front. {WORDS}", highlight=False, soft_wrap=True)
    console.print(table)
    print(f"any of them: embsearch promote {same_study(record.config)} trial=N")


def _model(record: Record, course: Course) -> str:
    """Return the searched settings that the costs depend on; of a folder its last part."""
    changing = {path for name in record.config.evaluate.costs for path in COSTS[name].changed_by}
    words = []
    for dimension, short in zip(record.space.dimensions, record.space.short_names(), strict=True):
        if dimension.path in changing and dimension.path in course.trial.params:
            value = str(course.trial.params[dimension.path])
            words.append(f"{short} {value.rstrip('/').rpartition('/')[2]}")
    return ", ".join(words)


def _short(cost: float) -> str:
    return f"{cost:.3g}" if cost < 1000 else f"{cost:,.0f}"
