"""Judging by several sets: each set as alone, and the mean of them."""

from __future__ import annotations

import numpy as np
import pytest

from embsearch.config.schema import Config, DataConfig, EvaluateConfig, PromoteConfig, SetConfig
from embsearch.errors import ConfigError
from embsearch.evaluate.bootstrap import mean_of
from embsearch.registry import gates
from embsearch.tasks.catalogue import task_of
from embsearch.values import Interval

WORDS = [f"{a}{b}" for a in "abcdefgh" for b in "uvwxyz"]
EVALUATE = EvaluateConfig(draws=200)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A task of titles (weight 1) and intents (weight 3), its test rows, and vectors of two models."""
    folder = tmp_path_factory.mktemp("judged")
    rows = [f"{w},red {w},1,{w[0]}\n{w},not {w},0,{w[0]}" for w in WORDS]
    classes = [f"{w} one,first\n{w} two,second" for w in WORDS]
    (folder / "titles.csv").write_text("\n".join(["query,title,grade,segment", *rows]))
    (folder / "intents.csv").write_text("\n".join(["text,label", *classes]))
    sets = {
        "titles": SetConfig(path=str(folder / "titles.csv")),
        "intents": SetConfig(path=str(folder / "intents.csv"), format="classes", weight=3),
    }
    config = Config(data=DataConfig(sets=sets))
    task = task_of(config)
    data = task.load(task.prepare(config.data, folder / "cache"))
    drawn = np.random.default_rng(0)
    better = drawn.normal(size=(len(data.texts), 8)).astype(np.float32)
    for name, one in data.sets.items():
        if name == "titles":
            right = one.test.relevant
            asks, titles = one.test.text[right], one.test.title[right]
            better[titles] = better[asks] + 0.5 * better[titles]
    worse = better + drawn.normal(size=better.shape).astype(np.float32)
    return task, data, task.rows(data, "test"), better, worse


def answers_of(judged, vectors):
    task, _, rows, _, _ = judged
    ids = task.items(rows)
    assert (np.diff(ids) > 0).all()
    return task.answers(rows, ids, vectors[ids])


def alone(judged, name, vectors):
    """Return a set's task, rows and answers, by its own ids."""
    task, data, rows, _, _ = judged
    one, own = task.tasks[name], rows.sets[name]
    ids = one.items(own)
    return one, own, one.answers(own, ids, vectors[ids + data.first[name]])


def test_what_a_set_scores_is_what_it_scores_alone(judged):
    task, _, rows, better, _ = judged
    ids = task.items(rows)
    found = task.measured(rows, ids, better[ids], EVALUATE)
    for name in task.tasks:
        one, own, answers = alone(judged, name, better)
        for metric, value in one.metrics(own, answers).items():
            assert found[f"{name}/{metric}"] == value
    assert found["mean"] == pytest.approx((found["titles/auc"] + 3 * found["intents/accuracy"]) / 4)
    assert task.primary.in_words == (
        "the mean of AUC (titles, weight 1) and accuracy (intents, weight 3)"
    )


def test_the_interval_of_the_mean_is_that_of_draws_within_each_set(judged):
    task, _, rows, better, worse = judged
    mine, theirs = answers_of(judged, better), answers_of(judged, worse)
    found = task.gain(rows, mine, theirs, 2000, 0)
    drawn = []
    for name in task.tasks:
        one, own, answers = alone(judged, name, better)
        gain = one.gain(own, answers, alone(judged, name, worse)[2], 2000, 0)
        drawn.append((gain.high - gain.low) / 2 / 1.96)
    assert found.value == pytest.approx(
        task.metrics(rows, mine)["mean"] - task.metrics(rows, theirs)["mean"]
    )
    error = float(np.hypot(drawn[0], 3 * drawn[1])) / 4
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(error, rel=0.1)


