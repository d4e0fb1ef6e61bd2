"""The mean of the models of the best configuration's runs is a candidate like a trial."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from embsearch.track.digest import digest, manifest

pytestmark = pytest.mark.story
AGAIN = ("confirm.top_k=2", "confirm.seeds=2", "confirm.share=null")


@pytest.fixture(scope="module")
def souped(tmp_path_factory, calm):
    """A study with a soup."""
    home = calm.at(tmp_path_factory.mktemp("souped") / "home")
    assert home.run("search", *AGAIN) == 0
    return home


def model_of(home, trial, run=0):
    """The weights of a trial's run."""
    folder = home.study / f"trials/t{trial:04d}"
    return load_file((folder / f"seed{run}" if run else folder) / "model" / "model.safetensors")


def test_its_weights_are_the_mean_of_the_runs(souped):
    (created,) = souped.events("created", 6)
    members = [model_of(souped, *member) for member in created["members"]]
    assert len(members) == 3
    mine = model_of(souped, 6)
    for name, tensor in mine.items():
        assert torch.equal(tensor, torch.stack([one[name] for one in members]).mean(0))
    assert any(not torch.equal(mine[name], members[0][name]) for name in mine)


def test_it_is_a_row_of_the_table_and_counts_as_no_trial_of_the_search(souped):
    best = souped.result["table"][-1]
    winner = souped.events("created", 6)[0]["members"][0][0]
    assert (best["label"], best["trial"]) == ("best trial", 6)
    assert best["soup"] == f"mean of 3 runs of trial {winner}"
    (measured,) = souped.events("measured", 6)
    assert best["validation"] == measured["metrics"]["val/auc"]
    assert sum(souped.result["counts"].values()) == 6
    labels = [row["label"] for row in souped.result["table"]]
    assert labels == ["untuned encoder", "default configuration", "best trial"]


def test_a_study_that_goes_on_makes_a_soup_of_more_runs_too(home, souped):
    shutil.copytree(souped.folder, home.folder)
    assert home.run("search", *AGAIN, "stop.trials=8", "confirm.seeds=3") == 0
    created = [home.events("created", number)[0] for number in range(len(home.trials))]
    assert sum(not event.get("members") for event in created) == 8
    assert len(created[-1]["members"]) == 4
    assert home.events("ended", len(created) - 1)[0]["state"] == "complete"
    assert home.result["best"] == home.result["table"][-1]["trial"]


def test_killed_before_it_was_measured_the_same_soup_is_made_again(home, souped):
    shutil.copytree(souped.folder, home.folder)
    home.forget(6, "measured", "ended", "segment")
    shutil.rmtree(home.study / "trials/t0006/model")
    (home.study / "trials/t0006/.model.soup").mkdir()  # half written
    assert home.run("search", *AGAIN) == 0
    assert home.values() == souped.values()
    assert home.result["table"] == souped.result["table"]
    mine, theirs = (one.study / "trials/t0006/model" for one in (home, souped))
    assert digest(manifest(mine)) == digest(manifest(theirs))


def test_where_a_member_is_gone_the_study_says_so_and_goes_on_without(home, souped, capsys):
    shutil.copytree(souped.folder, home.folder)
    home.forget(6, "measured", "ended", "segment", "created")
    winner = souped.events("created", 6)[0]["members"][0][0]
    shutil.rmtree(home.study / f"trials/t{winner:04d}/seed2")
    assert home.run("search", *AGAIN) == 2
    assert "go on without soups: confirm.soup=false" in capsys.readouterr().err
    assert home.run("search", *AGAIN, "confirm.soup=false") == 0
    assert home.result["best"] == home.result["table"][-1]["trial"]


def test_without_soups_everything_is_as_before(home, capsys):
    assert home.run("search", *AGAIN, "confirm.soup=false") == 0
    assert len(home.trials) == 6
    assert not list(home.study.glob("trials/*/seed*"))
    assert "mean of" not in capsys.readouterr().out


def test_it_is_promoted_evaluated_and_reported_as_any_trial(souped, capsys):
    assert souped.run("promote", "promote.dry_run=true", "track=mlflow") == 0
    out = capsys.readouterr().out
    assert out.startswith("trial 6: test AUC")
    assert souped.run("report") == 0
    assert souped.run("status") == 0


def test_it_is_reproduced_to_the_bit(souped, capsys):
    assert souped.run("reproduce", "trial=6") == 0
    assert "identical: 1 of 1 evaluations, weights sha256" in capsys.readouterr().out
