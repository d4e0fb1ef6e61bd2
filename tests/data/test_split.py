from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embsearch.config.schema import SplitConfig
from embsearch.data.keys import query_key
from embsearch.data.split import assign_splits, by_query
from embsearch.errors import DataError

QUERIES = st.lists(st.text("aB1 \u3000手Ａ", min_size=1).filter(query_key), min_size=2, max_size=30)


def frame(
    queries: list[str], split: list[str] | None = None, time: list[float] | None = None
) -> pd.DataFrame:
    rows = {"query": queries, "key": [query_key(q) for q in queries], "file": "x.csv"}
    rows |= {"row": range(2, len(queries) + 2), "split": split, "time": time}
    return pd.DataFrame(rows)


def splits(rows: pd.DataFrame, config: SplitConfig, on_bad_row: str = "error") -> list[str]:
    made, _, _ = assign_splits(rows, set(rows["key"]), config, on_bad_row)
    return made["split"].tolist()


@given(QUERIES, st.randoms())
def test_no_query_is_in_two_splits_whatever_its_case_and_blanks_and_the_order_of_rows(
    queries, random
):
    rows = frame([*queries, *(f" {q.swapcase()}" for q in queries)])
    made = rows.assign(split=splits(rows, SplitConfig()))
    assert made.groupby("key")["split"].nunique().max() == 1
    mixed = rows.sample(frac=1, random_state=random.randint(0, 999))
    assert splits(mixed, SplitConfig()) == made["split"].loc[mixed.index].tolist()


@given(
    st.sets(st.text(), min_size=2, max_size=40), st.floats(0.01, 0.9), st.floats(0, 0.09), st.data()
)
def test_train_and_valid_always_get_a_query_and_test_one_of_three(keys, valid, test, data):
    rankable = data.draw(st.sets(st.sampled_from(sorted(keys))))
    made = by_query(sorted(keys), rankable, SplitConfig(valid=valid, test=test))
    counted = rankable if len(rankable) >= 2 else keys
    wanted = {"train", "valid"} | ({"test"} if test and len(counted) >= 3 else set())
    assert set(made) == keys
    assert wanted <= {made[key] for key in counted}


def test_the_shares_hold_and_a_new_query_moves_no_other():
    keys = [f"query {n}" for n in range(2000)]
    made = by_query(keys, set(keys), SplitConfig(valid=0.2, test=0.1))
    counts = pd.Series(made).value_counts(normalize=True)
    assert counts.round(2).to_dict() == pytest.approx(
        {"train": 0.7, "valid": 0.2, "test": 0.1}, abs=0.02
    )
    more = by_query([*keys, "new"], {*keys, "new"}, SplitConfig(valid=0.2, test=0.1))
    assert {k: more[k] for k in keys} == made


def test_by_time_a_query_stays_where_its_first_row_is():
    rows = frame(["a", "b", "c", "d", "a"], time=[1.0, 2.0, 3.0, 4.0, 5.0])
    config = SplitConfig(by="time", valid=0.2, test=0.2)
    assert splits(rows, config) == ["train", "train", "valid", "test", "train"]


def test_given_splits_are_kept_and_missing_ones_cut_from_train():
    assert splits(frame(["a", "b"], ["train", "valid"]), SplitConfig()) == ["train", "valid"]
    assert sorted(splits(frame(list("abc"), ["train"] * 3), SplitConfig())) == [
        "test",
        "train",
        "valid",
    ]
    assert sorted(splits(frame(list("abc"), ["train", "train", "test"]), SplitConfig()))[1:] == [
        "train",
        "valid",
    ]


def test_a_leaking_query_is_refused_or_leaves_the_training_rows():
    rows = frame(["Red Shoe", "b", "redshoe"], ["train", "train", "valid"])
    with pytest.raises(
        DataError, match=r"x\.csv, row 2: query 'Red Shoe' is in train here and in valid"
    ):
        splits(rows, SplitConfig())
    made, leaked, how = assign_splits(rows, set(), SplitConfig(), "drop")
    assert made["query"].tolist() == ["b", "redshoe"]
    assert ([f.row for f in leaked], how) == ([2], "given")
