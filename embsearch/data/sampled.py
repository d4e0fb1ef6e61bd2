"""Irrelevant titles for data that name relevant ones alone: pairs of query and positive.

Where no validation row is irrelevant, every query of validation and test is shown SAMPLED titles
of its split that are not among its positives. They are drawn by a salted hash of the query, so
neither the order of rows nor other queries matter. AUC is against these; the metrics of the pool
need none.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from embsearch.codec import JsonObject
from embsearch.data.keys import salted

SAMPLED = 10  # titles a query


def with_sampled(
    shown: pd.DataFrame, positive_grade: float, seed: int
) -> tuple[pd.DataFrame, JsonObject]:
    """Return ``shown`` with sampled titles, and what was done for the report: empty if nothing.

    ``shown``: key, query, title, grade, segment, split.
    """
    valid = shown[shown["split"] == "valid"]
    if not len(valid) or (valid["grade"] < positive_grade).any():
        return shown, {}
    parts, counts = [shown], {}
    for split in ("valid", "test"):
        rows = shown[shown["split"] == split]
        if len(rows) and (rows["grade"] >= positive_grade).all():
            drawn = _drawn(rows, positive_grade - 1, seed)
            parts.append(drawn)
            counts[split] = len(drawn)
    return pd.concat(parts, ignore_index=True), {"titles": SAMPLED, "seed": seed, "rows": counts}


def _drawn(rows: pd.DataFrame, grade: float, seed: int) -> pd.DataFrame:
    """Return the rows of titles that are drawn for each query of one split."""
    titles = sorted(set(rows["title"]))
    positives: dict[str, set[str]] = {}
    first: dict[str, int] = {}
    for at, (key, title) in enumerate(zip(rows["key"], rows["title"], strict=True)):
        positives.setdefault(key, set()).add(title)
        first.setdefault(key, at)
    drawn: list[str] = []
    of: list[int] = []
    for key, own in positives.items():
        count = min(len(titles), len(own) + SAMPLED)
        random = np.random.default_rng(salted(seed, "sampled", key))
        picks = random.choice(len(titles), size=count, replace=False, shuffle=False)
        kept = [titles[pick] for pick in picks if titles[pick] not in own][:SAMPLED]
        drawn += kept
        of += [first[key]] * len(kept)
    return rows.iloc[of].assign(title=drawn, grade=grade)