def test_the_mean_of_intervals_covers_as_often_as_it_says():
    random, inside = np.random.default_rng(0), 0
    for _ in range(400):
        parts = []
        for size, spread in ((80, 1.0), (300, 2.0)):
            sample = random.normal(0.5, spread, size)
            half = 1.96 * sample.std() / np.sqrt(size)
            parts.append(Interval(sample.mean(), sample.mean() - half, sample.mean() + half))
        found = mean_of(parts, [2, 1])
        inside += found.low <= 0.5 <= found.high
    assert 0.92 <= inside / 400 <= 0.975


def test_one_set_has_its_own_interval():
    one = Interval(0.7, 0.5, 0.8, 0.95, 100)
    assert mean_of([one], [2.0]) == Interval(0.7, pytest.approx(0.5), pytest.approx(0.8), 0.95, 100)


def test_the_gates_name_the_set_that_fell(judged):
    task, data, rows, better, _ = judged
    mine = better.copy()
    intents = np.arange(data.first["intents"], len(data.texts))
    mine[intents] = np.random.default_rng(1).permutation(mine[intents])
    labels = data.sets["intents"].label
    better = better.copy()
    better[intents, 0] += 20 * (labels - 0.5)  # the rival tells the classes apart
    rival = gates.Rival("champion", answers_of(judged, better), champion=True)
    found = gates.ranking_gate(
        task, rows, answers_of(judged, mine), rival, PromoteConfig(draws=200)
    )
    assert not found.passed
    assert "intents/accuracy lost what mean of sets gained" in found.words
    floor = gates.floor_gate(task, rows, answers_of(judged, mine), PromoteConfig(draws=200))
    assert "AUC of intents" in floor.words


def test_segments_are_those_of_the_sets_and_each_has_its_own_metric(judged):
    task, _, rows, better, worse = judged
    mine = answers_of(judged, better)
    scores = task.segment_scores(rows, mine)
    assert set(scores) == {f"titles/{w}" for w in {word[0] for word in WORDS}} & set(scores)
    one, own, answers = alone(judged, "titles", better)
    theirs = one.segment_scores(own, answers)
    assert {n: s.get("mean") for n, s in scores.items()} == {
        f"titles/{n}": s.get("auc") for n, s in theirs.items()
    }
    gains = task.segment_gains(rows, mine, answers_of(judged, worse), 50, 0)
    assert gains == {
        f"titles/{n}": gain
        for n, gain in one.segment_gains(
            own, answers, alone(judged, "titles", worse)[2], 50, 0
        ).items()
    }


def test_training_rows_of_one_set_are_no_test_rows_of_another(judged):
    task, data, rows, _, _ = judged
    trained = task.training_keys(data)
    for name, one in task.tasks.items():
        assert np.isin(one.training_keys(data.sets[name]), trained).all()
    assert not np.isin(task.row_keys(data, rows), trained).any()


def test_what_is_kept_of_a_model_gives_its_answers_again(judged, tmp_path):
    from embsearch.evaluate.examine import Examined

    task, _, rows, better, _ = judged
    ids, answers = task.items(rows), answers_of(judged, better)
    task.examine(rows, ids, better[ids], answers).save(tmp_path / "kept.npz")
    kept = Examined.load(tmp_path / "kept.npz")
    assert task.fits(rows, kept)
    assert task.metrics(rows, kept.answers) == task.metrics(rows, answers)


def test_a_metric_that_no_set_has_is_refused_by_its_setting():
    sets = {"a": SetConfig(path="a.csv", metric="accuracy")}
    with pytest.raises(ConfigError, match=r"data\.sets\.a\.metric=accuracy: no such metric"):
        task_of(Config(data=DataConfig(sets=sets)))
    one = {"a": SetConfig(path="a.csv")}
    config = Config(data=DataConfig(sets=one), evaluate=EvaluateConfig(objective="a/ndcg"))
    with pytest.raises(
        ConfigError, match=r"evaluate\.objective=a/ndcg: .*Did you mean 'a/ndcg_10'"
    ):
        task_of(config)
