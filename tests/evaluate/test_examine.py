"""What is kept of one model's scores, against sorting every query's titles by hand."""

from __future__ import annotations

import numpy as np
import pytest

from embsearch.data.dataset import JudgedRows, texts_of
from embsearch.evaluate import examine as module
from embsearch.evaluate.examine import TOP, Examined, examine, sampled
from embsearch.evaluate.ranking import pool_ranks
from embsearch.evaluate.score import similarity, unit_vectors


def rows(queries=40, per_query=6, titles=90, seed=0):
    """Query q is text q, titles come after; the first title of most queries is the relevant one."""
    draw = np.random.default_rng(seed)
    query = np.repeat(np.arange(queries, dtype=np.int32), per_query)
    title = (
        np.concatenate([draw.choice(titles, per_query, replace=False) for _ in range(queries)])
        + queries
    )
    relevant = (np.arange(len(query)) % per_query < 2) & (query % 7 != 3)  # some queries have none
    none = np.full(len(query), -1, dtype=np.int32)
    return JudgedRows(
        query, query, title.astype(np.int32), relevant.astype(np.float32), relevant, none
    )


@pytest.fixture(params=[1 << 23, 200], ids=["whole", "in chunks"])
def made(request, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", request.param)
    judged = rows()
    ids = texts_of(judged)
    vectors = np.random.default_rng(1).normal(size=(len(ids), 16)).astype(np.float32)
    return judged, ids, vectors, examine(judged, ids, vectors, similarity(judged, ids, vectors))


def test_the_first_titles_and_the_place_of_the_first_relevant_one_are_those_of_sorted_lists(made):
    judged, ids, vectors, found = made
    exact = dict(zip(ids.tolist(), unit_vectors(vectors), strict=True))
    pool = np.unique(judged.title)
    for query in range(int(judged.query.max()) + 1):
        listed = sorted(pool.tolist(), key=lambda title: -float(exact[title] @ exact[query]))
        assert found.top[query].tolist() == listed[:TOP]
        right = set(judged.title[(judged.query == query) & judged.relevant].tolist())
        first = next((place for place, title in enumerate(listed, 1) if title in right), 0)
        assert found.place[query] == first


def test_the_place_is_the_best_of_the_ranks_that_the_metrics_use(made):
    judged, ids, vectors, found = made
    asks = np.flatnonzero(judged.relevant)
    pool = np.unique(judged.title)
    exact = unit_vectors(vectors)
    ranks = pool_ranks(
        exact[np.searchsorted(ids, np.unique(judged.query))], exact[np.searchsorted(ids, pool)],
        judged.query[asks], np.searchsorted(pool, judged.title[asks]),
    )  # fmt: skip
    best = np.zeros(len(found.place), dtype=int)
    for query, rank in zip(judged.query[asks], ranks, strict=True):
        best[query] = min(rank, best[query] or rank)
    assert found.place.tolist() == best.tolist()


def test_a_model_that_gives_every_text_one_vector_finds_nothing_first(made):
    judged, ids, _, _ = made
    flat = np.ones((len(ids), 4), dtype=np.float32)
    found = examine(judged, ids, flat, similarity(judged, ids, flat))
    irrelevant = len(np.unique(judged.title)) - 2
    assert set(found.place[found.place > 0].tolist()) == {irrelevant + 1}


def test_the_sample_holds_whole_queries_that_have_an_answer_and_does_not_depend_on_the_model(made):
    judged, _, _, found = made
    assert np.array_equal(found.sample, sampled(judged))
    queries = [text for text in found.sample.tolist() if text < 40]
    assert queries
    for query in queries:
        mine = judged.query == query
        assert judged.relevant[mine].any()
        assert set(judged.title[mine].tolist()) <= set(found.sample.tolist())
    assert np.allclose(np.linalg.norm(found.vectors.astype(np.float32), axis=1), 1, atol=1e-2)
    assert 0.8 * module.SAMPLE < len(sampled(rows(queries=400, titles=4000))) <= module.SAMPLE


def test_what_is_saved_is_read_again_and_damage_is_told(made, tmp_path):
    *_, found = made
    path = tmp_path / "tested" / "best_trial.npz"
    found.save(path)
    again = Examined.load(path)
    assert all(
        np.array_equal(getattr(found, name), getattr(again, name))
        for name in Examined.__dataclass_fields__
    )
    assert [p.name for p in path.parent.iterdir()] == ["best_trial.npz"]
    np.savez(path, similarity=found.similarity)
    with pytest.raises(ValueError, match=r"best_trial.npz: damaged"):
        Examined.load(path)


def test_rows_with_few_titles_and_no_answer_are_taken_as_they_are():
    one = np.zeros(2, dtype=np.int32)
    judged = JudgedRows(
        one,
        one,
        np.array([1, 2], dtype=np.int32),
        one.astype(np.float32),
        one.astype(bool),
        one - 1,
    )
    vectors = np.eye(3, dtype=np.float32)
    found = examine(judged, np.arange(3, dtype=np.int32), vectors, np.zeros(2, dtype=np.float32))
    assert found.top.tolist() == [[1, 2, -1, -1, -1]]
    assert found.place.tolist() == [0]
    assert found.sample.tolist() == []
