"""Data that are sound row by row and yet cannot train or measure a model."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from embsearch.config.schema import DataConfig
from embsearch.data.faults import Fault, count_kinds
from embsearch.errors import DataError


def rankable_keys(shown: pd.DataFrame, positive_grade: float) -> set[str]:
    """Return keys of the queries with both a relevant and an irrelevant title."""
    relevant = (shown["grade"] >= positive_grade).groupby(shown["key"]).agg(["any", "all"])
    return set(relevant.index[relevant["any"] & ~relevant["all"]])


def faults_of_titles(triplets: pd.DataFrame, shown: pd.DataFrame, config: DataConfig) -> list[str]:
    """Return why there is nothing to train on, or no AUC to be had."""
    return [*_training(triplets, shown, config), *_validation(shown, config)]


def refuse_useless(faults: Sequence[str], dropped: Sequence[Fault]) -> None:
    """Raise DataError where there are faults."""
    if faults:
        lost = ", ".join(f"{kind} {n}" for kind, n in count_kinds(dropped).items())
        raise DataError([*faults, f"rows dropped before this: {lost}"] if lost else faults)


def _training(triplets: pd.DataFrame, shown: pd.DataFrame, config: DataConfig) -> list[str]:
    rows = int((shown["split"] == "train").sum())
    if not rows:
        return [
            "no training rows: every row is of another split or was dropped; add rows whose split is train"
        ]
    if not len(triplets):
        return [
            f"no triplets from {rows} training rows: no query has two titles whose grades differ by "
            f"data.derive.min_gap={config.derive.min_gap:g}; lower it, or add titles of other grades"
        ]
    if not triplets["weight"].sum() > 0:
        return [
            "every training row has weight 0: nothing would be learnt; give some row a weight above 0"
        ]
    return []


def _validation(shown: pd.DataFrame, config: DataConfig) -> list[str]:
    rows = shown[shown["split"] == "valid"]
    if not len(rows):
        return [
            "no validation rows: expected at least two queries, or a file for data.valid; add rows, or raise "
            f"data.split.valid={config.split.valid:g}"
        ]
    relevant = rows["grade"] >= config.positive_grade
    if relevant.any() and not relevant.all():
        return []
    lacks = "irrelevant" if relevant.all() else "relevant"
    grades = ", ".join(f"{grade:g}" for grade in sorted(set(rows["grade"]))[:6])
    return [
        f"validation has {len(rows)} rows and no {lacks} one, so AUC is undefined (grades there: {grades}; relevant "
        f"is data.positive_grade={config.positive_grade:g} or more); give negatives or titles of other grades, "
        "another data.positive_grade, a larger data.split.valid, a file for data.valid, "
        "or, where a grade says how alike two texts are, data.format=scored"
    ]
