from __future__ import annotations

import pytest

from embsearch.data.columns import choose_columns
from embsearch.data.read import read
from embsearch.data.source_files import Source
from embsearch.errors import DataError

HEADERS = [
    (
        "anchor(搜索词),positive(点击商品),negative(未点击商品)",
        "triplets",
        "anchor positive negative",
    ),
    ("anchor（搜索词）,Positive （点击商品）,negative", "triplets", "anchor positive negative"),
    ("搜索词,点击商品,未点击商品", "triplets", "anchor positive negative"),
    ("query,pos,neg", "triplets", "anchor positive negative"),
    ("sentence1,sentence2", "triplets", "anchor positive"),
    ("sentence1,sentence2,score", "judgements", "query title grade"),
    ("查询,标题,点击", "clicks", "query title clicked"),
    ("Query,Product Title,Is Click,category", "clicks", "query title clicked segment"),
    ("query,title,label,product_title", "judgements", "query title grade"),
]


@pytest.mark.parametrize(("header", "kind", "names"), HEADERS)
def test_headers_are_known_by_name_gloss_or_synonym(header, kind, names, write):
    columns = choose_columns(
        read(Source(write("x.csv", f"{header}\n{'1,' * header.count(',')}1\n"))), "auto", {}
    )
    found = dict(zip(names.split(), header.split(","), strict=False))
    assert (columns.format, columns.headers) == (kind, found)


def test_a_mapping_goes_before_every_name(write):
    table = read(Source(write("x.csv", "query,title,clicked,好\nq,t,1,3\n")))
    columns = choose_columns(table, "auto", {"anchor": "query", "grade": "好"})
    assert columns.format == "judgements"
    assert columns.headers == {"query": "query", "title": "title", "grade": "好"}
    assert columns.unused == ("clicked",)


def test_headers_of_two_formats_are_refused(write):
    table = read(Source(write("x.csv", "query,title,clicked,grade\nq,t,1,3\n")))
    with pytest.raises(DataError, match=r"set data\.format=judgements or clicks"):
        choose_columns(table, "auto", {})
    assert choose_columns(table, "clicks", {}).unused == ("grade",)
