"""Rows that can be trained on, and every row that cannot, with its reason.

What is a fault and what is only counted:
- a click log shows a title clicked in one impression and not in another: counted as a
  contradiction, and the title counts as clicked;
- two grades for one query and title: a fault; between two query ids whose texts are the same
  query it is counted, and the higher grade holds;
- a title that is a positive and a negative of one query: a fault of the row where it is the
  negative. With pos_grade and neg_grade it is expected of a middle grade and counted; there
  only (a, b) beside (b, a) is a fault;
- a text with two classes: a fault of each of its rows;
- a repeated row (query, titles and grade): counted, kept once; the weights of repeated
  judgements and impressions add up, unless the rows are equal in weight and time too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from embsearch.data.cells import check_cells
from embsearch.data.faults import Fault, quoted, refusal
from embsearch.data.keys import query_keys

Found = Iterator[tuple[int, str, str]]  # position in the frame, kind, what


@dataclass(frozen=True)
class Checked:
    """Rows that can be used, typed, under ``key`` (equal keys: one query), and what was found."""

    frame: pd.DataFrame
    dropped: tuple[Fault, ...] = ()
    duplicates: int = 0
    contradictions: tuple[str, ...] = ()


def validate(
    frame: pd.DataFrame,
    kind: str,
    unread: Iterable[Fault],
    on_bad_row: Literal["error", "drop"],
    timed: bool = True,
) -> Checked:
    """Check the rows.

    ``frame`` is as ``columns.renamed`` made it; ``unread`` are faults that reading found. Unless
    ``timed`` a time need not be readable: it only tells repeated rows apart.

    Raises one DataError with all faults unless ``on_bad_row`` is drop.
    """
    typed, faults = check_cells(frame, kind)
    if not timed:
        typed["time"] = frame["time"]
        faults = [fault for fault in faults if fault[1] != "bad time"]
    typed["key"] = query_keys(typed["query"])
    bad = {at for at, _, _ in faults}
    good = typed[~typed.index.isin(bad)]
    unique = good.drop_duplicates([*_identity(kind), "query_id", "weight", "time"])
    seen: list[str] = []
    if kind == "triplets":
        faults += _triplet_conflicts(unique, seen)
    elif kind == "classes":
        faults += _class_conflicts(unique)
    else:
        faults += _grade_conflicts(unique, kind)
    dropped = [*unread, *_as_faults(frame, faults)]
    if dropped and on_bad_row == "error":
        raise refusal(sorted(dropped, key=lambda fault: (fault.file, fault.row)))
    unique = unique[~unique.index.isin({at for at, _, _ in faults})]
    graded = kind not in ("triplets", "classes")
    unique = _one_grade(unique, seen) if graded else unique.drop_duplicates(_identity(kind))
    duplicates = int(good.duplicated(_identity(kind)).sum())
    return Checked(unique.reset_index(drop=True), tuple(dropped), duplicates, tuple(seen))


def _identity(kind: str) -> list[str]:
    """Return the columns that make a row what it is; a split belongs to it, so that overlap of
    splits stays visible.
    """
    own = {"triplets": ("positive", "negative"), "classes": ("label",)}
    return ["key", "split", *own.get(kind, ("title", "grade"))]


def _as_faults(frame: pd.DataFrame, found: list[tuple[int, str, str]]) -> list[Fault]:
    """Return one fault a row: its first kind, all its reasons, each told once."""
    reasons: dict[int, list[tuple[str, str]]] = {}
    for at, kind, what in found:
        reasons.setdefault(at, []).append((kind, what))
    made = []
    for at in sorted(reasons):
        cells = {str(name): str(cell) for name, cell in frame.loc[at].dropna().items()}
        file = cells.pop("file")
        row = int(cells.pop("row"))
        first_kind, _ = reasons[at][0]
        whats = "; ".join(what for _, what in reasons[at])
        made.append(Fault(file, row, first_kind, whats, cells))
    return list({(fault.file, fault.row, fault.what): fault for fault in made}.values())


def _triplet_conflicts(rows: pd.DataFrame, seen: list[str]) -> Found:
    columns = ["key", "positive", "negative", "pos_grade", "file", "row"]
    records = list(zip(rows.index, *(rows[c].tolist() for c in columns), strict=True))
    positive: dict[tuple[str, str], str] = {}
    pair: dict[tuple[str, str, str], str] = {}
    for _, key, better, worse, _, file, row in records:
        positive.setdefault((key, better), f"{file}, row {row}")
        pair.setdefault((key, better, worse), f"{file}, row {row}")
    for at, key, better, worse, grade, file, row in records:
        if (key, worse, better) in pair:
            place = pair[key, worse, better]
            yield (
                at,
                "contradiction",
                f"positive and negative of this row change places in {place}: {quoted(worse)}",
            )
        elif (key, worse) in positive:
            place = positive[key, worse]
            if np.isnan(grade):
                yield (
                    at,
                    "contradiction",
                    f"negative {quoted(worse)} is a positive of the same query in {place}",
                )
            else:
                seen.append(f"{file}, row {row}: negative {quoted(worse)} is a positive in {place}")


def _grade_conflicts(rows: pd.DataFrame, kind: str) -> Found:
    """Yield two grades under one query id (or without ids, under one query)."""
    if kind == "clicks":
        return
    group = ["key", "query_id", "title"]
    many = rows.groupby(group, dropna=False, sort=False)["grade"].transform("nunique") > 1
    columns = ["grade", "title", "file", "row"]
    for _, same in rows[many].groupby(group, dropna=False, sort=False):
        records = same[columns].to_numpy().tolist()
        for at, (grade, title, _, _) in zip(same.index, records, strict=True):
            other, _, file, row = next(record for record in records if record[0] != grade)
            what = f"grade '{grade:g}' for {quoted(title)} is '{other:g}' in {file}, row {row}"
            yield at, "contradiction", f"{what}; expected one grade for a query and title"


def _class_conflicts(rows: pd.DataFrame) -> Found:
    """Yield the rows of a text that has two classes."""
    many = rows.groupby("key", sort=False)["label"].transform("nunique") > 1
    for _, same in rows[many].groupby("key", sort=False):
        records = same[["label", "query", "file", "row"]].to_numpy().tolist()
        for at, (label, text, _, _) in zip(same.index, records, strict=True):
            other, _, file, row = next(record for record in records if record[0] != label)
            what = (
                f"text {quoted(text)} has class {quoted(label)} here and {quoted(other)} in {file}, "
                f"row {row}; expected one class a text"
            )
            yield at, "contradiction", what


def _one_grade(rows: pd.DataFrame, seen: list[str]) -> pd.DataFrame:
    """Return one row for a query and title (and split): the highest grade, with the weight of its
    rows.
    """
    if rows.empty:
        return rows
    group = ["key", "title", "split"]
    grouped = rows.groupby(group, dropna=False, sort=False)["grade"]
    both = rows[grouped.transform("nunique") > 1].sort_values([*group, "grade"], kind="stable")
    highs = both[
        both["grade"] == both.groupby(group, dropna=False)["grade"].transform("max")
    ].drop_duplicates(group)
    lows = both.drop_duplicates(group)
    columns = ["file", "row", "title", "grade"]
    for high, low in zip(highs[columns].to_numpy(), lows[columns].to_numpy(), strict=True):
        file, row, title, grade = high
        worse = f"{low[3]:g} in {low[0]}, row {low[1]}"
        seen.append(
            f"{file}, row {row}: {quoted(title)} has {grade:g} here and {worse}; the higher holds"
        )
    top = rows[rows["grade"] == grouped.transform("max")]
    weights = top.groupby(group, dropna=False, sort=False)["weight"].transform("sum")
    if rows["weighted"].any():
        top = top.assign(weight=weights)
    return top.drop_duplicates(group)
