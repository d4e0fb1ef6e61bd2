"""The data of the study page's charts: named tables of plain numbers and words, made of a record."""

from __future__ import annotations

import math
from collections.abc import Sequence

from embsearch.codec import JsonObject
from embsearch.report.front import points
from embsearch.report.importance import Importance
from embsearch.report.record import Course, Record
from embsearch.report.tested_models import Models
from embsearch.tasks.catalogue import task_of
from embsearch.values import Scalar

SHOWN, MARKS = (
    200,
    1000,
)  # trials whose curves, and whose marks, are drawn: those that came furthest


def tables(
    record: Record, models: Models | None, found: Sequence[Importance]
) -> dict[str, list[JsonObject]]:
    """Return the data of every chart by name.

    Parameters are the fields p0, p1, ... in the order of the space; null in a trial that did not
    use one.
    """
    rung = record.common_rung()
    courses = list(record.courses.values())
    furthest = sorted(courses, key=lambda c: (c.trial.rung, c.trial.best or -1.0), reverse=True)
    drawn = sorted(furthest[:SHOWN], key=lambda c: c.trial.number)
    primary = task_of(record.config).primary.name
    made: dict[str, list[JsonObject]] = {
        "trials": _trials(record, courses, furthest[:MARKS], rung),
        "curves": [
            {**_who(record, c), "rung": e.rung, "texts": e.texts, "value": round(e.value, 5)}
            for c in drawn
            for e in c.own
        ],
        "losses": [
            {**_who(record, c), "texts": round(x), "loss": round(y, 5)}
            for c in drawn
            for x, y in c.loss_curve()
        ],
        "budget": _budget(record, list(record.searched.values())),
        "costs": points(record),
        "importance": [one._asdict() for one in found],
        "seeds": [
            {**_who(record, c), "seed": e.seed, "rung": e.rung, "value": round(e.value, 5)}
            for c in courses
            for e in c.evaluations
            if len(c.trial.runs) > 1 and e.rung == c.trial.rung
        ],
        "segments": [
            {
                "model": label,
                "segment": name,
                primary: round(scores[primary], 5),
                "rows": int(scores["rows"]),
            }
            for label, event in record.tested.items()
            for name, scores in event.segments.items()
            if primary in scores
        ],
    }
    if models is not None and models.of_titles:
        places, links = models.projection()
        made |= {"scores": models.distributions(), "points": places, "links": links}
    return made


def _who(record: Record, course: Course) -> JsonObject:
    return {
        "n": course.trial.number,
        "state": course.trial.state,
        "won": course is record.best,
    }


def _trials(
    record: Record, courses: Sequence[Course], shown: Sequence[Course], rung: int
) -> list[JsonObject]:
    rows, best = [], (0, -math.inf)
    numbers = {course.trial.number for course in shown}
    known = list(zip(record.space.short_names(), record.space.dimensions, strict=True))
    for course in sorted(courses, key=lambda c: c.trial.number):
        if not course.trial.is_soup:
            best = max(best, course.trial.best_score or best)
        if course.trial.number not in numbers:
            continue
        row = _who(record, course) | {
            "best": _rounded(course.trial.best),
            "so_far": _rounded(best[1] if math.isfinite(best[1]) else None),
            "there": _rounded(course.trial.values.get(rung)),
            "rung": course.trial.rung,
            "texts": course.texts(),
        }
        for place, (name, dimension) in enumerate(known):
            row[f"p{place}"] = None
            if course.uses(dimension):
                row[f"p{place}"] = _axis(course.axes[name])
        rows.append(row)
    return rows


def _budget(record: Record, courses: Sequence[Course]) -> list[JsonObject]:
    """Return the texts that were spent on the way to each evaluation, and how many trials got
    there.
    """
    rows = []
    for rung, share in enumerate(record.config.evaluate.at, 1):
        spent, there = 0, 0
        for course in courses:
            at = {(e.seed, e.rung): e.texts for e in course.evaluations}
            there += any(r == rung for _, r in at)
            for (seed, reached), texts in at.items():
                if reached == rung:
                    spent += texts - at.get((seed, rung - 1), 0)
        rows.append({"rung": f"{rung} ({share:.0%})", "texts": spent, "trials": there})
    return [row for row in rows if row["trials"]]


def _rounded(value: float | None) -> float | None:
    if value is None:
        return None
    return round(value, 5)


def _axis(value: Scalar) -> Scalar:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number:
        return value
    return str(value)
