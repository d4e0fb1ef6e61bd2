from __future__ import annotations

import tempfile
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embsearch.config.schema import DataConfig, SplitConfig
from embsearch.data.batch import triplet_batches
from embsearch.data.dataset import Dataset, with_negatives
from embsearch.data.load import load_dataset
from embsearch.data.summary import pairs_and_unread
from embsearch.errors import DataError

SEED = """anchor(搜索词),positive(点击商品),negative(未点击商品)
防水运动手表,佳明Venu 2 防水运动手表,小米智能手环(非防水)
无线降噪耳机,Bose QuietComfort Ultra,华为快充数据线
"""
GRADED = """query,title,grade,split,category
Red  Shoe,a,2,train,shoes
redshoe,b,0,train,shoes
Red  Shoe,c,1,train,shoes
hat,d,1,valid,hats
cap,e,1,valid,
hat,f,0,valid,hats
cap,a,0,valid,
"""


def equal(one: Dataset, other: Dataset) -> bool:
    parts = [(getattr(one, name), getattr(other, name)) for name in ("train", "valid", "test")]
    arrays = [(getattr(a, f.name), getattr(b, f.name)) for a, b in parts for f in fields(a)]
    heads = ("texts", "fingerprint", "report")
    same = all(
        np.array_equal(a, b) and type(a) is type(b) for a, b in [*arrays, (one.known, other.known)]
    )
    return same and all(getattr(one, h) == getattr(other, h) for h in heads)


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030"])
def test_the_two_chinese_rows_of_the_guide_train_and_evaluate(codec, write, cache):
    data = load_dataset(DataConfig(path=str(write("data.csv", SEED.encode(codec)))), cache)
    assert sorted(data.texts) == sorted(SEED.replace("\n", ",").split(",")[3:-1])
    assert (len(data.train), len(data.valid), len(data.test)) == (1, 2, 0)
    assert data.valid.relevant.tolist() == [True, False]
    assert data.report["files"][0]["encoding"] == codec.removesuffix("-sig")


def test_graded_rows_become_triplets_evaluation_rows_and_a_click_graph(write, cache):
    data = load_dataset(DataConfig(path=str(write("x.csv", GRADED))), cache)

    def text(ids: np.ndarray) -> list[str]:
        return [data.texts[at] for at in ids]

    train = zip(
        text(data.train.anchor), text(data.train.positive), text(data.train.negative), strict=True
    )
    assert sorted(train) == [
        ("Red  Shoe", "a", "b"),
        ("Red  Shoe", "a", "c"),
        ("Red  Shoe", "c", "b"),
    ]
    assert data.valid.query.tolist() == [0, 0, 1, 1]
    assert text(data.valid.title) == ["d", "f", "e", "a"]
    assert data.valid.grade.tolist() == [1, 0, 1, 0]
    assert (data.valid.segment.tolist(), data.valid.segments) == ([0, 0, -1, -1], ("hats",))
    known = {(data.texts[q], data.texts[t]) for q, t in data.known}
    shoes = {(q, t) for q in ("Red  Shoe", "redshoe") for t in "ac"}
    assert known == {*shoes, ("hat", "d"), ("cap", "e")}
    assert data.report["title_overlap"] == {"train-valid": 1, "train-test": 0, "valid-test": 0}


def test_grades_of_both_titles_stand_in_the_training_rows_and_leave_the_fingerprint(write, cache):
    data = load_dataset(DataConfig(path=str(write("x.csv", GRADED))), cache)
    assert sorted(data.train.grade.tolist()) == [[1, 0], [2, 0], [2, 1]]
    assert data.train.teacher.shape == (0, 2)
    assert data.fingerprint.startswith("4cdbb22b7a03")  # as before rows had grades


def test_a_teachers_scores_belong_to_the_data_and_a_pair_has_none(write, cache):
    rows = "query,positive,negative,score,split\n" + "".join(
        f"q{n},a{n},b{n},{n}.5,{'valid' if n > 3 else 'train'}\nq{n},c{n},,,train\n"
        for n in range(1, 5)
    )
    rows = rows.replace("q4,c4,,,train\n", "")
    data = load_dataset(DataConfig(path=str(write("x.csv", rows))), cache)
    has = data.train.negative >= 0
    assert sorted(data.train.teacher[has].tolist()) == [[1.5, 0], [2.5, 0], [3.5, 0]]
    assert np.isnan(data.train.teacher[~has]).all()
    assert data.train.grade[~has].tolist() == [[1, 0]] * 3
    other = load_dataset(DataConfig(path=str(write("y.csv", rows.replace("2.5", "9")))), cache)
    assert other.fingerprint != data.fingerprint


