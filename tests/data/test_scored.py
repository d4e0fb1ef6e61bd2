"""Scored pairs: how they are told from judgements, and what becomes of their scores."""

from __future__ import annotations

import numpy as np
import pytest

from embsearch.config.schema import DataConfig
from embsearch.data.columns import choose_columns
from embsearch.data.load import decided_format, load_dataset
from embsearch.data.read import read
from embsearch.data.source_files import Source
from embsearch.errors import DataError
from embsearch.tasks.catalogue import task_named


def table(header, scores, queries=None):
    queries = range(len(scores)) if queries is None else queries
    rows = [f"one {q},other {n},{s}" for n, (q, s) in enumerate(zip(queries, scores, strict=True))]
    return "\n".join([header, *rows]) + "\n"


REAL, MANY, TWO = [0.0, 1.4, 2.5, 4.8, 5.0], [0, 1, 2, 4, 5], [0, 1, 1, 0, 1]
SCORED = [
    ("sentence1,sentence2,score", REAL),
    ("sentence_A,sentence_B,relatedness_score", REAL),
    ("text1,text2,label", REAL),
    ("text1,text2,similarity", MANY),
    ("句子1,句子2,相似度", MANY),
]
JUDGED = [
    ("sentence1,sentence2,label", MANY),  # classes, perhaps
    ("sentence1,sentence2,score", TWO),
    ("question1,question2,is_duplicate", TWO),
    ("query,title,score", REAL),
    ("question,sentence2,score", REAL),
    ("sentence1,text2,score", REAL),
]


@pytest.mark.parametrize(("header", "scores"), SCORED)
def test_numbered_texts_with_many_scores_are_scored_pairs(header, scores, write):
    columns = choose_columns(read(Source(write("x.csv", table(header, scores)))), "auto", {})
    found = dict(zip(("query", "title", "grade"), header.split(","), strict=True))
    assert (columns.format, columns.headers) == ("scored", found)


@pytest.mark.parametrize(("header", "scores"), JUDGED)
def test_others_stay_judgements(header, scores, write):
    columns = choose_columns(read(Source(write("x.csv", table(header, scores)))), "auto", {})
    assert columns.format == "judgements"


def test_a_first_text_with_many_second_ones_is_a_query_with_titles(write):
    text = table("sentence1,sentence2,score", REAL * 2, queries=[1, 1, 1, 1, 1, 2, 2, 2, 2, 2])
    assert choose_columns(read(Source(write("x.csv", text))), "auto", {}).format == "judgements"
    assert choose_columns(read(Source(write("x.csv", text))), "scored", {}).format == "scored"


def loaded(write, tmp_path, scores):
    path = write("x.csv", table("sentence1,sentence2,score", scores))
    config = decided_format(DataConfig(path=str(path)), tmp_path / "cache")
    assert config.format == "scored"
    task = task_named("similarity")
    return task.load(task.prepare(config, tmp_path / "cache"))


@pytest.mark.parametrize(
    ("scores", "least", "most"),
    [
        (np.linspace(0, 5, 60), 0, 5),
        (np.linspace(1, 5, 60), 1, 5),
        (np.linspace(0.2, 0.9, 60), 0, 1),
        (np.linspace(-0.8, 0.9, 60), -1, 1),
        (np.linspace(-3, 40, 60), -3, 40),
    ],
)
def test_scores_of_any_range_come_to_0_to_1(scores, least, most, write, tmp_path):
    data = loaded(write, tmp_path, scores)
    expected = {
        f"other {n}": round(float((s - least) / (most - least)), 5) for n, s in enumerate(scores)
    }
    for titles, found in (
        (data.train.positive, data.train.score),
        (data.valid.title, data.valid.grade),
        (data.test.title, data.test.grade),
    ):
        assert [expected[data.texts[i]] for i in titles] == pytest.approx(found, abs=1e-5)
    assert data.report["scores"]["from"] == least
    assert data.report["scores"]["to"] == most
    every = np.concatenate([data.valid.relevant, data.test.relevant, data.train.score >= 0])
    assert 0 < every.sum() <= len(every)


def test_both_texts_have_the_role_of_a_query_and_a_text_has_one_id(write, tmp_path):
    from embsearch.data.dataset import queries_of

    lines = [f"a{n},a{n + 1},{n % 7 / 2}" for n in range(80)]
    path = write("x.csv", "\n".join(["sentence1,sentence2,score", *lines]))
    config = DataConfig(path=str(path), format="scored")
    data = load_dataset(config, tmp_path / "cache")
    assert len(data.texts) == len(set(data.texts))
    assert queries_of(data).all()


def test_scores_that_are_all_alike_are_refused(write, tmp_path):
    path = write("x.csv", table("sentence1,sentence2,score", [0.5] * 40))
    with pytest.raises(DataError, match=r"rows of train, of which \d+ have the mean score"):
        load_dataset(DataConfig(path=str(path), format="scored"), tmp_path / "cache")


def test_two_scores_of_one_pair_are_a_fault(write, tmp_path):
    text = table("sentence1,sentence2,score", list(np.linspace(0, 5, 40)))
    path = write("x.csv", text + "one 3,other 3,4.9\n")
    with pytest.raises(DataError, match=r"row \d+: grade '0\.384615' for 'other 3' is '4\.9'"):
        load_dataset(DataConfig(path=str(path)), tmp_path / "cache")


@pytest.mark.parametrize("header", ["score", "label", "is_duplicate"])
@pytest.mark.parametrize("wanted", ["auto", "scored", "judgements"])
def test_a_file_whose_labels_are_kept_back_is_refused(header, wanted, tmp_path):
    for split, scores in (("train", [0.5, 4.5]), ("dev", [1.5, 5]), ("test", [-1, -1.0])):
        rows = [f"a {split} {n}\tb {n}\t{scores[n % 2]}" for n in range(40)]
        table = "\n".join([f"sentence1\tsentence2\t{header}", *rows, ""])
        (tmp_path / f"{split}.tsv").write_text(table)
    config = DataConfig(path=str(tmp_path), format=wanted)
    with pytest.raises(DataError, match=r"test\.tsv, row 1: every '\w+' is -1.*data\.train=FILE"):
        load_dataset(config, tmp_path / "cache")
