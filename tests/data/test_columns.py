from __future__ import annotations

import pandas as pd
import pytest

from embsearch.data.columns import choose_columns, renamed
from embsearch.data.nested import texts_in
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
    ("question,answer,label", "judgements", "query title grade"),
    ("sentence1,sentence2,label", "judgements", "query title grade"),
    ("text_1,text-2,Label", "judgements", "query title grade"),
    ("premise,hypothesis,label", "judgements", "query title grade"),
    ("query,passage,label", "judgements", "query title grade"),
    ("question1,question2,is_duplicate", "judgements", "query title grade"),
    ("anchor,positive,score", "judgements", "query title grade"),
    ("question,answer", "triplets", "anchor positive"),
    ("anchor,positive,negative,score", "triplets", "anchor positive negative scores"),
    ("sentence1,sentence2,sentence3", "triplets", "anchor positive negative"),
    ("query,response,rejected_response", "triplets", "anchor positive negative"),
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


MANY = {
    "anchor,positive,negative_1,negative_2": ("negative", ["negative_1", "negative_2"]),
    "anchor,positive,negative,negative1": ("negative", ["negative", "negative1"]),
    "query,pos,neg_1,neg_2,neg_10": ("negative", ["neg_1", "neg_2", "neg_10"]),
    "query,positive,Hard Negative 1,hard-neg-2": ("negative", ["Hard Negative 1", "hard-neg-2"]),
    "query,positive,negative,hard_negative": ("negative", ["negative", "hard_negative"]),
    "query,正例,负样本1,负样本2": ("negative", ["负样本1", "负样本2"]),
    "query,pos_0,pos_1,neg": ("positive", ["pos_0", "pos_1"]),
}


@pytest.mark.parametrize("header", MANY)
def test_every_column_of_positives_and_negatives_is_read(header, write):
    row = ",".join(f"text {n}" for n in range(header.count(",") + 1))
    columns = choose_columns(read(Source(write("x.csv", f"{header}\n{row}\n"))), "auto", {})
    name, headers = MANY[header]
    assert (columns.format, columns.unused) == ("triplets", ())
    assert list(columns.several[name]) == headers


def test_null_releases_a_column_and_a_mapping_names_the_only_negative(write):
    table = read(Source(write("x.csv", "query,pos,neg1,neg2,label,weight\nq,a,b,c,1,2\n")))
    released = {"grade": None, "weight": None, "negative": "neg2"}
    columns = choose_columns(table, "auto", released)
    assert columns.headers == {"anchor": "query", "positive": "pos", "negative": "neg2"}
    assert columns.unused == ("neg1", "label", "weight")


SEVERAL = [
    ("x.csv", "anchor,positive,negative_1,negative_2\nq,a,b,c\nr,d,,\ns,e,　,f\n"),
    (
        "x.jsonl",
        '{"query": "q", "pos": ["a"], "neg": ["b", "c"]}\n{"query": "r", "pos": ["d"], "neg": []}\n'
        '{"query": "s", "pos": "e", "neg": [null, "f"], "neg_scores": [0.1, 0.2]}\n',
    ),
    (
        "x.jsonl",
        '{"query": "q", "positive_passages": [{"docid": "1", "title": "", "text": "a"}], '
        '"negative_passages": [{"text": "b"}, {"text": "c"}]}\n'
        '{"query": "r", "positive_passages": [{"text": "d"}], "negative_passages": []}\n'
        '{"query": "s", "positive_passages": [{"text": "e"}], "negative_passages": [{"text": "f"}]}\n',
    ),
    (
        "x.jsonl",
        '{"messages": [{"role": "user", "content": "q"}], "positive_messages": [[{"role": "user", "content": "a"}]], '
        '"negative_messages": [[{"role": "user", "content": "b"}], [{"role": "user", "content": "c"}]]}\n'
        '{"messages": [{"role": "user", "content": "r"}], '
        '"positive_messages": [[{"role": "user", "content": "d"}]]}\n'
        '{"messages": [{"role": "user", "content": "s"}], "positive_messages": [[{"role": "user", "content": "e"}]], '
        '"negative_messages": [[{"role": "user", "content": "f"}]]}\n',
    ),
    (
        "x.jsonl",
        '{"query": "q", "response": "a", "rejected_response": ["b", "c"]}\n{"query": "r", "response": "d"}\n'
        '{"query": "s", "response": "e", "rejected_response": "f"}\n',
    ),
]