def test_rows_of_a_query_lie_side_by_side_where_a_loss_learns_from_lists(write, cache):
    rows = "".join(f"q{q},t{q}-{t},{t % 3},train\n" for q in range(20) for t in range(6))
    rows += "v,a,1,valid\nv,b,0,valid\n"
    data = load_dataset(
        DataConfig(path=str(write("x.csv", "query,title,grade,split\n" + rows))), cache
    )
    count = len(data.train)
    queries = {n: len(next(triplet_batches(data, 16, 0, 0, n)).anchor_B.unique()) for n in (0, 8)}
    assert queries[8] <= 4 < queries[0]
    through = islice(triplet_batches(data, 16, 0, 0, 8), -(-count // 16))
    seen = sorted(pair for one in through for pair in rows_of(one))
    assert seen == sorted(
        zip(data.train.anchor, data.train.positive, data.train.negative, strict=True)
    )
    again = list(islice(triplet_batches(data, 16, 0, 3, 8), 2))
    whole = list(islice(triplet_batches(data, 16, 0, 0, 8), 5))[3:]
    assert [rows_of(one) for one in again] == [rows_of(one) for one in whole]


def rows_of(batch):
    """Return (query, positive, negative) of each row of a batch, by text id."""
    columns = (
        batch.text_D[c.numpy()] for c in (batch.anchor_B, batch.positive_B, batch.negative_B)
    )
    return list(zip(*columns, strict=True))


def test_pairs_without_negatives_train_where_validation_has_some(write, cache):
    train = write("t.csv", "query,positive\nq1,a\nq2,b\n")
    valid = write("v.csv", "query,positive,negative\nq3,a,b\n")
    data = load_dataset(DataConfig(train=str(train), valid=str(valid)), cache)
    assert data.train.negative.tolist() == [-1, -1]
    assert data.report["split"] == "given"


SOME = "anchor,positive,negative,note,weight\nq1,a,b,x,\nq2,c,,x,\nq3,d,e,x,\nq4,f,g,x,\n"


def test_pairs_and_unread_columns_are_counted_and_said(write, cache):
    valid = write("v.csv", "anchor,positive,negative\nq5,h,i\n")
    train = write("t.csv", SOME)
    config = DataConfig(train=str(train), valid=str(valid), columns={"weight": None})
    data = load_dataset(config, cache)
    assert (data.report["triplets"], data.report["pairs"]) == (3, 1)
    assert data.report["notes"] == ["data.columns.weight=null: nothing is read as weight"]
    assert pairs_and_unread(data.report) == (
        "1 of 4 training rows are pairs without a negative; columns of t.csv left unread: note, weight"
    )
    assert pairs_and_unread({}) == ""
    kept = with_negatives(data)
    assert [data.texts[i] for i in kept.train.anchor] == ["q1", "q3", "q4"]
    assert (kept.texts, with_negatives(kept)) == (data.texts, kept)


def test_a_clicked_query_without_an_unclicked_title_trains(write, cache):
    rows = "query,title,clicked,split\nq1,a,1,train\nq2,b,1,train\nq2,c,0,train\nq3,d,1,valid\nq3,e,0,valid\n"
    data = load_dataset(DataConfig(path=str(write("x.csv", rows))), cache)
    titles = [data.texts[i] for i in data.train.positive]
    assert sorted(zip(titles, data.train.negative >= 0, strict=True)) == [("a", False), ("b", True)]


def test_a_time_is_read_only_where_the_split_asks_for_it(write, cache):
    rows = "query,title,clicked,date\nq1,a,1,01/31/24\nq1,b,0,soon\nq2,c,1,\nq2,d,0,never\n"
    data = load_dataset(DataConfig(path=str(write("x.csv", rows))), cache)
    assert data.report["dropped"] == {}


def test_dropped_rows_are_counted_and_written_beside_the_data(write, cache):
    path = write("x.csv", SEED + "坏行, ,商品\n")
    data = load_dataset(DataConfig(path=str(path), on_bad_row="drop"), cache)
    assert data.report["dropped"] == {"empty text": 1}
    said = f"1 of 3 rows dropped (1 empty text), written to {data.report['dropped_to']}"
    assert pairs_and_unread(data.report) == said
    assert Path(data.report["dropped_to"]).read_text(encoding="utf-8").splitlines() == [
        "file,row,reason,values",
        "x.csv,4,positive ' ' is empty or blank; expected a text,"
        '"{""anchor"": ""坏行"", ""positive"": "" "", ""negative"": ""商品""}"',
    ]


def test_equal_data_are_read_once_and_have_one_fingerprint_wherever_they_lie(
    write, tmp_path, cache
):
    path = write("x.csv", SEED)
    first = load_dataset(DataConfig(path=str(path)), cache)
    moved = path.rename(tmp_path / "x.csv")
    assert equal(load_dataset(DataConfig(path=str(moved)), cache), first)
    assert len(list(cache.iterdir())) == 1
    moved.write_text(SEED.replace("华为", "小米"), encoding="utf-8")
    assert load_dataset(DataConfig(path=str(moved)), cache).fingerprint != first.fingerprint


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters='\r\n\t",;\0\ufeff'), min_size=1
).map(str.strip)


@settings(max_examples=30, deadline=None)
@given(st.lists(TEXTS.filter(lambda text: len(text.encode()) > 1), min_size=2, max_size=6))
def test_a_dataset_comes_back_from_disk_as_it_was(texts):
    rows = "".join(f"q{n},good {text},bad {text}\n" for n, text in enumerate(texts))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.csv")
        path.write_text("anchor,positive,negative\n" + rows, encoding="utf-8", newline="\n")
        data = load_dataset(DataConfig(path=str(path)), Path(folder, "cache"))
        data.save(Path(folder, "again"))
        assert equal(Dataset.load(Path(folder, "again")), data)
        assert {f"good {text}" for text in texts} <= set(data.texts)


@pytest.mark.parametrize(
    ("name", "cell"), [("weight", "1.2 kg"), ("split", "shop A"), ("date", "Monday")]
)
def test_a_column_of_another_meaning_is_answered_with_how_to_leave_it(name, cell, write, cache):
    """Once for the column, not for each row; then the file is read."""
    ours = {"date": "time"}.get(name, name)
    rows = "".join(f"q{n // 2},t{n},{n % 2},{cell}\n" for n in range(60))
    path = str(write("x.csv", f"query,title,grade,{name}\n{rows}"))
    config = DataConfig(path=path, split=SplitConfig(by="time" if name == "date" else "auto"))
    with pytest.raises(DataError) as caught:
        load_dataset(config, cache)
    said = f"if that column is no {ours}: data.columns.{ours}=null leaves it unread"
    assert str(caught.value).endswith(said)
    data = load_dataset(DataConfig(path=path, columns={ours: None}), cache)
    assert data.report["files"][0]["unused"] == [name]
