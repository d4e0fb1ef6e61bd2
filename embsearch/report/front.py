"""The Pareto front of a study that names costs, as a table for the terminal and for the page."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from embsearch.codec import JsonObject
from embsearch.config.catalogue import COSTS
from embsearch.config.command import same_study
from embsearch.hpo.costs import front, levels, settled
from embsearch.report.record import Course, Record
from embsearch.report.result import number

ON, OFF = "front", "other trials"
WORDS = (
    "No other trial that came to its end is better and costs no more; "
    "costs within 5 % count as equal."
)


def points(record: Record) -> list[JsonObject]:
    """Return the trials whose costs are known: the front, its best first, then the others."""
    names = record.config.evaluate.costs
    every = {name: settled(record.trials, name) for name in names}
    known = levels(record.trials, names)
    best_first = [trial.number for trial in front(record.trials, record.config)]
    found = []
    for place in dict.fromkeys([*best_first, *known]):
        course = record.courses[place]
        if course.best is None:
            continue
        row = {
            "n": place,
            "won": course is record.best,
            "kind": ON if place in best_first else OFF,
            "best": course.best,
            "model": _model(record, course),
        }
        for name in names:
            row[name] = every[name][place]
        found.append(row)
    return found


def front_rows(record: Record) -> list[JsonObject]:
    """Return the trials of the front; ``cells``: as they stand in a table."""
    found = [row for row in points(record) if row["kind"] == ON]
    for row in found:
        costs = [_short(row[name]) for name in record.config.evaluate.costs]
        first = [str(row["n"]), number(row["best"])]
        row["cells"] = [*first, *costs, row["model"]]
    return found


def heads(record: Record) -> list[str]:
    """Return the heads of the table's columns."""
    costs = [COSTS[name].head for name in record.config.evaluate.costs]
    return ["trial", f"valid {record.objective}", *costs, ""]


def show_front(record: Record) -> None:
    """Print the front, where the study names costs."""
    found = front_rows(record)
    if not found:
        return
    console = Console()
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
    for head in heads(record):
        table.add_column(head, justify="right" if head else "left", no_wrap=bool(head))
    for row in found:
        table.add_row(*row["cells"])
    console.print(f"Pareto front. {WORDS}", highlight=False, soft_wrap=True)
    console.print(table)
    print(f"any of them: embsearch promote {same_study(record.config)} trial=N")


def _model(record: Record, course: Course) -> str:
    """Return the searched settings that the costs depend on; of a folder its last part."""
    changing: set[str] = set()
    for name in record.config.evaluate.costs:
        changing.update(COSTS[name].changed_by)
    params = course.trial.params
    words = []
    for dimension, short in zip(record.space.dimensions, record.space.short_names(), strict=True):
        path = dimension.path
        if path in changing and path in params:
            value = str(params[path])
            words.append(f"{short} {value.rstrip('/').rpartition('/')[2]}")
    return ", ".join(words)


def _short(cost: float) -> str:
    return f"{cost:.3g}" if cost < 1000 else f"{cost:,.0f}"
