"""The nearest titles are the nearest, whole or not at all, and only for the model that made the index."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embsearch.errors import DataError
from embsearch.serve.index import Index, unit_rows


def an_index(titles=200, width=8, seed=0):
    vectors = unit_rows(np.random.default_rng(seed).normal(size=(titles, width)).astype(np.float32))
    return Index([f"title {n}" for n in range(titles)], vectors, {"model": "m", "digest": "d"})


@pytest.mark.parametrize("k", [1, 7, 200, 500])
def test_the_nearest_are_those_of_a_full_sort(k):
    index, queries = an_index(), np.random.default_rng(1).normal(size=(30, 8)).astype(np.float32)
    scores, ids = index.nearest(queries, k)
    all_scores = unit_rows(queries) @ index.vectors.T
    expected = np.argsort(-all_scores, axis=1, kind="stable")[:, : min(k, 200)]
    assert np.array_equal(ids, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(all_scores, expected, axis=1))


def test_of_equal_titles_the_earlier_ones_are_found_also_at_the_cut():
    index = Index(list("abcdef"), np.ones((6, 1), np.float32), {})
    assert index.nearest(np.ones((1, 1), np.float32), 3)[1].tolist() == [[0, 1, 2]]


def test_the_same_answer_as_faiss():
    faiss = pytest.importorskip("faiss")
    index, queries = (
        an_index(2000, 32),
        unit_rows(np.random.default_rng(1).normal(size=(20, 32)).astype(np.float32)),
    )
    flat = faiss.IndexFlatIP(32)
    flat.add(np.array(index.vectors))
    assert np.array_equal(index.nearest(queries, 10)[1], flat.search(queries, 10)[1])


def test_what_was_saved_is_loaded_and_replaced_whole(tmp_path):
    an_index(5).save(tmp_path / "i")
    an_index(7).save(tmp_path / "i")
    found = Index.load(tmp_path / "i")
    assert (len(found.titles), found.vectors.shape, found.about["digest"]) == (7, (7, 8), "d")
    assert [p.name for p in tmp_path.iterdir()] == ["i"]


def test_an_index_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        Index(["a"], np.ones((1, 2)), {"model": object()}).save(tmp_path / "i")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_index_is_told(tmp_path):
    with pytest.raises(DataError, match="no index here"):
        Index.load(tmp_path / "i")
    an_index(5).save(tmp_path / "i")
    whole = (tmp_path / "i/titles.json").read_bytes()
    (tmp_path / "i/titles.json").write_text(json.dumps(["a"]))
    with pytest.raises(DataError, match=r"titles\.json is not as it was written; build it again"):
        Index.load(tmp_path / "i")
    (tmp_path / "i/SHA256SUMS").unlink()  # as older versions wrote it
    with pytest.raises(DataError, match="do not fit together; build it again"):
        Index.load(tmp_path / "i")
    (tmp_path / "i/titles.json").write_bytes(whole)
    assert len(Index.load(tmp_path / "i").titles) == 5
