"""From rows and vectors to named metrics."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from embsearch.data.dataset import JudgedRows
from embsearch.evaluate.score import by_segment, pool_places, score, score_pool, similarity


def judged(query, title, grade, segment=None, segments=()):
    """Query q has the text id q; titles come as ids."""
    query = np.array(query, dtype=np.int32)
    grade = np.array(grade, dtype=np.float32)
    segment = [-1] * len(query) if segment is None else segment
    return JudgedRows(
        query=query,
        text=query,
        title=np.array(title, dtype=np.int32),
        grade=grade,
        relevant=grade >= 1,
        segment=np.array(segment, dtype=np.int32),
        segments=segments,
    )


ROWS = judged(
    [0, 0, 0, 1, 1],
    [2, 3, 4, 2, 5],
    [1, 0, 0, 0, 1],
    [0, 0, 0, 1, -1],
    ("cameras", "phones", "rare"),
)


def test_a_perfect_order_scores_one_everywhere():
    assert score(ROWS, [0.9, 0.1, 0.2, 0.3, 0.8]) == {
        "auc": 1.0,
        "average_precision": 1.0,
        "best_f1": 1.0,
        "query_auc": 1.0,
        "triplet_accuracy": 1.0,
        "mrr_10": 1.0,
        "ndcg_10": 1.0,
        "recall_1": 1.0,
        "recall_10": 1.0,
    }


def test_metrics_that_the_rows_do_not_define_are_left_out():
    assert score(judged([0, 0], [2, 3], [1, 1]), [0.1, 0.2]).keys() == {
        "mrr_10",
        "ndcg_10",
        "recall_1",
        "recall_10",
    }
    assert score(judged([0, 0], [2, 3], [0, 0]), [0.1, 0.2]) == {}
    assert "query_auc" not in score(judged([0, 1], [2, 3], [1, 0]), [0.1, 0.2])


def test_segments_have_counts_and_an_auc_where_both_classes_exist():
    assert by_segment(ROWS, [0.9, 0.1, 0.95, 0.3, 0.8]) == {
        "cameras": {"rows": 3.0, "queries": 1.0, "auc": 0.5},
        "phones": {"rows": 1.0, "queries": 1.0},
    }


def test_nan_and_a_wrong_number_of_similarities_are_refused():
    with pytest.raises(ValueError, match="1 of 5 similarities are NaN"):
        score(ROWS, [0.9, 0.1, np.nan, 0.3, 0.8])
    with pytest.raises(ValueError, match="5 rows need 5 similarities"):
        score(ROWS, [0.9])


def test_similarity_is_the_cosine_of_vectors_of_any_length():
    vectors = np.random.default_rng(0).normal(size=(6, 8)) * 5
    cosines = [
        vectors[q] @ vectors[t] / np.linalg.norm(vectors[q]) / np.linalg.norm(vectors[t])
        for q, t in zip(ROWS.text, ROWS.title, strict=True)
    ]
    assert similarity(ROWS, np.arange(6), vectors) == pytest.approx(cosines, abs=1e-6)
    with pytest.raises(ValueError, match="missing"):
        similarity(ROWS, np.arange(5), vectors[:5])


def test_a_query_asks_the_whole_pool_and_unjudged_titles_stand_in_the_way():
    # ids are not positions: only 0, 1, 2, 3, 4, 5, 9 have vectors; 9 is query 0's own vector
    ids = np.array([0, 1, 2, 3, 4, 5, 9])
    vectors = np.eye(7)
    vectors[[2, 5]] = vectors[0] + 0.5 * vectors[2], vectors[1]
    vectors[6] = vectors[0]
    assert score_pool(ROWS, pool_places(ROWS, ids, vectors)) == {
        "pool_ndcg_10": 1.0,
        "pool_mrr_10": 1.0,
        "pool_recall_1": 1.0,
        "pool_recall_10": 1.0,
    }
    wider = pool_places(ROWS, ids, vectors, pool=np.array([2, 3, 4, 5, 9]))
    assert score_pool(ROWS, wider) == {
        "pool_ndcg_10": (1 / np.log2(3) + 1) / 2,
        "pool_mrr_10": 0.75,  # title 9 now stands before query 0's title
        "pool_recall_1": 0.5,
        "pool_recall_10": 1.0,
    }
    nothing = judged([0], [2], [0])
    assert score_pool(nothing, pool_places(nothing, ids, vectors)) == {}


def test_scoring_needs_no_torch():
    code = "import sys, embsearch.evaluate.score, embsearch.evaluate.bootstrap; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
