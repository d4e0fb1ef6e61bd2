"""Scored pairs: two texts and how alike they are, as STS has them.

Scores of any range come to 0 to 1. Those between 0 and 1 stay, those between -1 and 1 are moved,
of others the least becomes 0 and the greatest 1. A pair whose score is the mean of all or more
counts as similar: AUC, the cards and the pictures ask that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd

from embsearch.codec import JsonObject
from embsearch.data.keys import query_keys

# Both names of a pair: equal but for the number or letter at the end
_NUMBERED = re.compile(r"(sentence|sent|text|question|s|句子|文本)([12ab])")
_RANKS = ("label", "labels", "isduplicate")  # headers of classes, where the values are whole
_SIDES = ({"1", "2"}, {"a", "b"})


def looks_scored(frame: pd.DataFrame, headers: Mapping[str, str], plain: Mapping[str, str]) -> bool:
    """Return True for rows that are scored pairs rather than judgements of titles.

    ``headers``: of query, title and grade; ``plain`` their names without case and blanks. The two
    texts have numbered names, and scores have fractions or several values; where a first text has
    many second ones, these are its titles.
    """
    if not {"query", "title", "grade"} <= set(plain) or "query_id" in plain or not len(frame):
        return False
    first, second = (_NUMBERED.fullmatch(plain[name]) for name in ("query", "title"))
    if first is None or second is None:
        return False
    if first[1] != second[1] or {first[2], second[2]} not in _SIDES:
        return False
    scores = pd.to_numeric(frame[headers["grade"]], errors="coerce").dropna()
    rows_a_text = len(frame) / max(len(set(query_keys(frame[headers["query"]]))), 1)
    if (scores % 1 != 0).any():
        return rows_a_text < 3
    return plain["grade"] not in _RANKS and scores.nunique() > 2 and rows_a_text < 1.25


def normalised(rows: pd.DataFrame) -> tuple[pd.DataFrame, JsonObject]:
    """Return the rows with grades from 0 to 1, and what was done, for the report."""
    grade = rows["grade"]
    low, high = float(grade.min()), float(grade.max())
    if low >= 0 and high <= 1:
        least, most = 0.0, 1.0
    elif low >= -1 and high <= 1:
        least, most = -1.0, 1.0
    else:
        least, most = low, high
    scaled = (grade - least) / ((most - least) or 1.0)
    facts = {"from": least, "to": most, "mean": float(scaled.mean())}
    return rows.assign(grade=scaled), facts


def training_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return key, query, positive, negative, weight and score of the training rows."""
    found = rows.rename(columns={"title": "positive"}).assign(negative="", score=rows["grade"])
    return found[["key", "query", "positive", "negative", "weight", "score"]]


def faults(shown: pd.DataFrame, mean: float) -> list[str]:
    """Return what makes the pairs useless: no rows, weights or no two scores to tell apart."""
    found = []
    for split in ("train", "valid"):
        rows = shown[shown["split"] == split]
        similar = int((rows["grade"] >= mean).sum())
        if similar in (0, len(rows)):
            found.append(
                f"{len(rows)} rows of {split}, of which {similar} have the mean score "
                f"({mean:.3g} of 0 to 1) or more; expected pairs on both sides of it, else no "
                "order of scores can be learnt or measured; add rows, or give files whose splits "
                "hold both"
            )
    train = shown[shown["split"] == "train"]
    if len(train) and not train["weight"].sum() > 0:
        found.append("every training row has weight 0: nothing would be learnt; give some a weight")
    return found
