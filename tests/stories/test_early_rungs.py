"""evaluate.early_error: early evaluations read fewer rows, the same ones for all trials, and the last reads all."""

from __future__ import annotations

import shutil

import pytest

from embsearch.evaluate import early

pytestmark = pytest.mark.story
EARLY = ("evaluate.early_error=0.2", "data.split.valid=0.4", "evaluate.draws=200")


@pytest.fixture(scope="module")
def sampled(tmp_path_factory, calm):
    home = calm.at(tmp_path_factory.mktemp("early") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(early, "FEWEST", 2)  # the tiny data have 19 validation queries
        assert home.run("search", *EARLY) == 0
    return home


def rows(home):
    """By evaluation: the rows that trials read there."""
    found = [(e["rung"], e["rows"]) for n in range(6) for e in home.events("measured", n)]
    return {rung: {r for g, r in found if g == rung} for rung, _ in found}


def test_all_trials_read_the_same_rows_at_a_rung_more_at_the_next_and_all_at_the_last(sampled):
    readings = sampled.events("baseline")[0]["readings"]
    assert readings[0]["error"] <= 0.2
    assert readings[0]["rows"] < readings[1]["rows"] <= readings[2]["rows"]
    assert rows(sampled) == {rung: {one["rows"]} for rung, one in enumerate(readings, 1)}
    assert readings[2]["rows"] == sum(
        1 for _ in range(readings[2]["queries"] * 6)
    )  # every query has six titles


def test_the_table_compares_what_was_measured_on_all_rows(sampled):
    _untuned, *trained = sampled.result["table"]
    assert trained
    for row in trained:
        events = sampled.events("measured", row["trial"])
        last = max(e["rows"] for e in events)
        assert row["validation"] == max(
            e["metrics"]["val/auc"] for e in events if e["rows"] == last
        )


def test_a_study_whose_logs_end_anywhere_goes_on_with_the_same_rows_to_the_same_end(home, sampled):
    shutil.copytree(sampled.folder, home.folder)
    home.forget(0, "decided", "ended", "told", "segment", "measured", "points")
    assert (
        home.run("search", *EARLY) == 0
    )  # early.FEWEST is what it was: what was chosen stands in the log
    assert rows(home) == rows(sampled)
    assert home.values() == sampled.values()
    assert home.result["table"] == sampled.result["table"]


def test_log_and_page_say_what_was_read(sampled):
    words = "in brackets the standard error of AUC"
    assert words in (sampled.study / "report.html").read_text(encoding="utf-8")


def test_a_target_counts_only_where_all_rows_were_read(home, monkeypatch):
    monkeypatch.setattr(early, "FEWEST", 2)
    assert (
        home.run("search", *EARLY, "stop.target=0.6") == 0
    )  # any trial has it at its first evaluation
    every = home.events("baseline")[0]["readings"][-1]["rows"]
    reached = [
        e for n in range(len(home.trials)) for e in home.events("measured", n) if e["rows"] == every
    ]
    assert reached
    assert home.result["why"].startswith("stop.target")
