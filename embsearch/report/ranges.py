"""The winner's place in the ranges that were searched, and how to widen one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from optuna.distributions import CategoricalDistribution

from embsearch.codec import JsonObject
from embsearch.errors import ConfigError
from embsearch.report.live import short
from embsearch.report.record import Record
from embsearch.search.space import Dimension, parse
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
        share = 0.5 if high == low else (scale(value) - scale(low)) / (scale(high) - scale(low))
    return "low" if share <= EDGE else "high" if share >= 1 - EDGE else None


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
    return f"'{at}.{key}={value}'" if isinstance(value, list) else f"{at}.{key}={value:g}"


def _further_choice(dimension: Dimension, end: Literal["low", "high"]) -> JsonObject:
    """Return one choice more, in the ratio of the last two; nothing where that is no whole number."""
    choices = list(dimension.ordered)
    first, second = (choices[0], choices[1]) if end == "low" else (choices[-1], choices[-2])
    if not second or first * first % second:
        return {}
    further = type(first)(first * first / second)
    return {"choices": [further, *choices] if end == "low" else [*choices, further]}


def _further_end(dimension: Dimension, end: Literal["low", "high"]) -> JsonObject:
    """Return three times as far on a logarithmic range, half of the range on another; not from
    above 0 to 0 or below.
    """
    low, high = (float(value) for value in dimension.values)
    if dimension.distribution.log:  # type: ignore[attr-defined]
        new = low / 3 if end == "low" else high * 3
    else:
        new = low - (high - low) / 2 if end == "low" else high + (high - low) / 2
    if end == "low" and low >= 0 >= new:
        new = low / 2
    new = float(f"{new:.2g}")
    whole = int(new) if isinstance(dimension.values[0], int) else new
    return {} if whole == dimension.values[end == "high"] else {end: whole}


def choices_table(record: Record) -> list[Mapping[str, str]]:
    """Return of every searched parameter its value in the winner and in the default configuration,
    and its range.
    """
    best = record.best
    default = record.space.default(record.config)
    rows: list[Mapping[str, str]] = []
    for dimension in record.space.dimensions:
        won = None if best is None else best.trial.params.get(dimension.path)
        active = best is not None and dimension.path in best.trial.params
        rows.append(
            {
                "path": dimension.path,
                "winner": short(won) if active else "not used",
                "default": short(default[dimension.path])
                if dimension.path in default
                else "not used",
                "range": range_words(dimension),
                "end": (at_end(dimension, won) or "") if active else "",
            }
        )
    return rows


def range_words(dimension: Dimension) -> str:
    """Return ``1e-05 to 0.001``, or the choices."""
    if dimension.ordered or isinstance(dimension.distribution, CategoricalDistribution):
        return ", ".join(str(value) for value in dimension.values)
    low, high = dimension.values
    return f"{low:g} to {high:g}"
