"""Rows of texts to the arrays of a Dataset."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from embsearch.codec import JsonObject
from embsearch.data.dataset import Dataset, Ids, JudgedRows, Triplets

OPTIONAL = ("score", "teacher")  # columns of Triplets


def make_dataset(
    triplets: pd.DataFrame, shown: pd.DataFrame, positive_grade: float, report: JsonObject
) -> Dataset:
    """Make the dataset of its frames.

    ``triplets``: key, query, positive, negative ('' for none), weight; score of scored pairs, else
    pos_grade and neg_grade, and perhaps pos_score and neg_score. ``shown``: key, query, title,
    grade, segment, split, each (key, title) of a split once. Texts are numbered in the order of
    their first use.
    """
    valid, test = (_by_query(shown[shown["split"] == split]) for split in ("valid", "test"))
    good = triplets[triplets["score"] >= positive_grade] if "score" in triplets else triplets
    known = _known(good, shown[shown["grade"] >= positive_grade], shown)
    negatives = triplets["negative"][triplets["negative"] != ""]
    used = [triplets["query"], triplets["positive"], negatives]
    used += [
        valid["query"],
        valid["title"],
        test["query"],
        test["title"],
        known["query"],
        known["title"],
    ]
    texts = list(dict.fromkeys(text for column in used for text in column))
    ids = {text: at for at, text in enumerate(texts)} | {"": -1}

    def numbers(column: pd.Series) -> Ids:
        return np.fromiter((ids[text] for text in column), np.int32, len(column))

    def judged(rows: pd.DataFrame) -> JudgedRows:
        segments = sorted(set(rows["segment"]) - {""})
        at = {name: n for n, name in enumerate(segments)} | {"": -1}
        grade = rows["grade"].to_numpy(np.float32)
        return JudgedRows(
            query=pd.factorize(rows["key"])[0].astype(np.int32),
            text=numbers(rows["query"]),
            title=numbers(rows["title"]),
            grade=grade,
            relevant=rows["grade"].to_numpy(float) >= positive_grade,
            segment=np.array([at[name] for name in rows["segment"]], np.int32),
            segments=tuple(segments),
        )

    train = Triplets(
        anchor=numbers(triplets["query"]),
        positive=numbers(triplets["positive"]),
        negative=numbers(triplets["negative"]),
        weight=triplets["weight"].to_numpy(np.float32),
        **_judged(triplets, positive_grade),
    )
    pairs = np.stack([numbers(known["query"]), numbers(known["title"])], axis=1)
    made = (train, judged(valid), judged(test), np.unique(pairs, axis=0))
    return Dataset(tuple(texts), *made, fingerprint=_fingerprint(texts, *made), report=report)


def _judged(triplets: pd.DataFrame, positive_grade: float) -> dict[str, NDArray[np.float32]]:
    """Return the columns of ``Triplets`` that say how good titles are.

    A title without a grade has the usual one.
    """
    if "score" in triplets:
        return {"score": triplets["score"].to_numpy(np.float32)}
    usual = {"pos_grade": positive_grade, "neg_grade": positive_grade - 1}
    found = {"grade": triplets[list(usual)].fillna(usual).to_numpy(np.float32)}
    if "pos_score" in triplets and triplets["pos_score"].notna().any():
        found["teacher"] = triplets[["pos_score", "neg_score"]].to_numpy(np.float32)
    return found


def _by_query(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of one query together, queries in the order of their first row."""
    return rows.iloc[np.argsort(pd.factorize(rows["key"])[0], kind="stable")]


def _known(triplets: pd.DataFrame, relevant: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    """Return every spelling of a query with every title that is one of its positives."""
    trained = triplets[["key", "positive"]].rename(columns={"positive": "title"})
    positives = pd.concat([trained, relevant[["key", "title"]]]).drop_duplicates()
    spellings = pd.concat([triplets[["key", "query"]], shown[["key", "query"]]]).drop_duplicates()
    return spellings.merge(positives, on="key")[["query", "title"]]


def _fingerprint(
    texts: list[str], train: Triplets, valid: JudgedRows, test: JudgedRows, known: Ids
) -> str:
    digest = hashlib.sha256(json.dumps(texts).encode())
    for part in (train, valid, test):
        for name, value in vars(part).items():
            if (name == "grade" and part is train) or (name in OPTIONAL and not len(value)):
                continue  # as before rows had them
            shape = value.tobytes() if isinstance(value, np.ndarray) else json.dumps(value).encode()
            digest.update(f"{name} {len(value)} ".encode() + shape)
    digest.update(known.tobytes())
    return digest.hexdigest()
