"""The winner's place in the ranges that were searched, and how to widen one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from optuna.distributions import CategoricalDistribution

from embsearch.codec import JsonObject
from embsearch.errors import ConfigError
from embsearch.hpo.space import Dimension, parse
from embsearch.report.live import short
from embsearch.report.record import Record
from embsearch.values import Scalar

EDGE = 0.05  # of a range, on its own scale: nearer to an end than this is at the end


def at_end(dimension: Dimension, value: Scalar) -> Literal["low", "high"] | None:
    """Return the end of its range that a value lies at; None inside, and where there is no order."""
    unordered = isinstance(dimension.distribution, CategoricalDistribution)
    if unordered or not isinstance(value, (int, float)) or not dimension.contains(value):
        return None
    if dimension.ordered:
        place = dimension.ordered.index(value)
        share = place / max(len(dimension.ordered) - 1, 1)
    else:
        low, high = dimension.values
        scale = math.log if dimension.distribution.log else float  # type: ignore[attr-defined]
        share = 0.5
        if high != low:
            share = (scale(value) - scale(low)) / (scale(high) - scale(low))
    if share <= EDGE:
        return "low"
    if share >= 1 - EDGE:
        return "high"
    return None


def wider(record: Record, dimension: Dimension, end: Literal["low", "high"]) -> str:
    """Return the override that widens a range at one end; empty where the config cannot go further
    there.
    """
    at = f"space.{dimension.path}"
    spec = _further_choice(dimension, end) if dimension.ordered else _further_end(dimension, end)
    ends = dimension.path == "train.warmup" and dimension.values[1] >= record.config.evaluate.at[0]
    if not spec or (ends and end == "high"):  # a share ends by the first evaluation, whatever it is
        return ""
    raw = dict(record.config.space)
    raw[dimension.path] = {**raw[dimension.path], **spec}
    try:
        parse(raw, record.config)
    except ConfigError:  # no config takes such a value
        return ""
    ((key, value),) = spec.items()
    if isinstance(value, list):
        return f"'{at}.{key}={value}'"
    return f"{at}.{key}={value:g}"


def _further_choice(dimension: Dimension, end: Literal["low", "high"]) -> JsonObject:
    """Return one choice more, in the ratio of the last two; nothing where that is no whole number."""
    choices = list(dimension.ordered)
    first, second = choices[:2]
    if end == "high":
        second, first = choices[-2:]
    if not second or first * first % second:
        return {}
    further = type(first)(first * first / second)
    if end == "low":
        return {"choices": [further, *choices]}
    return {"choices": [*choices, further]}


def _further_end(dimension: Dimension, end: Literal["low", "high"]) -> JsonObject:
    """Return three times as far on a logarithmic range, half of the range on another; not from
    above 0 to 0 or below.
    """
    low, high = (float(value) for value in dimension.values)
    half = (high - low) / 2
    is_log = dimension.distribution.log  # type: ignore[attr-defined]
    if end == "low":
        new = low / 3 if is_log else low - half
        if low >= 0 >= new:
            new = low / 2
    else:
        new = high * 3 if is_log else high + half
    new = float(f"{new:.2g}")
    if isinstance(dimension.values[0], int):
        new = int(new)
    if new == dimension.values[end == "high"]:
        return {}
    return {end: new}


def choices_table(record: Record) -> list[Mapping[str, str]]:
    """Return of every searched parameter its value in the winner and in the default configuration,
    and its range.
    """
    best = record.best
    default = record.space.default(record.config)
    rows: list[Mapping[str, str]] = []
    for dimension in record.space.dimensions:
        path = dimension.path
        row = {
            "path": path,
            "winner": "not used",
            "default": "not used",
            "range": range_words(dimension),
            "end": "",
        }
        if best is not None and path in best.trial.params:
            won = best.trial.params[path]
            row["winner"] = short(won)
            row["end"] = at_end(dimension, won) or ""
        if path in default:
            row["default"] = short(default[path])
        rows.append(row)
    return rows


def range_words(dimension: Dimension) -> str:
    """Return ``1e-05 to 0.001``, or the choices."""
    if dimension.ordered or isinstance(dimension.distribution, CategoricalDistribution):
        return ", ".join(str(value) for value in dimension.values)
    low, high = dimension.values
    return f"{low:g} to {high:g}"
