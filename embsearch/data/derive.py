"""Graded rows to triplets, and either kind of row to evaluation rows.

The rule: within one query every pair of shown titles whose grades differ by at least
``min_gap`` is a candidate (the higher grade is the positive), and the first ``per_query`` in
the order of a salted hash of the two titles are kept. Neither the order of rows nor other
queries matter.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from embsearch.config.schema import DeriveConfig
from embsearch.data.keys import salted

_BLOCK = 4_000_000  # cells of the grade table looked at at once: bounds memory for huge queries


def derive_triplets(
    rows: pd.DataFrame, config: DeriveConfig, positive_grade: float = 1.0
) -> pd.DataFrame:
    """Return key, query, positive, negative, weight, pos_grade, neg_grade of the graded ``rows``
    (key, query, title, grade, weight).

    A triplet has the weight and the query text of its positive's row. The relevant titles of a
    query without a pair are positives without a negative (''), the first ``per_query`` of them.
    """
    rows = rows.reset_index(drop=True)
    key = rows["key"].tolist()
    title = rows["title"].tolist()
    place = np.array(
        [salted(config.seed, k, t) for k, t in zip(key, title, strict=True)], dtype=np.uint64
    )
    grade = rows["grade"].to_numpy(float)
    better, worse, alone = ([np.empty(0, np.int64)] for _ in range(3))
    for positions in rows.groupby("key", sort=False).indices.values():
        at = np.asarray(positions)
        high, low = pairs(grade[at], place[at], config)
        better.append(at[high])
        worse.append(at[low])
        if config.relevant_alone and not len(high):
            relevant = at[grade[at] >= positive_grade]
            in_order = relevant[np.argsort(place[relevant])]
            alone.append(in_order[: config.per_query or None])
    better += alone
    down = rows["title"].to_numpy(object)[np.concatenate(worse)]
    low = rows["grade"].to_numpy(float)[np.concatenate(worse)]
    up = rows.iloc[np.concatenate(better)]
    return pd.DataFrame(
        {
            "key": up["key"].to_numpy(object),
            "query": up["query"].to_numpy(object),
            "positive": up["title"].to_numpy(object),
            "negative": np.append(down, [""] * sum(map(len, alone))),
            "weight": up["weight"].to_numpy(float),
            "pos_grade": up["grade"].to_numpy(float),
            "neg_grade": np.append(low, [np.nan] * sum(map(len, alone))),
        }
    )


def pairs(
    grade: NDArray[np.float64], place: NDArray[np.uint64], config: DeriveConfig
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return positions of the better and the worse title of each kept pair of one query, in hash
    order.
    """
    step = max(1, _BLOCK // max(len(grade), 1))
    better = worse = np.empty(0, np.intp)
    order = np.empty(0, np.uint64)
    for start in range(0, len(grade), step):
        gap = grade[start : start + step, None] - grade[None, :]
        high, low = np.nonzero((gap > 0) & (gap >= config.min_gap - 1e-9))
        high = high + start
        better = np.concatenate([better, high])
        worse = np.concatenate([worse, low])
        order = np.concatenate([order, _mix(place[high], place[low])])
        keep = np.argsort(order, kind="stable")[: config.per_query or None]
        better = better[keep]
        worse = worse[keep]
        order = order[keep]
    return better, worse


def _mix(better: NDArray[np.uint64], worse: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return one hash of two, by splitmix64's finaliser (Steele et al. 2014)."""
    x = better * np.uint64(0x9E3779B97F4A7C15) ^ worse
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def shown_titles(triplets: pd.DataFrame, positive_grade: float) -> pd.DataFrame:
    """Return key, query, title, grade, segment: every title that the triplets show for a query,
    once.

    The grades are pos_grade and neg_grade; without them a positive gets ``positive_grade`` and a
    negative one less. A title with several grades keeps the highest.
    """
    parts = []
    for title, grade, usual in (
        ("positive", "pos_grade", positive_grade),
        ("negative", "neg_grade", positive_grade - 1),
    ):
        part = triplets[["key", "query", "segment"]].assign(
            title=triplets[title], grade=triplets[grade].fillna(usual), at=np.arange(len(triplets))
        )
        parts.append(part[part["title"] != ""])
    rows = pd.concat(parts).sort_values("at", kind="stable", ignore_index=True)
    top = rows.groupby(["key", "title"], sort=False)["grade"].transform("max")
    return (
        rows.assign(grade=top)
        .drop_duplicates(["key", "title"], ignore_index=True)
        .drop(columns="at")
    )
