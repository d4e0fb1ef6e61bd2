"""Nearest class against a plain count, macro-F1 against scikit-learn, and the task's answers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from embsearch.config.schema import EvaluateConfig
from embsearch.data.class_data import ClassRows
from embsearch.evaluate.classes import macro_f1, macro_f1_gain, nearest
from embsearch.evaluate.examine import Examined
from embsearch.tasks.catalogue import task_named

CLASSES, TEXTS, CENTRES = 5, 60, 40


@pytest.fixture
def rows() -> ClassRows:
    every = np.arange(TEXTS + CENTRES, dtype=np.int32)
    label = (every % CLASSES).astype(np.int32)
    text, centre = every[:TEXTS], every[TEXTS:]
    segment = np.where(text % 2, 0, -1).astype(np.int32)
    return ClassRows(
        text,
        label[text],
        segment,
        centre,
        label[centre],
        tuple("abcde"),
        ("odd",),
    )


@pytest.fixture
def vectors():
    random = np.random.default_rng(0)
    label = np.arange(TEXTS + CENTRES) % CLASSES
    return 1.2 * np.eye(CLASSES, 8)[label] + random.normal(size=(TEXTS + CENTRES, 8))


def test_the_nearest_class_is_that_of_a_plain_loop(rows, vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    means = np.stack([unit[TEXTS:][rows.centre_label == c].mean(0) for c in range(CLASSES)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    cosines = unit[:TEXTS] @ means.T
    guesses, auc = nearest(vectors[:TEXTS], rows.label, vectors[TEXTS:], rows.centre_label, CLASSES)
    assert guesses.tolist() == cosines.argmax(1).tolist()
    further = [(row < row[own]).sum() / 4 for row, own in zip(cosines, rows.label, strict=True)]
    assert auc == pytest.approx(further)


def test_one_vector_for_all_texts_is_chance_and_nan_is_an_error(rows, vectors):
    ones = np.ones_like(vectors)
    _, auc = nearest(ones[:TEXTS], rows.label, ones[TEXTS:], rows.centre_label, CLASSES)
    assert auc == pytest.approx(0.5)
    with pytest.raises(ValueError, match="not finite"):
        nearest(ones[:TEXTS] * np.nan, rows.label, ones[TEXTS:], rows.centre_label, CLASSES)


def test_macro_f1_is_scikit_learns_also_where_a_class_is_missing():
    random = np.random.default_rng(0)
    for classes in (3, 7):
        label, guess = random.integers(0, classes, size=(2, 50)).astype(np.int32)
        label[label == 2] = 0
        expected = f1_score(label, guess, average="macro")
        assert macro_f1(label, guess, classes) == pytest.approx(expected)
        assert macro_f1_gain(label, guess, guess, classes, 100, 0).high == 0
        gain = macro_f1_gain(label, label, guess, classes, 100, 0)
        assert gain.value == pytest.approx(1 - expected)
        assert 0 < gain.low < gain.value < gain.high


def test_the_task_is_judged_by_accuracy_and_its_floor_is_asked_of_auc(rows, vectors, tmp_path):
    task = task_named("classes")
    ids = task.items(rows)
    assert len(ids) == TEXTS + CENTRES
    answers = task.answers(rows, ids, vectors)
    metrics = task.metrics(rows, answers)
    right = answers[:, 0] == rows.label
    assert metrics["accuracy"] == pytest.approx(right.mean())
    found = task.score(rows, ids, vectors, answers, EvaluateConfig(draws=100), 0)
    assert (found.metric.label, found.value) == ("accuracy", metrics["accuracy"])
    assert found.segments["odd"]["accuracy"] == pytest.approx(right[1::2].mean())
    metric, floor = task.floor(rows, answers, 100, 0)
    assert (metric.name, floor.value) == ("auc", pytest.approx(metrics["auc"], rel=1e-6))
    blind = task.answers(rows, ids, np.ones_like(vectors))
    gain = task.gain(rows, answers, blind, 200, 0)
    assert gain.value == pytest.approx(metrics["accuracy"] - 1 / CLASSES)
    assert gain.low > 0
    assert task.secondary_gains(rows, answers, blind, 50, 0).keys() == {"macro_f1"}
    task.examine(rows, ids, vectors, answers).save(tmp_path / "kept.npz")
    kept = Examined.load(tmp_path / "kept.npz")
    assert task.fits(rows, kept)
    assert np.array_equal(kept.answers, answers)


def test_a_larger_sample_holds_the_smaller_one(rows):
    task = task_named("classes")
    few, more = (set(task.sample(rows, count).text) for count in (10, 30))
    assert len(few) == 10
    assert few < more
    assert len(task.select(rows, rows.label == 0)) == TEXTS // CLASSES
