from __future__ import annotations

import pandas as pd
import pytest

from embsearch.config.schema import DataConfig
from embsearch.data.read import read
from embsearch.data.source_files import Source, find_files

TEXT = "query,title\n手表,防水运动手表\nNA,null\n"
ROWS = {"query": ["手表", "NA"], "title": ["防水运动手表", "null"]}


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_chinese_text_is_read_in_any_of_its_usual_encodings(codec, write):
    table = read(Source(write("x.csv", TEXT.encode(codec))))
    assert table.frame.to_dict("list") == ROWS
    assert table.encoding == codec.removesuffix("-sig")


def test_tsv_jsonl_and_parquet_hold_the_same_table(write, tmp_path):
    lines = '{"query": "手表", "title": "防水运动手表"}\n\n{"title": "null", "query": "NA"}\n'
    pd.DataFrame(ROWS).to_parquet(tmp_path / "x.parquet")
    tables = [
        read(Source(write("x.tsv", TEXT.replace(",", "\t")))),
        read(Source(write("x.csv", TEXT.replace(",", ";")))),
        read(Source(write("x.jsonl", lines))),
        read(Source(tmp_path / "x.parquet")),
    ]
    assert [t.frame.to_dict("list") for t in tables] == [ROWS] * 4
    assert [t.rows.tolist() for t in tables] == [[2, 3], [2, 3], [1, 3], [1, 2]]


def test_row_numbers_are_the_lines_an_editor_shows(write):
    table = read(Source(write("x.csv", 'query,title\nq1,"two\nlines"\n\nq2,b\nq3\n')))
    assert table.rows.tolist() == [2, 5]
    assert [str(fault) for fault in table.faults] == [
        "x.csv, row 6: 1 cells where the header has 2, starting 'q3'; fix the row or set data.on_bad_row=drop"
    ]


def test_numbers_and_nulls_of_json_become_texts(write):
    table = read(Source(write("x.jsonl", '{"a": 1, "b": null, "c": true}\n{"a": 0.5}\n')))
    assert table.frame.to_dict("list") == {"a": ["1", "0.5"], "b": ["", ""], "c": ["true", ""]}


def test_a_folder_gives_its_judgements_before_its_triplets_and_says_so(write):
    for name in ("judgements.csv", "triplets_train.csv", "triplets_valid.csv"):
        folder = write(name, TEXT).parent
    sources, notes = find_files(DataConfig(path=str(folder)), folder)
    assert [s.path.name for s in sources] == ["judgements.csv"]
    assert notes == ["files: read judgements.csv; left triplets_train.csv, triplets_valid.csv"]


def test_files_of_a_folder_are_splits_by_their_names(write):
    for name in ("my-train.csv", "my-dev.csv", "my.test.csv", "value.csv"):
        folder = write(name, TEXT).parent
    sources, _ = find_files(DataConfig(path=str(folder)), folder)
    assert [(s.path.name, s.split) for s in sources] == [
        ("my-train.csv", "train"),
        ("my-dev.csv", "valid"),
        ("my.test.csv", "test"),
    ]
