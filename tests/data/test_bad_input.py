"""Every kind of bad input ends in one message: file, row, value, what was expected, what to do."""

from __future__ import annotations

import pytest

from embsearch.config.schema import DataConfig, SplitConfig
from embsearch.data.load import load_dataset
from embsearch.errors import ConfigError, DataError, UserError

GOOD = "anchor,positive,negative\nq1,a,b\nq2,c,d\n"
GRADED = "query,title,grade\nq1,a,1\nq1,b,0\nq2,c,1\nq2,d,0\n"
CLICKS = "query,title,clicked\nq1,a,1\nq1,b,0\nq2,c,1\nq2,d,0\n"
FIX = "fix the row or set data.on_bad_row=drop"
CODEC = "name its codec with data.encoding="

BAD = {
    "blank anchor": (
        "x.csv",
        GOOD + "\u3000,e,f\n",
        ["x.csv, row 4", "anchor '\u3000'", "expected a text", FIX],
    ),
    "empty positive": (
        "x.csv",
        GOOD + "q3,,e\n",
        ["x.csv, row 4", "positive ''", "expected a text", FIX],
    ),
    "no positive in a list": (
        "x.jsonl",
        '{"query": "q1", "pos": ["a"], "neg": ["b"]}\n{"query": "q2", "pos": [], "neg": ["c"]}\n',
        ["x.jsonl, row 2", "positive ''", "expected a text", FIX],
    ),
    "positive is negative": (
        "x.csv",
        GOOD + "q3,e, e\n",
        ["x.csv, row 4", "'e'", "two different titles", FIX],
    ),
    "both good and bad": (
        "x.csv",
        GOOD + "Q 2,d,e\n",
        ["x.csv, row 3", "negative 'd'", "x.csv, row 4", FIX],
    ),
    "places changed": (
        "x.csv",
        "anchor,positive,negative,pos_grade,neg_grade\nq1,a,b,2,1\nq1,b,a,2,1\nq2,c,d,1,0\n",
        ["x.csv, row 2", "x.csv, row 3", "'b'", "change places", FIX],
    ),
    "grades not in order": (
        "x.csv",
        "anchor,positive,negative,pos_grade,neg_grade\nq1,a,b,1,2\n",
        ["x.csv, row 2", "pos_grade '1' is not above neg_grade '2'", FIX],
    ),
    "two grades": (
        "x.csv",
        GRADED + "q1,a,0\n",
        ["x.csv, row 2", "'a'", "x.csv, row 6", "one grade", FIX],
    ),
    "bad grade": (
        "x.csv",
        GRADED + "q1,e,high\n",
        ["x.csv, row 6", "grade 'high'", "a finite number", FIX],
    ),
    "infinite grade": (
        "x.csv",
        GRADED + "q1,e,inf\n",
        ["x.csv, row 6", "grade 'inf'", "a finite number", FIX],
    ),
    "bad click": (
        "x.csv",
        CLICKS + "q1,e,-2\n",
        ["x.csv, row 6", "clicked '-2'", "a count of clicks", FIX],
    ),
    "bad weight": (
        "x.csv",
        "anchor,positive,negative,weight\nq1,a,b,-1\n",
        ["x.csv, row 2", "weight '-1'", "0 or more", FIX],
    ),
    "unknown split": (
        "x.csv",
        "anchor,positive,negative,split\nq1,a,b,trian\n",
        ["x.csv, row 2", "split 'trian'", "train, valid", FIX],
    ),
    "query in two splits": (
        "x.csv",
        "anchor,positive,negative,split\nRed Shoe,a,b,train\nredshoe,c,d,valid\n",
        ["x.csv, row 2", "'Red Shoe'", "x.csv, row 3", "one split only", FIX],
    ),
    "ragged row": (
        "x.csv",
        GOOD + "q3,e\n",
        ["x.csv, row 4", "2 cells", "the header has 3", "'q3'", FIX],
    ),
    "open quote": (
        "x.csv",
        GOOD + 'q3,"e,f\n',
        ["x.csv, row 4", "quotes", "expected every quoted cell", "doubled"],
    ),
    "empty file": (
        "x.csv",
        " \n",
        ["x.csv", "is empty", "expected a header and rows", "check that"],
    ),
    "header only": (
        "x.csv",
        "anchor,positive\n",
        ["x.csv, row 1", "no rows", "expected rows", "check that"],
    ),
    "header twice": (
        "x.csv",
        "anchor,anchor\na,b\n",
        ["x.csv, row 1", "'anchor'", "expected each name", "rename"],
    ),
    "missing column": (
        "x.csv",
        "anchor,postive\nq1,a\n",
        [
            "x.csv, row 1",
            "no column 'positive'",
            "anchor, postive",
            "Did you mean",
            "data.columns.positive=HEADER",
        ],
    ),
    "broken line": (
        "x.jsonl",
        '{"anchor": "q1"\n',
        ["x.jsonl, row 1", '\'{"anchor"', "one object a line", FIX],
    ),
    "list for a text": (
        "x.jsonl",
        '{"anchor": ["a", "b"], "positive": "c"}\n',
        ["x.jsonl, row 1", "anchor", "expected one text", "one row for each"],
    ),
    "objects without a text": (
        "x.jsonl",
        '{"anchor": "q1", "positive": [{"id": 3}]}\n',
        ["x.jsonl, row 1", "positive", "'text' or 'content'", "not one with id"],
    ),
    "a mark unread": (
        "x.csv",
        "question,answer,is_correct\nq1,a,1\nq1,b,0\n",
        ["x.csv, row 1", "'is_correct' holds 0 and 1", "data.columns.grade=null"],
    ),
    "a negative beside grades": (
        "x.csv",
        "query,title,grade,negative\nq1,a,1,b\n",
        ["x.csv, row 1", "'negative' would stay unread", "data.format=judgements"],
    ),
    "mixed encodings": (
        "x.csv",
        GOOD.encode() + "搜索,商品,其他\n".encode() + "防水手表,佳明,小米\n".encode("gb18030"),
        ["x.csv, row 5", "byte 0xb7", "mixes encodings", "row 4", CODEC],
    ),
    "no known encoding": (
        "x.csv",
        GOOD.encode() + "café,thé,lait\n".encode("latin-1"),
        ["x.csv, row 4", "byte 0xe9", "neither UTF-8", "GB18030", CODEC],
    ),
    "no text": ("x.csv", b"a,b\n\x00\x01", ["x.csv, row 2", "zero byte", CODEC]),
    "no Parquet": (
        "x.parquet",
        b"PAR?",
        ["x.parquet", "not a readable Parquet file", "write it again"],
    ),
    "unknown kind": ("x.ods", b"PK", ["x.ods", "'.ods'", "expected one of .csv", "convert it"]),
    "one query": (
        "x.csv",
        "anchor,positive,negative\nq1,a,b\n",
        ["no validation rows", "two queries", "add rows"],
    ),
    "no negatives": (
        "x.csv",
        "anchor,positive\nq1,a\nq2,b\n",
        ["no irrelevant", "AUC is undefined", "give negatives"],
    ),
    "no triplets": (
        "x.csv",
        "query,title,grade,split\nq1,a,0.5,train\nq2,b,0,valid\nq2,c,1,valid\n",
        ["no triplets", "data.derive.min_gap=1", "lower it"],
    ),
    "weights all zero": (
        "x.csv",
        "anchor,positive,negative,weight\nq1,a,b,0\nq2,c,d,0\n",
        ["weight 0", "nothing would be learnt", "above 0"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_says_where_what_and_what_to_do_and_writes_nothing(case, write, cache):
    name, content, parts = BAD[case]
    with pytest.raises(DataError) as refused:
        load_dataset(DataConfig(path=str(write(name, content))), cache)
    assert [part for part in parts if part not in str(refused.value)] == []
    assert not cache.exists()
    assert refused.value.exit_code == 2


SETTINGS = {
    "nothing named": ({"path": None}, ["data.path=FILE", "study=NAME"]),
    "named twice": ({"train": "t.csv"}, ["data.path=", "data.train", "one or the other"]),
    "no such codec": ({"encoding": "gbk2"}, ["data.encoding=gbk2", "gb18030"]),
    "wrong codec": ({"encoding": "ascii"}, ["x.csv, row 1 (byte 7)", "data.encoding=ascii"]),
    "no such column": (
        {"columns": {"qurey": "a"}},
        ["data.columns.qurey", "Did you mean 'query'?"],
    ),
    "no such header": (
        {"columns": {"anchor": "搜索"}},
        ["x.csv, row 1", "data.columns.anchor=搜索", "anchor(搜索词)"],
    ),
    "format not there": (
        {"format": "clicks"},
        ["x.csv, row 1", "'clicked'", "data.columns.clicked=HEADER"],
    ),
    "no split given": (
        {"split": SplitConfig(by="given")},
        ["data.split.by=given", "data.split.by=query"],
    ),
    "bad time": (
        {"split": SplitConfig(by="time"), "columns": {"time": "negative"}},
        ["x.csv, row 2", "time 'b'", "2024-05-01", FIX],
    ),
    "no time": ({"split": SplitConfig(by="time")}, ["x.csv, row 2", "data.columns.time=HEADER"]),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_setting_that_does_not_fit_the_file_names_the_setting(case, write, cache):
    change, parts = SETTINGS[case]
    path = write("x.csv", "anchor(搜索词),positive,negative\nq1,a,b\nq2,c,d\n")
    with pytest.raises(UserError) as refused:
        load_dataset(DataConfig(**{"path": str(path), **change}), cache)
    assert [part for part in parts if part not in str(refused.value)] == []
    assert not cache.exists()


def test_a_missing_file_is_answered_with_the_nearest_names(write, cache):
    path = write("pairs.csv", GOOD)
    with pytest.raises(DataError, match=r"no such file; nearest in .*: pairs\.csv"):
        load_dataset(DataConfig(path=str(path.with_name("pair.csv"))), cache)


def test_a_folder_without_data_files_says_which_kinds_it_wants(tmp_path, cache):
    with pytest.raises(DataError, match=r"no data files in this folder; expected \.csv"):
        load_dataset(DataConfig(path=str(tmp_path)), cache)


def test_only_a_validation_file_is_not_enough(write, cache):
    with pytest.raises(ConfigError, match=r"data\.train=FILE"):
        load_dataset(DataConfig(valid=str(write("v.csv", GOOD))), cache)


def test_all_faults_come_at_once_twenty_in_full(write, cache):
    path = write("x.csv", GOOD + "q3,e,e\n" + "q4,,f\n" * 25)
    with pytest.raises(DataError) as refused:
        load_dataset(DataConfig(path=str(path)), cache)
    assert len(refused.value.faults) == 21
    assert refused.value.faults[0] == (
        "x.csv, row 4: positive and negative are both 'e'; expected two different titles; " + FIX
    )
    last = "... and 6 more (26 in all: empty text 25, positive equals negative 1)"
    assert refused.value.faults[-1] == last