@pytest.mark.parametrize(("name", "content"), SEVERAL)
def test_a_positive_stands_against_each_negative_and_alone_where_there_is_none(
    name, content, write
):
    table = read(Source(write(name, content)))
    frame = renamed(table, choose_columns(table, "auto", {}))
    assert frame[["anchor", "positive", "negative"]].to_numpy().tolist() == [
        ["q", "a", "b"],
        ["q", "a", "c"],
        ["r", "d", None],
        ["s", "e", "f"],
    ]
    assert frame["row"].tolist() == [table.rows[n] for n in (0, 0, 1, 2)]


TEACHERS = [  # as FlagEmbedding, sentence-transformers and MS MARCO's margins write scores
    (
        "x.jsonl",
        '{"query": "q", "pos": ["a"], "neg": ["b", null, "c"], "pos_scores": [3], "neg_scores": [1, 9, -2]}\n'
        '{"query": "r", "pos": ["d"], "neg": [], "pos_scores": [4], "neg_scores": []}\n',
        [["a", "b", "3", "1"], ["a", "c", "3", "-2"], ["d", None, "4", None]],
    ),
    (
        "x.jsonl",
        '{"query": "q", "positive": "a", "negative_1": "b", "negative_2": "c", "score": [3, 1, -2]}\n',
        [["a", "b", "3", "1"], ["a", "c", "3", "-2"]],
    ),
    (
        "x.csv",
        "query,positive,negative,score\nq,a,b,2.5\nr,d,e,-1\n",
        [["a", "b", "2.5", "0"], ["d", "e", "-1", "0"]],
    ),
]


@pytest.mark.parametrize(("name", "content", "expected"), TEACHERS)
def test_a_teachers_scores_stand_beside_their_texts(name, content, expected, write):
    table = read(Source(write(name, content)))
    columns = choose_columns(table, "auto", {})
    frame = renamed(table, columns)[["positive", "negative", "pos_score", "neg_score"]]
    assert frame.to_numpy().tolist() == expected
    assert not columns.unused


def test_scores_that_do_not_fit_their_texts_are_refused_and_other_columns_left(write):
    rows = '{"query": "q", "pos": ["a"], "neg": ["b", "c"], "pos_scores": [3], "neg_scores": [1]}\n'
    table = read(Source(write("x.jsonl", rows)))
    with pytest.raises(DataError) as caught:
        renamed(table, choose_columns(table, "auto", {}))
    assert str(caught.value) == (
        "x.jsonl, row 1: 1 scores (neg_score, header 'neg_scores') for 2 texts (negative); expected "
        "one for each, or data.columns.neg_score=null to leave them"
    )
    table = read(Source(write("y.csv", "query,positive,negative,score\nq,a,b,high\n")))
    assert choose_columns(table, "auto", {}).unused == ("score",)


def test_lists_of_parquet_and_of_a_data_frames_csv_are_read(tmp_path):
    frame = pd.DataFrame({"query": ["q", "r"], "pos": [["a"], ["d"]], "neg": [["b", "c"], []]})
    frame.to_parquet(tmp_path / "x.parquet")
    frame.to_csv(tmp_path / "x.csv", index=False)
    for name in ("x.parquet", "x.csv"):
        table = read(Source(tmp_path / name))
        made = renamed(table, choose_columns(table, "auto", {}))
        assert made[["anchor", "positive", "negative"]].to_numpy().tolist() == [
            ["q", "a", "b"],
            ["q", "a", "c"],
            ["r", "d", None],
        ]


def test_classes_of_inference_are_no_grades(write):
    table = read(Source(write("x.csv", "premise,hypothesis,label\np,h,0\np,i,2\n")))
    with pytest.raises(
        DataError, match=r"'label' beside a premise holds '2'.*data\.columns\.grade"
    ):
        choose_columns(table, "auto", {})
    assert choose_columns(table, "auto", {"grade": "label"}).format == "judgements"


def test_several_positives_stand_against_every_negative(write):
    lines = '{"query": "q", "pos": ["a", "b"], "neg": ["c", "d"]}\n'
    table = read(Source(write("x.jsonl", lines)))
    frame = renamed(table, choose_columns(table, "auto", {}))
    pairs = frame[["positive", "negative"]].to_numpy().tolist()
    assert pairs == [["a", "c"], ["a", "d"], ["b", "c"], ["b", "d"]]


def test_a_passage_is_its_title_and_text_and_a_conversation_all_its_messages():
    assert texts_in('[{"title": "Boot", "text": "of leather"}, "shoe"]') == [
        "Boot of leather",
        "shoe",
    ]
    chat = '[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]'
    assert texts_in(chat) == ["s\nu"]
    assert texts_in("[no list") == ["[no list"]
