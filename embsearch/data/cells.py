"""Cells to typed values, and every cell that is not what its column asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from embsearch.data.faults import quoted
from embsearch.data.keys import query_key

Faults = list[tuple[int, str, str]]  # position in the frame, kind, what

_CLICKED = dict.fromkeys(("true", "t", "yes", "y", "是"), 1.0)
_CLICKED |= dict.fromkeys(("false", "f", "no", "n", "否"), 0.0)
_SPLIT = {
    word: split
    for split, words in {
        "train": "train training 训练 训练集",
        "valid": "valid validation dev val 验证 验证集",
        "test": "test testing 测试 测试集",
    }.items()
    for word in words.split()
}
_TEXTS = {"triplets": ("anchor", "positive", "negative"), "classes": ("text",)}
_YEAR_LAST = re.compile(r"^(\d{1,2})[./-](\d{1,2})[./-](\d{4})")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$")


def check_cells(frame: pd.DataFrame, kind: str) -> tuple[pd.DataFrame, Faults]:
    """Return the typed rows and the faults of their cells; a row with a fault keeps its place.

    Columns: query, positive, negative, and grade and score of both (triplets), query, label
    (classes) or query, title, grade; and query_id, weight, weighted, time, segment, split, file,
    row. Texts lose the blanks at their ends and nothing else; an absent negative is ''.
    """
    faults: Faults = []
    texts = _TEXTS.get(kind, ("query", "title"))
    typed = frame[["file", "row", "query_id", "segment"]].copy()
    typed["segment"] = [value.strip() if value else "" for value in frame["segment"]]
    for name in texts:
        typed["query" if name in ("anchor", "text") else name] = _texts(frame, name, faults)
    if kind == "triplets":
        _same_texts(typed, faults)
        for name in ("pos_grade", "neg_grade"):
            typed[name] = _values(frame, name, "bad grade", "a finite number", _finite, faults)
        _grades_in_order(typed, faults)
        for name in ("pos_score", "neg_score"):
            typed[name] = _values(frame, name, "bad score", "a finite number", _finite, faults)
    elif kind == "classes":
        typed["label"] = _texts(frame, "label", faults)
    elif kind in ("judgements", "scored"):
        typed["grade"] = _values(frame, "grade", "bad grade", "a finite number", _finite, faults)
    else:
        clicked = "a count of clicks, 0 or 1, yes or no, true or false"
        typed["grade"] = _values(frame, "clicked", "bad click", clicked, _clicked, faults)
    weight = _values(
        frame, "weight", "bad weight", "a finite number of 0 or more", _not_negative, faults
    )
    typed["weighted"] = frame["weight"].notna()
    typed["weight"] = weight.where(typed["weighted"], 1.0)
    typed["time"] = _times(frame, faults)
    typed["split"] = _splits(frame, faults)
    return typed, faults


def _texts(frame: pd.DataFrame, name: str, faults: Faults) -> list[str]:
    made = []
    for at, value in enumerate(frame[name]):
        text = "" if value is None else value.strip().strip("\ufeff")
        if value is not None and not (text and query_key(text)):
            what = f"{name} {quoted(value)} is empty or blank; expected a text"
            faults.append((at, "empty text", what))
        made.append(text)
    return made


def _same_texts(typed: pd.DataFrame, faults: Faults) -> None:
    for at, (better, worse) in enumerate(zip(typed["positive"], typed["negative"], strict=True)):
        if better and better == worse:
            what = f"positive and negative are both {quoted(better)}; expected two different titles"
            faults.append((at, "positive equals negative", what))


def _grades_in_order(typed: pd.DataFrame, faults: Faults) -> None:
    wrong = (typed["pos_grade"] <= typed["neg_grade"]).to_numpy()
    for at in np.flatnonzero(wrong):
        better, worse = typed["pos_grade"].iloc[at], typed["neg_grade"].iloc[at]
        what = f"pos_grade '{better:g}' is not above neg_grade '{worse:g}'"
        faults.append((int(at), "bad grade", what))


def _values(
    frame: pd.DataFrame,
    name: str,
    kind: str,
    expected: str,
    parse: Callable[[str], float | None],
    faults: Faults,
) -> pd.Series:
    """Return A column as floats, NaN where it is absent; ``parse`` gives None for what it refuses."""
    made, known = [], dict[str, float | None]()
    for at, value in enumerate(frame[name]):
        if value is None:
            made.append(math.nan)
            continue
        if value not in known:
            known[value] = parse(value.strip())
        number = known[value]
        if number is None:
            faults.append((at, kind, f"{name} {quoted(value)} is not {expected}"))
        made.append(math.nan if number is None else number)
    return pd.Series(made, index=frame.index, dtype=float)


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def _not_negative(text: str) -> float | None:
    number = _finite(text)
    return number if number is not None and number >= 0 else None


def _clicked(text: str) -> float | None:
    """Return 1 for yes and for a count of one or more, 0 for no and none."""
    count = _not_negative(text)
    if count is None or not count.is_integer():
        return _CLICKED.get(text.casefold())
    return min(count, 1.0)


def _times(frame: pd.DataFrame, faults: Faults) -> pd.Series:
    """Return numbers where the column holds numbers, else dates in seconds: ISO 8601, or with the
    year last where some day is above 12, which tells days from months.
    """
    first = next((value for value in frame["time"] if value), "")
    if _NUMBER.match(first.strip()):
        return _values(frame, "time", "bad time", "a number, as the first row's", _finite, faults)
    expected = "a date such as 2024-05-01 or 2024-05-01 13:00:00, or a number"
    found = [_YEAR_LAST.match(value.strip()) for value in frame["time"] if value]
    parts = [(int(match[1]), int(match[2])) for match in found if match]
    day_first = any(first > 12 for first, _ in parts)
    known = day_first != any(second > 12 for _, second in parts)
    if parts and not known:
        expected = "a date such as 2024-05-01; no row tells days from months, or two contradict"
    order = r"\3-\2-\1" if day_first else r"\3-\1-\2"

    def date(text: str) -> float | None:
        return _date(_YEAR_LAST.sub(order, text) if known else text)

    return _values(frame, "time", "bad time", expected, date, faults)


def _date(text: str) -> float | None:
    try:
        stamp = pd.Timestamp(text.replace("/", "-")) if re.match(r"\d{4}[-/]", text) else None
    except ValueError:
        return None
    if not isinstance(stamp, pd.Timestamp):
        return None
    return float((stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp).timestamp())


def _splits(frame: pd.DataFrame, faults: Faults) -> list[str | None]:
    made: list[str | None] = []
    for at, value in enumerate(frame["split"]):
        split = None if value is None else _SPLIT.get(value.strip().casefold())
        if value is not None and split is None:
            what = f"split {quoted(value)} is not train, valid (validation, dev, val) or test"
            faults.append((at, "unknown split", what))
        made.append(split)
    return made
