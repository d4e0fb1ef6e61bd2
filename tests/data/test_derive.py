from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from embsearch.config.schema import DeriveConfig
from embsearch.data import derive
from embsearch.data.derive import derive_triplets, shown_titles

ROWS = st.lists(
    st.tuples(st.sampled_from("qrs"), st.sampled_from("abcdef"), st.integers(0, 3)),
    unique_by=lambda row: row[:2],
    max_size=18,
)


def graded(rows: list[tuple[str, str, float]]) -> pd.DataFrame:
    made = pd.DataFrame(rows, columns=["key", "title", "grade"])
    return made.assign(query=made["key"], weight=1.0)


def triplets(rows: pd.DataFrame, **config: float) -> list[tuple[str, str, str]]:
    made = derive_triplets(rows, DeriveConfig(**config))
    return list(made[["query", "positive", "negative"]].itertuples(index=False, name=None))


@given(ROWS, st.integers(0, 5), st.sampled_from([0.0, 1.0, 2.0]))
def test_every_pair_whose_grades_differ_enough_is_a_candidate_and_the_first_are_kept(
    rows, per_query, min_gap
):
    every = [
        (q, a, b) for q, a, x in rows for p, b, y in rows if q == p and x > y and x - y >= min_gap
    ]
    rows_made = triplets(graded(rows), per_query=per_query, min_gap=min_gap)
    made = [row for row in rows_made if row[2]]
    assert set(made) <= set(every)
    most = per_query or math.inf
    assert Counter(q for q, _, _ in made) == {
        q: min(n, most) for q, n in Counter(q for q, *_ in every).items()
    }


@given(ROWS, st.randoms())
def test_the_order_of_rows_does_not_matter(rows, random):
    mixed = list(rows)
    random.shuffle(mixed)
    assert sorted(triplets(graded(mixed), per_query=2)) == sorted(
        triplets(graded(rows), per_query=2)
    )


@given(ROWS, st.integers(0, 5))
def test_only_a_query_without_a_pair_trains_on_its_relevant_titles_alone(rows, per_query):
    made = triplets(graded(rows), per_query=per_query)
    paired = {query for query, _, negative in made if negative}
    alone = [(query, title) for query, title, negative in made if not negative]
    relevant = [(q, t) for q, t, grade in rows if grade >= 1 and q not in paired]
    assert set(alone) <= set(relevant)
    most = per_query or math.inf
    assert Counter(q for q, _ in alone) == {
        q: min(n, most) for q, n in Counter(q for q, _ in relevant).items()
    }


def test_another_seed_keeps_other_pairs_and_blocks_change_nothing(monkeypatch):
    rows = graded([("q", f"title {n}", n % 2) for n in range(20)])
    first = triplets(rows, seed=0)
    assert len(first) == 8
    assert triplets(rows, seed=1) != first
    monkeypatch.setattr(derive, "_BLOCK", 40)
    assert triplets(rows, seed=0) == first


def test_a_triplet_has_the_weight_of_its_positive_and_both_grades():
    rows = graded([("q", "a", 2), ("q", "b", 0)]).assign(weight=[3.0, 7.0])
    found = derive_triplets(rows, DeriveConfig())
    assert found[["weight", "pos_grade", "neg_grade"]].to_numpy().tolist() == [[3.0, 2.0, 0.0]]


def test_shown_titles_of_triplets_stand_once_with_their_highest_grade():
    rows = pd.DataFrame(
        [["q", "a", "b", 2.0, 1.0], ["q", "b", "c", 1.0, 0.0], ["r", "a", "", np.nan, np.nan]],
        columns=["key", "positive", "negative", "pos_grade", "neg_grade"],
    ).assign(query="Q", segment="")
    made = shown_titles(rows, positive_grade=1.0)
    assert made[["key", "title", "grade"]].to_numpy().tolist() == [
        ["q", "a", 2.0],
        ["q", "b", 1.0],
        ["q", "c", 0.0],
        ["r", "a", 1.0],
    ]
