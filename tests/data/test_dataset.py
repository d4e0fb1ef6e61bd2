"""Some rows for all: a sample is whole queries, nested, and made up as the whole is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embsearch.data.dataset import JudgedRows, sample


def judged(queries=200, seed=0):
    """Queries of 1 to 6 rows in three segments; some have relevant titles only, some none."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 7, queries)
    query = np.repeat(np.arange(queries), sizes).astype(np.int32)
    relevant = draw.random(len(query)) < 0.4
    segment = np.repeat(draw.choice([-1, 0, 1], queries, p=[0.1, 0.3, 0.6]), sizes).astype(np.int32)
    titles = np.arange(len(query), dtype=np.int32)
    return JudgedRows(
        query, query, titles, relevant.astype(np.float32), relevant, segment, ("a", "b")
    )


@given(st.integers(0, 100), st.integers(1, 220), st.integers(0, 220))
def test_more_queries_hold_all_that_fewer_do(seed, few, more):
    rows = judged(seed=seed)
    small, large = sample(rows, few), sample(rows, few + more)
    assert set(small.title) <= set(large.title)
    assert len(np.unique(small.query)) == min(few, 200)


@given(st.integers(0, 100), st.integers(1, 199))
def test_a_sample_has_all_rows_of_its_queries_and_numbers_them_anew(seed, count):
    rows = judged(seed=seed)
    part = sample(rows, count)
    kept = np.isin(rows.text, part.text)  # a query's text id is its number in the whole
    assert part.title.tolist() == rows.title[kept].tolist()
    assert part.relevant.tolist() == rows.relevant[kept].tolist()
    assert np.unique(part.query).tolist() == list(range(count))


@pytest.mark.parametrize("count", [20, 50, 100])
def test_segments_and_classes_have_the_share_they_have_among_all(count):
    rows = judged()

    def strata(part):
        queries = (part.query == query for query in range(part.query.max() + 1))
        return Counter(
            (part.segment[q][0], part.relevant[q].any(), part.relevant[q].all()) for q in queries
        )

    whole, part = strata(rows), strata(sample(rows, count))
    for kind, number in whole.items():
        assert abs(part[kind] - number * count / 200) <= 1.5, kind


def test_a_sample_of_all_queries_is_the_rows_themselves():
    rows = judged()
    assert sample(rows, 200) is rows
    assert sample(rows, 999) is rows
