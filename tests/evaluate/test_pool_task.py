"""Retrieval judged by a metric of the pool, against a plain count over the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest

from embsearch.config.schema import Config, EvaluateConfig
from embsearch.data.dataset import JudgedRows
from embsearch.errors import ConfigError
from embsearch.evaluate.examine import Examined
from embsearch.tasks import retrieval
from embsearch.tasks.catalogue import task_of

QUERIES, TITLES = 30, 60


def judged_by(objective):
    return task_of(Config(evaluate=EvaluateConfig(objective=objective)))


@pytest.fixture
def rows() -> JudgedRows:
    query = np.repeat(np.arange(QUERIES), 4).astype(np.int32)
    title = (QUERIES + (query * 2 + np.tile([0, 1, 7, 20], QUERIES)) % TITLES).astype(np.int32)
    relevant = np.tile([True, True, False, False], QUERIES)
    segment = (query % 2).astype(np.int32)
    grade = relevant.astype(np.float32)
    return JudgedRows(query, query, title, grade, relevant, segment, ("even", "odd"))


@pytest.fixture
def vectors():
    random = np.random.default_rng(0)
    made = random.normal(size=(QUERIES + TITLES, 8))
    for query in range(QUERIES):  # its titles lie near it, more or less
        made[QUERIES + 2 * query] = made[query] + random.normal(size=8)
        made[QUERIES + 2 * query + 1] = made[query] + 2 * random.normal(size=8)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def ndcg(vectors, query):
    """nDCG@10 of one query over all titles, whose own are 2 * query and 2 * query + 1."""
    order = np.argsort(-(vectors[QUERIES:] @ vectors[query]))[:10]
    found = [1 / np.log2(2 + place) for place, title in enumerate(order) if title // 2 == query]
    return sum(found) / (1 + 1 / np.log2(3))


def test_the_primary_metric_is_the_mean_over_queries_of_the_whole_pool(rows, vectors):
    task = judged_by("pool_ndcg_10")
    ids = np.arange(len(vectors))
    answers = task.answers(rows, ids, vectors)
    expected = [ndcg(vectors, query) for query in range(QUERIES)]
    metrics = task.metrics(rows, answers)
    assert metrics["pool_ndcg_10"] == pytest.approx(np.mean(expected))
    usual = judged_by("auto")
    assert usual.metrics(rows, usual.answers(rows, ids, vectors)).items() <= metrics.items()
    found = task.score(rows, ids, vectors, answers, EvaluateConfig(draws=200), 0)
    assert (found.metric.label, found.value) == ("pool nDCG@10", metrics["pool_ndcg_10"])
    assert found.interval.low < found.value < found.interval.high
    assert found.segments["even"]["pool_ndcg_10"] == pytest.approx(np.mean(expected[::2]))


def test_an_evaluation_measures_the_pool_too_of_as_many_queries_as_pairs_allow(
    rows, vectors, monkeypatch
):
    usual, ids = judged_by("auto"), np.arange(len(vectors))
    plain = usual.metrics(rows, usual.answers(rows, ids, vectors))
    found = usual.measured(rows, ids, vectors, EvaluateConfig())
    assert plain.items() <= found.items()
    expected = [ndcg(vectors, query) for query in range(QUERIES)]
    assert found["pool_ndcg_10"] == pytest.approx(np.mean(expected))
    assert usual.measured(rows, ids, vectors, EvaluateConfig(pool=False)) == plain
    judged = judged_by("pool_ndcg_10")
    answers = judged.answers(rows, ids, vectors)
    assert judged.measured(rows, ids, vectors, EvaluateConfig()) == judged.metrics(rows, answers)

    monkeypatch.setattr(retrieval, "PAIRS", 10 * TITLES)
    asked = np.unique(usual.sample(rows, 10).text)
    assert len(asked) == 10
    few = usual.measured(rows, ids, vectors, EvaluateConfig())  # all titles are in the pool still
    assert few["pool_ndcg_10"] == pytest.approx(np.mean([expected[query] for query in asked]))


def test_a_gain_is_paired_by_query_and_none_between_equal_models(rows, vectors):
    task = judged_by("pool_recall_10")
    ids = np.arange(len(vectors))
    mine = task.answers(rows, ids, vectors)
    blind = task.answers(rows, ids, np.ones_like(vectors))
    same = task.gain(rows, mine, mine, 100, 0)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    gain = task.gain(rows, mine, blind, 100, 0)
    of_both = [task.metrics(rows, answers)["pool_recall_10"] for answers in (mine, blind)]
    assert gain.value == pytest.approx(of_both[0] - of_both[1])
    assert of_both[1] == 0  # one vector for all texts: the wrong titles stand first
    assert gain.low > 0
    assert task.secondary_gains(rows, mine, blind, 100, 0).keys() == {"auc", "pool_ndcg_10"}
    assert task.segment_gains(rows, mine, blind, 100, 0).keys() == {"even", "odd"}


def test_the_floor_is_asked_of_auc(rows, vectors):
    task = judged_by("pool_ndcg_10")
    answers = task.answers(rows, np.arange(len(vectors)), vectors)
    metric, floor = task.floor(rows, answers, 100, 0)
    assert (metric.name, floor.value) == ("auc", task.metrics(rows, answers)["auc"])


def test_what_is_kept_of_a_model_gives_its_answers_again(rows, vectors, tmp_path):
    ids = np.arange(len(vectors))
    for objective in ("auc", "pool_mrr_10"):
        task = judged_by(objective)
        answers = task.answers(rows, ids, vectors)
        task.examine(rows, ids, vectors, answers).save(tmp_path / "kept.npz")
        kept = Examined.load(tmp_path / "kept.npz")
        assert task.fits(rows, kept)
        assert np.array_equal(kept.answers, answers)


def test_an_objective_that_is_no_metric_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match="Did you mean 'pool_recall_10'"):
        judged_by("pool_recal_10")
