"""Rows to train, valid and test: as given, by query, or by time.

A query is never in two splits. By query, the salted hash of its key decides, so neither the
order of rows nor other queries do. By time, the queries stand in the order of their first
row and are cut where the rows' shares say; all rows of a query stay with its first one, so a
training query may have rows later than the cut, but no test query was ever trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal

import pandas as pd

from embsearch.config.schema import SplitConfig
from embsearch.data.faults import Fault, quoted, refusal
from embsearch.data.keys import salted
from embsearch.data.source_files import SPLITS
from embsearch.errors import DataError


def assign_splits(
    frame: pd.DataFrame,
    rankable: AbstractSet[str],
    config: SplitConfig,
    on_bad_row: Literal["error", "drop"],
) -> tuple[pd.DataFrame, list[Fault], str]:
    """Return ``frame`` with every row's split, the rows that leaked (dropped), and how it was done.

    ``rankable`` holds the keys of queries with both a relevant and an irrelevant title: a
    validation split without one of them measures nothing, so they are cut on their own. Where rows
    have a label, so is each class.
    """
    what = "query"
    if "label" in frame:
        what = "text, each class on its own"

    def cut(rows: pd.DataFrame, config: SplitConfig) -> dict[str, str]:
        if "label" in rows:
            return by_class(dict(zip(rows["key"], rows["label"], strict=True)), config)
        return by_query(sorted(set(rows["key"])), rankable, config)

    there = set(frame["split"].dropna())
    if config.by == "given" and not there:
        raise DataError(
            "data.split.by=given, but no row names its split; give data.train, data.valid and data.test, "
            "add a column 'split', or set data.split.by=query"
        )
    if config.by == "time":
        return frame.assign(split=_by_time(frame, config)), [], "by time of a query's first row"
    if config.by == "query" or not there:
        return frame.assign(split=frame["key"].map(cut(frame, config))), [], f"by {what}"
    frame, leaked = _without_leaks(frame, on_bad_row)
    if "valid" in there or "train" not in there:
        return frame, leaked, "given"
    free = frame["split"] == "train"
    missing = "valid and test"
    rest = SplitConfig(valid=config.valid, test=config.test, seed=config.seed)
    if "test" in there:
        missing = "valid"
        rest = SplitConfig(valid=config.valid, test=0, seed=config.seed)
    split = frame["key"].map(cut(frame[free], rest))
    frame = frame.assign(split=frame["split"].where(~free, split))
    return frame, leaked, f"given; {missing} split off train by {what}"


def by_query(
    keys: Sequence[str], rankable: AbstractSet[str], config: SplitConfig
) -> dict[str, str]:
    """Return the split of every key.

    Of two queries one is train and one valid; of three one is test unless ``config.test`` is 0.
    Where two are rankable, this holds of the rankable ones.
    """
    able = [key for key in keys if key in rankable]
    if len(able) < 2:
        return _cut(keys, config, at_least=1)
    rest = [key for key in keys if key not in rankable]
    return _cut(able, config, at_least=1) | _cut(rest, config, at_least=0)


def by_class(labels: Mapping[str, str], config: SplitConfig) -> dict[str, str]:
    """Return the split of every key, each class cut on its own: its shares, rounded.

    Two texts of a class stay in train; of four or more one is valid and, unless ``config.test`` is
    0, one test.
    """
    of_class: dict[str, list[str]] = {}
    for key in sorted(labels, key=lambda key: (salted(config.seed, "split", key), key)):
        of_class.setdefault(labels[key], []).append(key)
    made: dict[str, str] = {}
    for keys in of_class.values():
        free = max(len(keys) - 2, 0)
        least = int(free >= 2)
        test = min(max(round(len(keys) * config.test), least), free) if config.test else 0
        valid = min(max(round(len(keys) * config.valid), least), free - min(test, free - least))
        test = min(test, free - valid)
        made |= dict.fromkeys(keys[:test], "test")
        made |= dict.fromkeys(keys[test : test + valid], "valid")
        made |= dict.fromkeys(keys[test + valid :], "train")
    return made


def _cut(keys: Sequence[str], config: SplitConfig, at_least: int) -> dict[str, str]:
    place = {key: salted(config.seed, "split", key) / 2**64 for key in keys}
    order = sorted(keys, key=lambda key: (place[key], key))
    test = sum(place[key] < config.test for key in keys)
    valid = sum(place[key] < config.test + config.valid for key in keys) - test
    if at_least:
        test, valid = _enough(len(keys), test, valid, config.test > 0)
    split = dict.fromkeys(order, "train")
    for key in order[test : test + valid]:
        split[key] = "valid"
    for key in order[:test]:
        split[key] = "test"
    return split


def _enough(n: int, test: int, valid: int, wants_test: bool) -> tuple[int, int]:
    """Return sizes near the given ones that leave one query for train, valid and, of three, test."""
    valid = min(max(valid, 1), max(n - 1, 0))
    if wants_test and n >= 3:
        test = max(test, 1)
    test = min(test, max(n - 1 - valid, 0))
    if wants_test and n >= 3 and not test:
        test, valid = 1, min(valid, n - 2)
    return test, valid


def _by_time(frame: pd.DataFrame, config: SplitConfig) -> pd.Series:
    if frame["time"].isna().any():
        at = frame[frame["time"].isna()].iloc[0]
        raise DataError(
            f"{at['file']}, row {at['row']}: data.split.by=time needs a time for every row; name its column with "
            "data.columns.time=HEADER or set data.split.by=query"
        )
    queries = frame.groupby("key").agg(first=("time", "min"), rows=("time", "size")).reset_index()
    queries = queries.sort_values(["first", "key"], ignore_index=True)
    middle = (queries["rows"].cumsum() - queries["rows"] / 2) / queries["rows"].sum()
    test = int((middle >= 1 - config.test).sum())
    valid = int((middle >= 1 - config.test - config.valid).sum()) - test
    test, valid = _enough(len(queries), test, valid, config.test > 0)
    train = len(queries) - test - valid
    splits = ["train"] * train + ["valid"] * valid + ["test"] * test
    return frame["key"].map(dict(zip(queries["key"], splits, strict=True)))


def _without_leaks(
    frame: pd.DataFrame, on_bad_row: Literal["error", "drop"]
) -> tuple[pd.DataFrame, list[Fault]]:
    """Keep the test rows of a query that is in two splits, else its validation rows."""
    rank = frame["split"].map({split: n for n, split in enumerate(SPLITS)})
    last = rank.groupby(frame["key"]).transform("max")
    keeps = (
        frame[rank == last]
        .drop_duplicates("key")
        .set_index("key")[["split", "file", "row"]]
        .to_dict("index")
    )
    faults, noun = [], "text" if "label" in frame else "query"
    for row in frame[rank < last].to_dict("records"):
        stays = keeps[row["key"]]
        what = (
            f"{noun} {quoted(row['query'])} is in {row['split']} here and in {stays['split']} in "
            f"{stays['file']}, row {stays['row']} (case and blanks do not count); expected a {noun} "
            "in one split only"
        )
        cells = {
            k: str(v)
            for k, v in row.items()
            if k in ("query", "positive", "negative", "title", "label", "split")
        }
        faults.append(Fault(row["file"], int(row["row"]), "query in two splits", what, cells))
    if faults and on_bad_row == "error":
        raise refusal(faults)
    return frame[rank == last].reset_index(drop=True), faults
