"""study.seeds: what goes on from the first rung is run with several seeds, and their means are compared.

Curves that are played have a noise of their own for every seed; one study of two seeds is trained.
"""

from __future__ import annotations

import shutil
import statistics

import pytest

from embsearch.history.log import read_json as read_events

SEEDS = "study.seeds=3"


@pytest.fixture(scope="module")
def repeated(tmp_path_factory, calmly_played):
    home = calmly_played.at(tmp_path_factory.mktemp("seeds") / "home")
    assert home.run("search", SEEDS) == 0
    return home


@pytest.fixture(scope="module")
def trained(tmp_path_factory, calm):
    """The two first trials of the undisturbed study, with two seeds."""
    home = calm.at(tmp_path_factory.mktemp("trained") / "home")
    assert home.run("search", "study.seeds=2", "stop.trials=2") == 0
    return home


@pytest.fixture
def copy(played, repeated):
    shutil.copytree(repeated.folder, played.folder)
    return played


def values(home, trial, rung):
    """What each seed measured there, the trial's own first."""
    events = home.events("measured", trial) + home.events("repeated", trial)
    return [e["metrics"]["val/auc"] for e in events if e["rung"] == rung]


def test_from_the_second_rung_on_a_trial_is_worth_the_mean_of_its_seeds(repeated):
    compared = [e for n in range(6) for e in repeated.events("compared", n)]
    assert any(len(set(e["values"])) > 1 for e in compared), compared  # other seeds, other results
    went_on = [n for n in range(6) if len(repeated.events("measured", n)) > 1]
    assert 0 in went_on
    assert len(went_on) < 6
    for number in range(6):
        assert len(values(repeated, number, 1)) == 1
        compared = repeated.events("compared", number)
        assert [e["rung"] for e in compared] == ([2, 3] if len(repeated.events("measured", number)) == 3 else
                                                 [2] if number in went_on else [])  # fmt: skip
        for event in compared:
            assert event["values"] == values(repeated, number, event["rung"])
            assert event["value"] == pytest.approx(statistics.mean(event["values"]))
        best = max([*values(repeated, number, 1), *(e["value"] for e in compared)])
        assert repeated.events("ended", number)[-1]["objective"] == best


@pytest.mark.story
def test_the_seeds_leave_nothing_when_their_trial_has_ended(trained):
    assert not list(trained.study.glob("trials/*/seed*"))
    assert not list(trained.study.glob("trials/*/checkpoint.safetensors"))


@pytest.mark.story
def test_seeds_train_otherwise_and_the_first_measures_what_it_would_alone(trained, calm):
    assert any(len(set(e["values"])) > 1 for e in trained.events("compared", 0))
    own = {key: metrics for key, metrics in trained.values().items() if key[2] == 0}
    alone = {key: metrics for key, metrics in calm.values().items() if key in own}
    assert len(alone) >= 4  # three evaluations of the default, one of the other
    assert alone == {key: own[key] for key in alone}


def test_the_first_seed_measures_what_it_would_alone(repeated, calmly_played):
    own = {
        key: metrics for key, metrics in repeated.values().items() if key[2] == 0 and key[1] == 1
    }
    first = {key: metrics for key, metrics in calmly_played.values().items() if key[1] == 1}
    same = [n for n in range(6) if repeated.params()[n] == calmly_played.params()[n]]
    assert len(same) >= 2  # what comes later may be suggested from other values
    shared = [key for key in own if int(key[0][1:]) in same]
    assert all(own[key] == first[key] for key in shared)


@pytest.mark.parametrize("last", ["measured", "repeated", "compared"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_log_that_ends_between_two_seeds_is_taken_up_there(copy, repeated, last, which):
    log = copy.study / "trials/t0000/events.jsonl"
    lines, events = log.read_bytes().splitlines(keepends=True), read_events(log)
    at = [n for n, e in enumerate(events) if e["kind"] == last and e["rung"] > 1][which]
    log.write_bytes(b"".join(lines[: at + 1]))
    copy.forget(1)

    assert copy.run("search", SEEDS) == 0

    assert copy.values() == repeated.values()
    assert [e["value"] for e in copy.events("compared", 0)] == [
        e["value"] for e in repeated.events("compared", 0)
    ]
    assert len(copy.events("ended", 0)) == 1
    assert copy.result["best"] == repeated.result["best"]


def test_a_study_may_be_extended_by_more_seeds(copy):
    assert (
        copy.run("search", "study.seeds=2", "stop.trials=7") == 2
    )  # what was measured was measured otherwise
    assert copy.run("search", "study.seeds=2", "stop.trials=7", "study.on_drift=extend") == 0
    assert len(copy.trials) == 7


def test_a_study_of_no_seeds_is_refused(played, capsys):
    assert played.run("search", "study.seeds=0") == 2
    assert "study.seeds=0: must be at least 1" in capsys.readouterr().err
