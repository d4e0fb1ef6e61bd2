"""Pairs alone: irrelevant titles are sampled, always the same ones, and none is a positive."""

from __future__ import annotations

import pytest

from embsearch.config.schema import DataConfig
from embsearch.data.check import describe
from embsearch.data.load import load_dataset
from embsearch.data.sampled import SAMPLED
from embsearch.errors import DataError

PAIRS = [(f"query {n // 2}", f"title {n}", ("train", "valid", "test")[n // 40]) for n in range(120)]


def csv_of(rows):
    return "question,answer,split\n" + "".join(f"{','.join(row)}\n" for row in rows)


def shown(data, split):
    rows = getattr(data, split)
    named = zip(rows.text, rows.title, rows.relevant, strict=True)
    return {(data.texts[q], data.texts[t], bool(relevant)) for q, t, relevant in named}


def test_each_query_is_shown_titles_of_its_split_that_are_not_its_own(write, cache):
    data = load_dataset(DataConfig(path=str(write("pairs.csv", csv_of(PAIRS)))), cache)
    for split in ("valid", "test"):
        own = {(query, title) for query, title, where in PAIRS if where == split}
        rows = shown(data, split)
        assert {(q, t) for q, t, relevant in rows if relevant} == own
        drawn = [(q, t) for q, t, relevant in rows if not relevant]
        assert len(drawn) == len(set(drawn)) == 20 * SAMPLED
        assert not own & set(drawn)
        assert {title for _, title in drawn} <= {title for _, title in own}
    assert (data.train.negative == -1).all()
    assert data.report["sampled"] == {
        "titles": SAMPLED,
        "seed": 0,
        "rows": {"valid": 200, "test": 200},
    }
    assert "sampled 200 rows of valid and 200 rows of test" in describe(data)


def test_neither_the_order_of_rows_nor_other_queries_change_what_is_drawn(write, cache):
    one = load_dataset(DataConfig(path=str(write("a.csv", csv_of(PAIRS)))), cache)
    turned = load_dataset(DataConfig(path=str(write("b.csv", csv_of(PAIRS[::-1])))), cache)
    assert shown(one, "valid") == shown(turned, "valid")


def test_nothing_is_sampled_where_a_validation_title_is_irrelevant(write, cache):
    rows = "".join(f"q{n},t{n},{grade},valid\n" for n, grade in enumerate((1, 0)))
    text = "query,title,grade,split\nq,a,1,train\nq,b,0,train\n" + rows + "z,t9,1,test\n"
    data = load_dataset(DataConfig(path=str(write("x.csv", text))), cache)
    assert "sampled" not in data.report
    assert len(data.test) == 1


def test_a_split_with_one_title_has_none_to_sample(write, cache):
    text = csv_of([("a", "same", "train"), ("b", "same", "valid"), ("c", "same", "valid")])
    with pytest.raises(DataError, match="no irrelevant one"):
        load_dataset(DataConfig(path=str(write("x.csv", text))), cache)
