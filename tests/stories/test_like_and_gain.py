"""study.like: a search begins with what other studies found. stop.gain: it ends when a trial promises too little."""

from __future__ import annotations

import shutil

import pytest

pytestmark = pytest.mark.story
GP = ("sampler=gp", "sampler.startup_trials=0", "stop.trials=9")


def params(home):
    return [home.events("created", number)[0]["params"] for number in range(len(home.trials))]


@pytest.fixture
def other(played):
    """A home with a study that has ended, of the name "other"."""
    assert played.run("search", *GP, "study.name=other", "scheduler=none") == 0
    return played


def test_a_study_keeps_what_it_began_with_when_the_other_study_is_gone(other, tmp_path):
    again = other.at(tmp_path / "again")
    shutil.copytree(other.folder, again.folder)
    for home in (other, again):
        assert home.run("search", *GP, "study.like=[other]", "stop.trials=4") == 0
    (kept,) = other.events("opened")[0]["like"]
    assert kept["name"] == "other"
    assert len(kept["points"]) == len(kept["values"]) == 9

    shutil.rmtree(again.folder / "studies" / "other")
    for home in (other, again):
        assert home.run("search", *GP, "study.like=[other]") == 0
    assert "like" not in again.events("opened")[1]
    assert params(again) == params(other)


def test_another_study_changes_what_is_tried(other, tmp_path):
    assert other.run("search", *GP, "study.like=[other]") == 0
    alone = other.at(tmp_path / "alone")
    assert alone.run("search", *GP) == 0
    assert params(alone) != params(other)


def test_a_study_may_be_named_by_its_folder(other, tmp_path):
    elsewhere = other.at(tmp_path / "elsewhere")
    assert elsewhere.run("search", *GP, f"study.like=[{other.folder}/studies/other]") == 0
    assert len(elsewhere.events("opened")[0]["like"][0]["points"]) == 9


def test_a_study_that_cannot_say_anything_is_refused_before_anything_is_written(other, capsys):
    assert other.run("search", *GP, "study.like=[nobody]") == 2
    assert "study.like: nobody: no such study in" in capsys.readouterr().err
    assert other.run("search", *GP, "study.name=short", "stop.trials=1") == 0
    assert other.run("search", *GP, "study.like=[short]") == 2
    assert "study.like: short: 1 of its trials came to their end" in capsys.readouterr().err
    assert not other.study.exists()


def test_another_choice_of_studies_is_another_study(other, capsys):
    assert other.run("search", *GP, "stop.trials=3") == 0
    assert other.run("search", *GP, "study.like=[other]") == 2
    assert "study.like: " in capsys.readouterr().err


def test_a_search_ends_when_another_trial_promises_too_little_and_says_how_much(played, capsys):
    words = (*GP, "stop.trials=30", "stop.gain=0.003")
    assert played.run("search", *words) == 0
    (closed,) = played.events("closed")
    promised = played.events("enough")[-1]["gain"]
    assert promised < 0.003
    assert closed["why"] == f"stop.gain: another trial promises {promised:.4f}, less than 0.003"
    count = len(played.trials)
    assert 2 <= count < 30

    before = played.all_events()
    assert played.run("search", *words) == 0  # nothing is left to do
    assert played.all_events() == before
    capsys.readouterr()
    assert played.run("search", *GP, "stop.trials=30", "stop.gain=1e-6") == 0  # less is enough
    assert len(played.trials) > count


def test_a_sampler_that_expects_nothing_is_refused(played, capsys):
    assert played.run("search", "sampler=tpe", "stop.gain=0.01") == 2
    assert "stop.gain=0.01: sampler=tpe says nothing of what to expect" in capsys.readouterr().err


def test_a_gain_of_several_values_is_refused(played, capsys):
    assert played.run("search", *GP, "stop.gain=0.01", "evaluate.costs=[size]") == 2
    assert "stop.gain=0.01: is of one value" in capsys.readouterr().err
