"""Texts with a class: how they are recognised, split, refused and batched."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from embsearch.config.schema import DataConfig, SplitConfig
from embsearch.data.class_batches import TOGETHER, class_batches
from embsearch.data.class_data import ClassData, pairs_of_classes
from embsearch.data.columns import choose_columns
from embsearch.data.dataset import queries_of
from embsearch.data.load import decided_format, prepare_dataset
from embsearch.data.read import read
from embsearch.data.source_files import Source
from embsearch.data.split import by_class
from embsearch.errors import DataError

HEADERS = [
    ("text,label", "text label"),
    ("text,category", "text label"),  # BANKING77
    ("sentence,label", "text label"),  # SST-2
    ("query,intent", "text label"),
    ("utterance,intent,confidence", "text label"),
    ("文本,类别", "text label"),
    ("标题,分类", "text label"),
]
OTHERS = [
    ("query,title,category", "judgements"),  # lacks a grade
    ("query,positive,category", "triplets"),
    ("query,title,label", "judgements"),
    ("sentence1,sentence2,label", "judgements"),
    ("query,clicked,category", "clicks"),  # lacks a title
    ("text,label,clicked", "judgements"),  # what is clicked?
]


@pytest.mark.parametrize(("header", "names"), HEADERS)
def test_a_text_and_a_label_are_classes(header, names, write):
    table = read(Source(write("x.csv", f"{header}\n{'a,' * header.count(',')}1\n")))
    columns = choose_columns(table, "auto", {})
    found = dict(zip(names.split(), header.split(","), strict=False))
    assert (columns.format, columns.headers) == ("classes", found)


@pytest.mark.parametrize(("header", "kind"), OTHERS)
def test_texts_that_are_part_of_a_pair_are_not(header, kind, write):
    table = read(Source(write("x.csv", f"{header}\n{'a,' * header.count(',')}1\n")))
    try:
        assert choose_columns(table, "auto", {}).format == kind
    except DataError as error:
        assert f"{kind} need" in str(error)  # noqa: PT017


SIZES = {"a": 40, "b": 11, "c": 4, "d": 2, "e": 1}


def lines(sizes=SIZES):
    return [f"text {n} of {name},{name}" for name, count in sizes.items() for n in range(count)]


def config_of(write, rows, **settings):
    return DataConfig(path=str(write("x.csv", "\n".join(["text,label", *rows]))), **settings)


def loaded(config, tmp_path) -> ClassData:
    cache = tmp_path / "cache"
    return ClassData.load(prepare_dataset(decided_format(config, cache), cache))


def test_every_class_is_in_train_and_each_that_is_large_enough_in_every_split(write, tmp_path):
    data = loaded(config_of(write, lines()), tmp_path)
    splits = data.report["splits"]
    assert data.classes == ("a", "b", "c", "d", "e")
    assert splits["train"]["sizes"] == {"a": 28, "b": 7, "c": 2, "d": 2, "e": 1}
    assert splits["valid"]["sizes"] == splits["test"]["sizes"] == {"a": 6, "b": 2, "c": 1}
    assert data.report["alone"] == ["e"]
    assert len(data.train) == 28 + 7 + 2 + 2  # e's text trains in no pair
    assert len(data.valid.centre) == 40  # and still is e's centre
    assert queries_of(data).all()


def test_the_split_does_not_depend_on_the_order_of_rows(write, tmp_path):
    mixed = lines()
    np.random.default_rng(0).shuffle(mixed)
    data = loaded(config_of(write, lines()), tmp_path)
    again = loaded(config_of(write, mixed), tmp_path)

    def named(data, split):
        rows = getattr(data, split)
        return {
            (data.texts[i], data.classes[j]) for i, j in zip(rows.text, rows.label, strict=True)
        }

    for split in ("valid", "test"):
        assert named(data, split) == named(again, split)


@pytest.mark.parametrize(("valid", "test"), [(0.15, 0.15), (0.5, 0.4), (0.3, 0.0)])
@pytest.mark.parametrize("count", range(1, 30))
def test_two_texts_of_a_class_stay_in_train(count, valid, test):
    keys = {f"key {n}": "a" for n in range(count)}
    made = list(by_class(keys, SplitConfig(valid=valid, test=test)).values())
    assert len(made) == count
    assert made.count("train") >= min(count, 2)
    if count >= 4:
        assert made.count("valid") >= 1
        assert made.count("test") >= (test > 0)
    if not test:
        assert "test" not in made


def test_what_is_saved_is_read_again_and_an_annotation_is_read_once(write, tmp_path):
    config = config_of(write, lines())
    data = loaded(config, tmp_path)
    data.save(tmp_path / "copy")
    again = ClassData.load(tmp_path / "copy")
    assert again.fingerprint == data.fingerprint
    assert (again.texts, again.classes, again.report) == (data.texts, data.classes, data.report)
    assert np.array_equal(again.train.positive, data.train.positive)
    assert decided_format(config, tmp_path / "cache").format == "classes"


def test_a_text_with_two_classes_is_a_fault_and_a_repeated_row_counts_once(write, tmp_path):
    rows = [*lines(), "TEXT 3 of a,b"]
    with pytest.raises(DataError, match=r"text 'TEXT 3 of a' has class 'b' here and 'a' in x\.csv"):
        loaded(config_of(write, rows), tmp_path)
    dropped = loaded(config_of(write, rows, on_bad_row="drop"), tmp_path)
    assert dropped.report["dropped"] == {"contradiction": 2}
    again = loaded(config_of(write, [*lines(), "Text 3  of a,a"]), tmp_path)
    assert again.report["duplicates"] == 1
    assert len(again.texts) == sum(SIZES.values())


def given(write, rows):
    return DataConfig(path=str(write("x.csv", "\n".join(["text,label,split", *rows]))))


def test_given_splits_that_share_a_text_or_test_a_class_without_training_are_faults(
    write, tmp_path
):
    rows = [f"{line},train" for line in lines()]
    with pytest.raises(DataError, match=r"text 'text 0 of a' is in train here and in test"):
        loaded(given(write, [*rows, "text 0 of a,a,test"]), tmp_path)
    with pytest.raises(DataError, match=r"row 60: class 'new' has no training text"):
        loaded(given(write, [*rows, "something else,new,test"]), tmp_path)


def test_classes_of_one_text_each_are_refused(write, tmp_path):
    with pytest.raises(DataError, match="each of the 20 classes has one training text"):
        loaded(config_of(write, [f"text {n},{n}" for n in range(20)]), tmp_path)
    with pytest.raises(DataError, match="the training rows are of 1 class"):
        loaded(config_of(write, [f"text {n},a" for n in range(20)]), tmp_path)


@pytest.mark.parametrize("shift", [1, 2, 7, 10**9])
def test_every_text_is_once_the_first_of_a_pair_and_once_the_second(shift):
    label = np.repeat([0, 1, 2], [5, 2, 3]).astype(np.int32)
    texts = np.random.default_rng(0).permutation(10).astype(np.int32)
    rows = pairs_of_classes(texts, label, np.ones(10, np.float32), shift)
    assert sorted(rows.positive) == list(range(10))
    assert (label[rows.anchor] == label[rows.positive]).all()
    assert (rows.anchor != rows.positive).all()


def epoch_of(data, size, seed, epoch):
    per_epoch = -(-len(data.train) // size)
    return list(islice(class_batches(data, size, seed, epoch * per_epoch), per_epoch))


def test_a_batch_has_pairs_of_a_class_side_by_side_and_knows_who_belongs_together(write, tmp_path):
    data = loaded(config_of(write, lines({"a": 60, "b": 60, "c": 60})), tmp_path)
    batches = epoch_of(data, 16, seed=0, epoch=0)
    anchors = np.concatenate([batch.text_D[batch.anchor_B] for batch in batches])
    assert sorted(anchors) == sorted(data.train.anchor)
    runs = np.diff(np.flatnonzero(np.diff(data.label[anchors], prepend=-1, append=-1)))
    assert np.mean(runs % TOGETHER == 0) > 0.6  # some are cut by the number of texts of a class
    for batch in batches:
        query, title = batch.text_D[batch.anchor_B], batch.text_D[batch.title_C]
        same = data.label[query][:, None] == data.label[title][None, :]
        assert np.array_equal(batch.known_BC.numpy(), same)


def test_batches_are_a_function_of_seed_and_number(write, tmp_path):
    data = loaded(config_of(write, lines({"a": 30, "b": 30})), tmp_path)

    def rows(batch):
        return batch.text_D[batch.anchor_B].tolist(), batch.text_D[batch.positive_B].tolist()

    through = [rows(batch) for batch in islice(class_batches(data, 8, 3), 14)]
    assert [rows(batch) for batch in islice(class_batches(data, 8, 3, 9), 5)] == through[9:]
    assert through[0] != rows(next(class_batches(data, 8, 4)))

    def pairs(epoch):
        batches = epoch_of(data, 8, 3, epoch)
        return {pair for batch in batches for pair in zip(*rows(batch), strict=True)}

    assert len(pairs(0)) == len(data.train)
    assert pairs(0) != pairs(1)  # paired anew
