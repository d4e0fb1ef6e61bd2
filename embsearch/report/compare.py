"""Studies side by side: what each found, at what cost, in which space; and who is better where rows
are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from rich.console import Console
from rich.table import Table

from embsearch.config.build import value_at
from embsearch.config.settings import settings_of
from embsearch.history.final_table import BEST, UNTUNED
from embsearch.hpo.costs import front
from embsearch.report.charts import Chart
from embsearch.report.findings import metric_label, signed
from embsearch.report.importance import importances
from embsearch.report.live import clock, short
from embsearch.report.page import render
from embsearch.report.ranges import range_words
from embsearch.report.record import Record
from embsearch.report.result import number, with_interval
from embsearch.report.tested_models import Models
from embsearch.values import Interval, primary_interval

ALIKE = 1.05  # budgets that differ by a larger factor are said to differ


@dataclass(frozen=True)
class Side:
    """One of the studies. ``models`` None: nothing is known of single rows."""

    record: Record
    models: Models | None

    @property
    def name(self) -> str:
        return self.record.name

    @cached_property
    def facts(self) -> dict[str, str]:
        """The facts that are compared, in words."""
        record, best = self.record, self.record.best
        states = [course.trial.state for course in record.searched.values()]
        won = record.tested.get(BEST)
        gain = None if self.models is None else self.models.gain(BEST, UNTUNED)
        progress = record.progress()
        found = {
            f"validation {record.objective}": number(None if best is None else best.best),
            "winner": "" if best is None else f"trial {best.number}",
        }
        if won is not None:
            label = f"{won.split} {metric_label(record)} (95 %)"
            found[label] = with_interval(primary_interval(won))
        if gain is not None:
            found["gain over the untuned encoder"] = signed(gain)
        if record.config.evaluate.costs:
            numbers = [str(trial.number) for trial in front(record.trials, record.config)]
            found["Pareto front, trials"] = ", ".join(numbers)
        return found | {
            "trials": f"{len(states)}, {states.count('complete')} complete, {states.count('failed')} failed",
            "texts trained on": f"{record.texts:,}",
            "time": clock(record.seconds),
            "time to its best": clock(progress[-1][0]) if progress else "",
            "encoder": record.config.model.path,
            "sampler, scheduler": f"{record.config.sampler.name}, {record.config.scheduler.name}",
            "data": record.data[:12],
        }

    @cached_property
    def importance(self) -> dict[str, str]:
        """The importance of each parameter by config path, with its interval."""
        paths = dict(
            zip(self.record.space.short_names(), self.record.space.dimensions, strict=True)
        )
        found, _, _ = importances(self.record)
        return {
            paths[one.name].path: f"{one.value:.0%} ({one.low:.0%} to {one.high:.0%})"
            for one in found
        }


def facts_rows(sides: Sequence[Side]) -> list[tuple[str, list[str]]]:
    """Return every fact and its value in each study."""
    names = dict.fromkeys(name for side in sides for name in side.facts)
    return [(name, [side.facts.get(name, "") for side in sides]) for name in names]


def space_rows(sides: Sequence[Side]) -> list[tuple[str, list[Mapping[str, str]]]]:
    """Return every searched parameter; in each study its ``range``, the ``winner``'s value and its
    ``importance``.
    """
    paths = dict.fromkeys(d.path for side in sides for d in side.record.space.dimensions)
    return [(path, [_of(side, path) for side in sides]) for path in paths]


def _of(side: Side, path: str) -> Mapping[str, str]:
    dimension = next((d for d in side.record.space.dimensions if d.path == path), None)
    if dimension is None:
        config = side.record.config
        fixed = "not there"
        if path in settings_of(config):
            fixed = short(value_at(config, path))
        return {"range": f"fixed at {fixed}", "winner": fixed, "importance": ""}
    best = side.record.best
    winner = "not used"
    if best is not None:
        won = best.trial.params.get(path)
        if won is not None:
            winner = short(won)
    return {
        "range": range_words(dimension),
        "winner": winner,
        "importance": side.importance.get(path, ""),
    }


def answers(sides: Sequence[Side]) -> Iterator[str]:
    """Yield who is better, a sentence for each pair; of studies on the same test rows with a paired
    interval.
    """
    for one, other in combinations(sides, 2):
        gain = _gain(one, other)
        if gain is not None:
            found = (
                f"{other.name}'s winner against {one.name}'s on the same test rows: {signed(gain)} "
            )
            found += f"{metric_label(one.record)}{_budgets(one, other)}"
            if gain.low <= 0 <= gain.high:
                yield f"{found}; the 95 % interval reaches 0: they cannot be told apart."
            elif gain.low > 0:
                yield f"{found}; the whole 95 % interval is above 0."
            else:
                yield f"{found}; the whole 95 % interval is below 0."
        elif one.record.data != other.record.data:
            yield f"{one.name} and {other.name} have different data: their scores say nothing about each other."
        else:
            lacking = " and ".join(side.name for side in (one, other) if side.models is None)
            yield (
                f"{one.name} and {other.name} cannot be compared row by row: no scores of test rows of {lacking}, "
                "which has not ended or is a replay."
            )


def _budgets(one: Side, other: Side) -> str:
    """Return the texts of both, and that they explain a difference where they are not alike."""
    spent, shares = [], []
    for side in (one, other):
        won = 0 if side.record.best is None else side.record.best.texts()
        spent.append((side.record.texts, won))
        shares.append(f"{side.name} {side.record.texts:,} texts, its winner {won:,}")
    alike = all(max(pair) <= ALIKE * min(pair) for pair in zip(*spent, strict=True))
    words = f"; trained on: {'; '.join(shares)}"
    if alike:
        return words
    return f"{words}: unlike budgets, which may explain a difference"


def _gain(one: Side, other: Side) -> Interval | None:
    """Return how much better the winner of ``other`` is, where both scored the same rows."""
    mine, theirs = one.models, other.models
    if mine is None or theirs is None or one.record.data != other.record.data:
        return None
    return mine.paired(theirs.by_label[BEST], mine.by_label[BEST])


def show(sides: Sequence[Side]) -> None:
    """Print the comparison."""
    console = Console()
    facts = _table("", sides)
    for name, values in facts_rows(sides):
        facts.add_row(name, *values)
    console.print(facts)
    console.print()
    space = _table("parameter", sides)
    for path, cells in space_rows(sides):
        space.add_row(path, *(f"{c['winner']}  of {c['range']}" for c in cells))
    console.print(space)
    if any(side.importance for side in sides):
        console.print()
        matter = _table("importance", sides)
        for path, cells in space_rows(sides):
            matter.add_row(path, *(c["importance"] for c in cells))
        console.print(matter)
    console.print()
    for line in answers(sides):
        console.print(line, highlight=False, soft_wrap=True)


def _table(first: str, sides: Sequence[Side]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column(first)
    for side in sides:
        table.add_column(side.name, overflow="fold")
    return table


def comparison_page(sides: Sequence[Side], vega: str) -> str:
    """Return the comparison as a page of its own."""
    progress = [
        {"study": side.name, "seconds": round(seconds, 1), "texts": texts, "best": round(best, 5)}
        for side in sides
        for seconds, texts, best in _to_the_end(side.record)
    ]
    drawn = []
    if progress:
        drawn.append(_progress("seconds", "seconds"))
        drawn.append(_progress("texts", "texts trained on"))
    names = " and ".join(side.name for side in sides)
    return render(
        "compare.html.j2",
        f"{names} compared",
        drawn,
        {"progress": progress},
        vega,
        names=[side.name for side in sides],
        answers=list(answers(sides)),
        facts=facts_rows(sides),
        space=space_rows(sides),
        charts=drawn,
    )


def _to_the_end(record: Record) -> list[tuple[float, int, float]]:
    found = record.progress()
    if not found:
        return []
    _, _, best = found[-1]
    return [*found, (record.elapsed, record.texts, best)]


def _progress(field: str, title: str) -> Chart:
    spec = {
        "data": {"name": "progress"},
        "mark": {
            "type": "line",
            "interpolate": "step-after",
            "strokeWidth": 2,
            "point": {"size": 30},
        },
        "encoding": {
            "x": {"field": field, "type": "quantitative", "title": title},
            "y": {
                "field": "best",
                "type": "quantitative",
                "title": "best validation so far",
                "scale": {"zero": False},
            },
            "color": {"field": "study", "type": "nominal", "title": None, "sort": None},
            "tooltip": [{"field": "study"}, {"field": field, "title": title}, {"field": "best"}],
        },
        "height": 260,
    }
    return Chart(f"progress-{field}", f"Best so far by {title}", "", spec, narrow=True)
