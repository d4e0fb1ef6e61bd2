"""Warm-up as a share, in studies: those that began with steps go on, steps without time are told."""

from __future__ import annotations

import pytest
import yaml

RANGE = "+space.train.warmup_steps={low: 0, high: 100}"


def as_before_the_share(path):
    """Write a config as the version did that knew only steps."""
    content = yaml.safe_load(path.read_text())
    for tree in (content, *(content.get(part, {}) for part in ("config", "identity"))):
        tree.get("train", {}).pop("warmup", None)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def trials(home):
    return [e["params"] for n in range(3) for e in home.events("created", n)], home.values()


def test_a_study_that_began_with_steps_by_default_goes_on_with_them(played, tmp_path):
    home, undisturbed = played, played.at(tmp_path / "undisturbed")
    for count in (1, 2, 3):
        assert undisturbed.run("search", "train.warmup_steps=5", f"stop.trials={count}") == 0
    assert home.run("search", "train.warmup_steps=5", "stop.trials=1") == 0
    locked = home.study / "study.yaml"
    for path in (locked, *home.study.glob("trials/*/config.yaml")):
        as_before_the_share(path)
    identity = yaml.safe_load(locked.read_text())["identity"]

    for count in (2, 3):  # in the second session the locked config is of this version
        assert home.run("search", "train.warmup_steps=null", f"stop.trials={count}") == 0
    assert yaml.safe_load(locked.read_text())["identity"] == identity
    configs = [yaml.safe_load(p.read_text()) for p in home.study.glob("trials/*/config.yaml")]
    assert [config["train"]["warmup_steps"] for config in configs] == [5] * 3
    assert trials(home) == trials(undisturbed)


def test_another_warm_up_than_the_study_began_with_is_drift(played, capsys):
    assert played.run("search", "stop.trials=1") == 0
    assert played.run("search", "stop.trials=2", "train.warmup_steps=null", "train.warmup=0.2") == 2
    assert "train.warmup_steps: 2 -> null" in capsys.readouterr().err
    assert played.run("search", "stop.trials=2", "train.warmup_steps=3") == 2
    assert "train.warmup_steps: 2 -> 3" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["plan", "search"])
def test_steps_that_outlast_the_trial_are_refused_before_anything_starts(played, capsys, verb):
    assert played.run(verb, "train.warmup_steps=5000") == 2
    err = capsys.readouterr().err
    assert "train.warmup_steps=5000: a trial has " in err
    assert not played.study.exists()


def test_a_study_that_began_with_steps_that_outlast_its_trials_goes_on(played):
    assert played.run("search", "stop.trials=1", "train.texts=60000", "train.warmup_steps=100") == 0
    locked = played.study / "study.yaml"
    locked.write_text(locked.read_text().replace("texts: 60000", "texts: 3000"))
    assert played.run("search", "stop.trials=2", "train.warmup_steps=100") == 0


def test_a_search_says_at_its_start_how_many_draws_warm_up_for_too_long(played, capsys):
    assert played.run("search", RANGE, "stop.trials=1") == 0
    out = capsys.readouterr().err
    assert out.count("the warm-up outlasts the first evaluation in ") == 1
    assert out.index("the warm-up outlasts") < out.index("untuned encoder")


@pytest.mark.story
def test_a_plan_says_how_many_draws_warm_up_for_too_long(home, capsys):
    assert home.run("plan", RANGE) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "note the warm-up outlasts the first evaluation in " in out
