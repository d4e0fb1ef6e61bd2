"""What the data decide of a study's config, and what they leave alone."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from embsearch.config.schema import (
    Config,
    DataConfig,
    EvaluateConfig,
    ObjectiveConfig,
    StudyConfig,
)
from embsearch.errors import ConfigError
from embsearch.history.folder import StudyFolder
from embsearch.study.fit_to_data import fit_to_data
from tests.helpers import append

SPACE = {
    "train.lr": {"low": 1e-5, "high": 1e-3},
    "objective.name": {"choices": ["triplet", "infonce", "bce"]},
    "objective.margin": {"low": 0.1, "high": 0.5, "when": {"objective.name": ["triplet"]}},
    "objective.temperature": {
        "low": 0.01,
        "high": 0.1,
        "when": {"objective.name": ["bce", "infonce"]},
    },
}
FITTED = {
    "train.lr": SPACE["train.lr"],
    "objective.name": {"choices": ["infonce"]},
    "objective.temperature": {
        "low": 0.01,
        "high": 0.1,
        "when": {"objective.name": ["infonce"]},
    },
}


@pytest.fixture
def config(tmp_path):
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        rows = [(f"q{n}", f"t{n}") for n in range(40)]
        csv.writer(file).writerows([("query", "positive"), *rows])
    data = DataConfig(path=str(tmp_path / "pairs.csv"))
    return Config(data=data, home=str(tmp_path / "home"), space=SPACE, study=StudyConfig(name="s"))


def test_pairs_are_judged_by_the_pool_and_searched_without_losses_that_need_negatives(config):
    fitted, notes = fit_to_data(config)
    assert fitted.evaluate.objective == "pool_ndcg_10"
    assert fitted.objective.name == "infonce"
    assert fitted.space == FITTED
    assert [note.split(" ")[0] for note in notes] == ["sampled", "trials", "searched"]
    assert notes[-1].startswith("searched without objective.name=triplet and bce:")
    assert fit_to_data(fitted)[0] == fitted


def test_what_was_asked_for_stays(config):
    asked = replace(config, evaluate=EvaluateConfig(objective="auc"), space={})
    asked = replace(asked, objective=ObjectiveConfig("infonce"))
    assert fit_to_data(asked) == (asked, [])


def test_rows_with_negatives_leave_all_as_it_was(config, judgements_csv):
    given = replace(config, data=DataConfig(path=str(judgements_csv)))
    fitted, notes = fit_to_data(given)
    assert (fitted.evaluate.objective, fitted.space, notes) == ("auc", SPACE, [])


def test_a_study_that_has_begun_keeps_what_it_began_with_also_without_its_data(config, tmp_path):
    fitted, _ = fit_to_data(config)
    folder = StudyFolder(fitted)
    folder.path.mkdir(parents=True)
    folder.lock_config()
    append(folder.log, "baseline", metrics={"auc": 0.5, "pool_ndcg_10": 0.1})
    (tmp_path / "pairs.csv").unlink()
    again, notes = fit_to_data(config)
    assert (again, notes) == (fitted, [])
    assert StudyFolder(config).state().objective == "pool_ndcg_10"
    assert not StudyFolder(again).drift()


@pytest.fixture
def scored(config, tmp_path):
    """The config of a file as STS has it."""
    lines = [f"sentence {n}\tother {n}\t{n % 11 / 2}" for n in range(60)]
    path = tmp_path / "sts.tsv"
    path.write_text("\n".join(["sentence1\tsentence2\tscore", *lines]))
    return replace(config, data=DataConfig(path=str(path)))


def test_scored_pairs_have_their_format_metric_and_losses(scored):
    fitted, notes = fit_to_data(scored)
    assert fitted.data.format == "scored"
    assert (fitted.evaluate.objective, fitted.objective.name) == ("spearman", "cosent")
    assert fitted.space == {
        "train.lr": SPACE["train.lr"],
        "objective.name": {"choices": ["cosent", "angle"]},
        "objective.temperature": {
            "low": 0.01,
            "high": 0.1,
            "when": {"objective.name": ["cosent", "angle"]},
        },
    }
    assert notes == [
        "data.format=scored, by the columns and rows (data.format=judgements if they are these)",
        "trials are chosen by Spearman",
        "searched over objective.name=cosent and angle in place of triplet and infonce and bce: the rows are pairs "
        "with scores",
        "objective.name=cosent: usual for such rows",
    ]
    assert fit_to_data(fitted)[0] == fitted


def test_what_is_decided_is_read_once(scored, monkeypatch):
    fitted, _ = fit_to_data(scored)
    monkeypatch.setattr("embsearch.data.load.build_dataset", None)
    assert fit_to_data(scored)[0] == fitted


def test_a_loss_that_was_named_and_cannot_learn_is_refused(scored):
    for name in ("infonce", "triplet"):
        with pytest.raises(ConfigError, match=f"name={name}: takes every pair for a good one"):
            fit_to_data(replace(scored, objective=ObjectiveConfig(name)))
    with pytest.raises(ConfigError, match=r"evaluate\.objective=ndcg_10: no such metric"):
        fit_to_data(replace(scored, evaluate=EvaluateConfig(objective="ndcg_10")))


def test_losses_of_scores_are_left_out_of_a_search_on_judgements(config, judgements_csv):
    space = {"objective.name": {"choices": ["cosent", "triplet"]}}
    given = replace(config, data=DataConfig(path=str(judgements_csv)), space=space)
    fitted, notes = fit_to_data(given)
    assert fitted.space == {"objective.name": {"choices": ["triplet"]}}
    assert fitted.objective.name == "triplet"
    assert notes[0] == "searched without objective.name=cosent: the rows have no scores"


def test_a_begun_study_of_scores_keeps_them_also_without_its_data(scored, tmp_path):
    fitted, _ = fit_to_data(scored)
    folder = StudyFolder(fitted)
    folder.path.mkdir(parents=True)
    folder.lock_config()
    append(folder.log, "baseline", metrics={"spearman": 0.5})
    (tmp_path / "sts.tsv").unlink()
    assert fit_to_data(scored) == (fitted, [])


def test_classes_have_their_format_metric_and_losses(config, tmp_path):
    lines = [f"text {n} of {n % 3},topic {n % 3}" for n in range(60)]
    (tmp_path / "topics.csv").write_text("\n".join(["text,label", *lines]))
    given = replace(config, data=DataConfig(path=str(tmp_path / "topics.csv")))
    fitted, notes = fit_to_data(given)
    assert fitted.data.format == "classes"
    assert (fitted.evaluate.objective, fitted.objective.name) == ("accuracy", "infonce")
    assert fitted.space == FITTED
    assert notes == [
        "data.format=classes, by the columns",
        "trials are chosen by accuracy",
        "searched without objective.name=triplet and bce: no training row has a negative",
    ]
    asked = replace(given, space={}, objective=ObjectiveConfig("supcon"))
    assert fit_to_data(asked)[0].objective.name == "supcon"
