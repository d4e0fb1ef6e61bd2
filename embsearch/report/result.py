"""The short table at the end of a study: what won and by how much."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table

from embsearch.codec import Json
from embsearch.history.final_table import BEST, UNTUNED, shown
from embsearch.tasks.base import AnyTask
from embsearch.values import Interval, Scalar, primary_interval

FELL = 0.01  # a smaller fall is within the noise of a few hundred test queries


def result_table(rows: Sequence[Json], objective: str, task: AnyTask) -> Table:
    """Return the table of a study's result; ``rows`` as ``study.Result.table`` holds them."""
    split = rows[0]["split"] if rows else "test"
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
    if task.primary.words:
        table.caption = f"{task.primary.label}: {task.primary.words}"
    table.add_column("")
    heads = [f"valid\n{objective}", f"{split} {task.primary.label}\n(95 %)"]
    heads += [column.replace("@", "\n@").replace(": ", ":\n") for column in task.columns]
    for head in heads:  # 77 columns in all
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        found = primary_interval(row)
        table.add_row(
            shown(row),
            number(row["validation"]),
            f"{found.value:.4f} ({found.low:.4f}-{found.high:.4f})",
            *(number(value) for value in task.column_values(row["test"])),
        )
    return table


def show(result: Json, objective: str, task: AnyTask) -> None:
    """Print what a study found; ``result`` as ``study.Result``."""
    console, rows = Console(), result["table"]
    counts = ", ".join(f"{n} {state}" for state, n in result["counts"].items() if n)
    console.print(
        f"study {result['name']}: {counts}; ended by {result['why']}",
        highlight=False,
        soft_wrap=True,
    )
    if rows:
        console.print(result_table(rows, objective, task))
        for one in result["confirmed"]:
            console.print(confirmed_line(one, objective), highlight=False, soft_wrap=True)
        for line in warnings(rows, task):
            console.print(f"note:  {line}", highlight=False, soft_wrap=True)


def confirmed_line(one: Json, objective: str) -> str:
    """Return a line that says how much of a trial's value was luck, by the fresh seeds of its
    configuration.
    """
    mean = fmean(one["values"])
    each = ", ".join(f"{value:.4f}" for value in one["values"])
    failed = ""
    if one.get("failed"):
        failed = f"; {one['failed']} more failed"
    return (
        f"again: trial {one['trial']}, {objective} {one['value']:.4f} in the search, {mean:.4f} with "
        f"{len(one['values'])} fresh seeds ({each}): {luck(one['value'] - mean)}{failed}"
    )


def show_configuration(params: Mapping[str, Scalar]) -> None:
    """Print a configuration as the words that ask for it."""
    words = [f"{path}={value}" for path, value in params.items()]
    print(f"best configuration: {shlex.join(words)}")


def luck(bias: float) -> str:
    """Return the difference between a value in the search and the mean of fresh seeds, in words."""
    if bias > 0:
        return f"{bias:.4f} of it was luck"
    return "it was not luck"


def warnings(rows: Sequence[Json], task: AnyTask) -> list[str]:
    """Return a line where the best trial's primary metric did not rise, or rose while secondary
    ones fell.
    """
    by_label = {row["label"]: row for row in rows}
    if not {UNTUNED, BEST} <= by_label.keys():
        return []
    before, after = by_label[UNTUNED], by_label[BEST]
    metric = task.primary.label
    if primary_interval(after).value <= primary_interval(before).value:
        return [f"{metric} did not rise: the untuned encoder is as good"]
    untuned = before["test"]
    tuned = after["test"]
    fell = []
    for name, words in task.secondary.items():
        if untuned.get(name, 0) - tuned.get(name, 0) > FELL:
            fell.append(f"{words} {untuned[name]:.4f} -> {tuned[name]:.4f}")
    if not fell:
        return []
    return [
        f"{metric} rose, but against the untuned encoder these fell: {'; '.join(fell)}. See the guide "
        "loss-falls-metric-does-not"
    ]


def best_given(result: Json | None) -> Json | None:
    """Return the row with the best validation value of those that somebody gave; ``result`` as
    ``study.Result``.
    """
    if result is None:
        return None
    given = []
    for row in result["table"]:
        was_given = row["label"] not in (UNTUNED, BEST) or row.get("given")
        if was_given and row["validation"] is not None:
            given.append(row)
    return max(given, key=lambda row: float(row["validation"]), default=None)


def metrics_table(label: str, split: str, found: Json, task: AnyTask) -> None:
    """Print every metric of one model, and the primary one by segment."""
    console = Console()
    table = Table(title=f"{label}, {split} rows", title_justify="left", box=None, show_header=False)
    primary = task.primary.name
    interval = primary_interval(found)
    for name, value in found["metrics"].items():
        more = ""
        if name == primary:
            more = f"95 % interval {interval.low:.4f} to {interval.high:.4f}"
        table.add_row(name, f"{value:.4f}", more)
    for name, scores in sorted(found["segments"].items()):
        table.add_row(
            f"{primary}, {name}", number(scores.get(primary)), f"{scores['rows']:.0f} rows"
        )
    console.print(table)


def with_interval(found: Interval) -> str:
    """Return a value and its interval: ``0.9012 (0.8901 to 0.9123)``."""
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"


def number(value: float | None) -> str:
    """Return the value in four places; nothing for None."""
    if value is None:
        return ""
    return f"{value:.4f}"
