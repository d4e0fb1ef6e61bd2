"""Folders of a corpus, queries and qrels, as BEIR, TREC and MS MARCO write them."""

from __future__ import annotations

import pytest

from embsearch.config.schema import DataConfig
from embsearch.data.load import build_dataset
from embsearch.data.source_files import find_files
from embsearch.errors import DataError

CORPUS = '{"_id": "d1", "title": "Boot", "text": "of leather"}\n{"_id": "d2", "title": "", "text": "lamp"}\n'
QUERIES = "".join(f'{{"_id": "q{n}", "text": "query {n}"}}\n' for n in (1, 2, 3))
HEAD = "query-id\tcorpus-id\tscore\n"
BEIR = {
    "corpus.jsonl": CORPUS,
    "queries.jsonl": QUERIES,
    "qrels/train.tsv": HEAD + "q1\td1\t2\nq1\td2\t0\n",
    "qrels/dev.tsv": HEAD + "q2\td1\t0\nq2\td2\t1\n",
    "qrels/test.tsv": HEAD + "q3\td1\t1\nq3\td2\t0\n",
}
TEXTS = {
    "collection.tsv": "d1\tBoot of leather\nd2\tlamp\n",
    "queries.train.tsv": "q1\tquery 1\nq7\tquery 7\n",
    "queries.dev.tsv": "q2\tquery 2\nq3\tquery 3\n",
}
MARCO = TEXTS | {
    "qrels.train.tsv": "q1\t0\td1\t2\nq1\t0\td2\t00\n",
    "qrels.dev.tsv": "q2\t0\td1\t00\nq2\t0\td2\t1\n",
    "qrels.test.tsv": "q3\t0\td1\t1\nq3\t0\td2\t0\n",
}
TREC = TEXTS | {
    "qrels/train.txt": "q1 0 d1 2\nq1 0 d2 0\n",
    "qrels/dev.txt": "q2 0 d1 0\nq2 0 d2 1\n",
    "qrels/test.txt": "q3 0 d1 1\nq3 0 d2 0\n",
}


@pytest.fixture
def build(tmp_path):
    def run(files: dict[str, str], **config):
        for name, content in files.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        made = DataConfig(path=str(tmp_path / "set"), **config)
        return build_dataset(made, *find_files(made, tmp_path))

    return run


@pytest.mark.parametrize("files", [BEIR, MARCO, TREC], ids=["beir", "marco", "trec"])
def test_qrels_are_judgements_of_the_texts_of_their_ids(files, build):
    data, dropped = build(files)
    report = data.report
    assert (report["format"], report["split"], dropped) == ("judgements", "given", [])
    assert report["notes"] == [
        "set: qrels, joined with the texts of the corpus and the queries",
    ]
    triplet = (data.train.anchor[0], data.train.positive[0], data.train.negative[0])
    assert [data.texts[i] for i in triplet] == ["query 1", "Boot of leather", "lamp"]
    shown = [(data.texts[t], g) for t, g in zip(data.valid.title, data.valid.grade, strict=True)]
    assert shown == [("Boot of leather", 0), ("lamp", 1)]
    assert [data.texts[i] for i in data.test.text] == ["query 3", "query 3"]
    assert report["splits"]["train"]["grades"] == {"0": 1, "2": 1}


def test_an_id_that_is_not_there_is_a_fault_of_its_row(build):
    files = BEIR | {"qrels/train.tsv": HEAD + "q1\td1\t1\nq9\td2\t0\nq1\td2\t0\n"}
    with pytest.raises(DataError) as refused:
        build(files)
    assert list(refused.value.faults) == [
        "train.tsv, row 3: the id 'q9' is not in the queries; expected ids that are there; "
        "fix the row or set data.on_bad_row=drop"
    ]
    data, dropped = build(files, on_bad_row="drop")
    assert (len(data.train), [(f.kind, f.row) for f in dropped]) == (1, [("unknown id", 3)])


def test_an_id_with_two_texts_is_refused(build):
    with pytest.raises(DataError, match=r"corpus\.jsonl, row 3: the id 'd1' stands there twice"):
        build(BEIR | {"corpus.jsonl": CORPUS + '{"_id": "d1", "text": "sofa"}\n'})
