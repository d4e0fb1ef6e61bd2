"""Each gate on rows whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from embsearch.config.schema import PromoteConfig
from embsearch.data.dataset import JudgedRows
from embsearch.registry import gates
from embsearch.registry.gates import Rival
from embsearch.tasks.catalogue import task_named

RETRIEVAL = task_named("retrieval")
ASKED = PromoteConfig(draws=500)
QUERIES, SHOWN = 80, 8


@pytest.fixture
def rows() -> JudgedRows:
    """80 queries of two segments in turn, each with two relevant titles of eight."""
    query = np.repeat(np.arange(QUERIES), SHOWN).astype(np.int32)
    relevant = np.tile(np.arange(SHOWN) < 2, QUERIES)
    ids = np.arange(len(query), dtype=np.int32)
    return JudgedRows(
        query,
        query,
        ids,
        relevant.astype(np.float32),
        relevant,
        (query % 2).astype(np.int32),
        ("a", "b"),
    )


def scores(rows: JudgedRows, *lift: float, seed: int = 0) -> np.ndarray:
    """Scores whose relevant rows stand higher by ``lift``, one a segment."""
    noise = np.random.default_rng(seed).normal(size=len(rows))
    return (noise + rows.relevant * np.array(lift)[rows.segment]).astype(np.float32)


def test_a_gain_that_is_told_from_chance_passes_and_one_that_is_not_says_what_could_be_seen(rows):
    better = gates.gain_gate(
        RETRIEVAL, rows, scores(rows, 2, 2), Rival("champion", scores(rows, 1, 1)), ASKED
    )
    assert better.passed
    assert better.facts["gain"]["low"] > 0
    same = gates.gain_gate(
        RETRIEVAL, rows, scores(rows, 1, 1), Rival("champion", scores(rows, 1, 1, seed=1)), ASKED
    )
    assert not same.passed
    width = same.facts["gain"]["high"] - same.facts["gain"]["low"]
    assert same.facts["smallest_visible"] == pytest.approx(width / 2)
    assert f"one passes from about {width / 2:.4f} on" in same.words


def test_a_gain_must_lie_above_the_least_that_is_asked(rows):
    mine, theirs = scores(rows, 2, 2), Rival("champion", scores(rows, 1, 1))
    low = gates.gain_gate(RETRIEVAL, rows, mine, theirs, ASKED).facts["gain"]["low"]
    assert gates.gain_gate(
        RETRIEVAL, rows, mine, theirs, PromoteConfig(draws=500, min_gain=low - 0.001)
    ).passed
    assert not gates.gain_gate(
        RETRIEVAL, rows, mine, theirs, PromoteConfig(draws=500, min_gain=low + 0.001)
    ).passed


@pytest.mark.parametrize(
    ("mine", "passed", "words"),
    [
        ((2, 2, 0), True, "the search found a better model"),
        ((1, 1, 1), True, "these test rows cannot tell them apart"),
        ((0.5, 0.5, 0), False, "the given point is better"),
    ],
)
def test_a_loss_to_the_best_given_point_refuses_where_it_can_be_told_from_chance(
    rows, mine, passed, words
):
    *far, seed = mine
    given = Rival("given point 1", scores(rows, 1, 1))
    gate = gates.given_gate(RETRIEVAL, rows, scores(rows, *far, seed=seed), given, ASKED)
    assert (gate.name, gate.passed) == ("given", passed)
    assert " over the given point 1, the best that was given, 95 % interval " in gate.words
    assert words in gate.words


def test_the_floor_is_asked_of_a_first_champion_alone(rows):
    mine, theirs = scores(rows, 1, 1), scores(rows, 0.1, 0.1)
    first = gates.quality_gates(RETRIEVAL, rows, mine, [Rival("untuned encoder", theirs)], ASKED)
    assert [(g.name, g.passed) for g in first if not g.passed] == [("floor", False)]
    later = gates.quality_gates(
        RETRIEVAL,
        rows,
        mine,
        [Rival("untuned encoder", theirs), Rival("champion", theirs, champion=True)],
        ASKED,
    )
    assert [g.name for g in later] == ["gain", "gain", "ranking", "segments"]
    assert all(g.passed for g in later)


def test_a_segment_that_lost_five_points_refuses_a_model_that_is_better_on_the_whole(rows):
    champion = scores(rows, 1.0, 1.6)
    mine = champion + (rows.relevant * np.array([0.9, -0.35])[rows.segment]).astype(np.float32)
    found = {
        g.name: g
        for g in gates.quality_gates(
            RETRIEVAL, rows, mine, [Rival("champion", champion, champion=True)], ASKED
        )
    }
    assert found["gain"].passed
    assert not found["segments"].passed
    assert found["segments"].facts["b"]["value"] == pytest.approx(-0.06, abs=0.02)
    assert found["segments"].words.startswith("b -0.0")


def test_a_loss_within_the_limit_or_within_chance_is_none(rows):
    champion = scores(rows, 1.0, 1.6)
    little = champion - (rows.relevant * np.array([0, 0.08])[rows.segment]).astype(np.float32)
    assert gates.segments_gate(RETRIEVAL, rows, little, Rival("champion", champion), ASKED).passed
    few = JudgedRows(
        *(
            getattr(rows, k)[:16]
            for k in ("query", "text", "title", "grade", "relevant", "segment")
        ),
        ("a", "b"),
    )
    assert gates.segments_gate(
        RETRIEVAL, few, scores(few, 0.5, 0.5), Rival("champion", scores(few, 1, 1, seed=3)), ASKED
    ).passed


def test_a_ranking_that_falls_while_auc_rises_refuses(rows):
    """One irrelevant title of each query goes to the top; the levels of queries, which AUC sees, become equal."""
    levels = np.repeat(np.random.default_rng(1).normal(0, 3, QUERIES), SHOWN)
    champion = (levels + rows.relevant * 1.0).astype(np.float32)
    mine = (rows.relevant * 1.0).astype(np.float32)
    mine[SHOWN - 1 :: SHOWN] = 2.0
    found = {
        g.name: g
        for g in gates.quality_gates(
            RETRIEVAL, rows, mine, [Rival("champion", champion, champion=True)], ASKED
        )
    }
    assert found["gain"].passed
    assert not found["ranking"].passed
    assert "ndcg_10 and mrr_10 lost what AUC gained" in found["ranking"].words


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        (gates.dimension_gate(64, 64, ASKED), True),
        (gates.dimension_gate(32, 64, ASKED), False),
        (gates.dimension_gate(32, 64, PromoteConfig(allow_dim_change=True)), True),
        (gates.dimension_gate(32, None, ASKED), True),
        (gates.speed_gate(1.4, 1.0, "champion", ASKED), True),
        (gates.speed_gate(1.6, 1.0, "champion", ASKED), False),
        (gates.speed_gate(1.0, 2.0, "champion", ASKED), False),
        (gates.reload_gate({"a": 1e-7, "b": 9e-6}), True),
        (gates.reload_gate({"a": 1e-7, "b": 2e-5}), False),
        (gates.data_gate("f00", "f00", "0.1"), True),
        (gates.data_gate("f00", "ba5", "0.1"), False),
        (gates.data_gate("f00", "f00", ""), False),
        (gates.leak_gate({"candidate": 0.0, "champion": None}, ASKED), True),
        (gates.leak_gate({"candidate": 0.0, "champion": 0.02}, ASKED), False),
        (gates.leak_gate({"candidate": 0.0, "champion": 0.02}, PromoteConfig(max_leak=0.05)), True),
        (gates.licence_gate("apache-2.0", "minilm"), True),
        (gates.licence_gate(None, "./mine"), False),
    ],
)
def test_gates_of_one_figure(gate, passed):
    assert gate.passed is passed, gate.words
    assert gate.words


def test_vectors_that_training_did_not_move_are_refused():
    untuned = np.eye(3, dtype=np.float32)
    assert gates.moved_gate(untuned + 1e-3, untuned).passed
    assert gates.moved_gate(untuned[:, :2], untuned).passed
    still = gates.moved_gate(untuned + 1e-7, untuned)
    assert not still.passed
    assert still.words == (
        "vectors up to 1.2e-07 a component from the untuned encoder's, not above 1e-05: "
        "training did not reach the vectors of the saved model"
    )
