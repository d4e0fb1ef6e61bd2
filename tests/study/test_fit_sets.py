"""What the rows of several sets decide, and which settings of losses stay in the space."""

from __future__ import annotations

import pytest

from embsearch.config.schema import (
    Config,
    DataConfig,
    EvaluateConfig,
    SetConfig,
    SetObjectiveConfig,
)
from embsearch.study.fit_sets import space_of_sets
from embsearch.study.fit_to_data import fit_to_data

LOSSES = {"choices": ["infonce", "triplet"]}
HEAT = {"low": 0.01, "high": 0.1, "when": {"objective.name": ["infonce"]}}
GAP = {"low": 0.1, "high": 0.5, "when": {"objective.name": ["triplet"]}}
SPACE = {
    "train.lr": {"low": 1e-5, "high": 1e-3},
    "objective.name": LOSSES,
    "objective.temperature": HEAT,
    "objective.margin": GAP,
}


def study(*losses, space=SPACE):
    sets = {
        f"s{n}": SetConfig(path=f"{n}.csv", objective=SetObjectiveConfig(**one))
        for n, one in enumerate(losses)
    }
    return Config(data=DataConfig(sets=sets), space=space)


@pytest.mark.parametrize(
    ("losses", "kept"),
    [
        ([{}, {}], SPACE),
        # one reads the temperature whatever loss the other has
        (
            [{"name": "supcon"}, {}],
            {**SPACE, "objective.temperature": {"low": 0.01, "high": 0.1, "when": {}}},
        ),
        # each has its own loss, and the first the study's temperature
        (
            [{"name": "supcon"}, {"name": "infonce", "temperature": 0.1}],
            {
                "train.lr": SPACE["train.lr"],
                "objective.temperature": {"low": 0.01, "high": 0.1, "when": {}},
            },
        ),
        ([{"name": "cosine_mse"}], {"train.lr": SPACE["train.lr"]}),
        ([{"temperature": 0.1}], {k: v for k, v in SPACE.items() if k != "objective.temperature"}),
    ],
)
def test_a_setting_of_losses_is_searched_as_far_as_a_set_reads_it(losses, kept):
    assert space_of_sets(study(*losses)) == kept


def test_each_set_gets_the_format_metric_and_loss_of_its_rows(tmp_path):
    words = [f"{a}{b}" for a in "abcdef" for b in "uvwxyz"]
    scored = [f"{w} one,{w} two,{n % 5 / 4}" for n, w in enumerate(words)]
    pairs = [f"{w},red {w}" for w in words]
    (tmp_path / "sts.csv").write_text("\n".join(["sentence1,sentence2,score", *scored]))
    (tmp_path / "pairs.csv").write_text("\n".join(["query,positive", *pairs]))
    sets = {name: SetConfig(path=str(tmp_path / f"{name}.csv")) for name in ("sts", "pairs")}
    asked = Config(data=DataConfig(sets=sets), space=SPACE, home=str(tmp_path / "home"))
    config, notes = fit_to_data(asked)
    sts, pairs_ = config.data.sets["sts"], config.data.sets["pairs"]
    assert (sts.format, sts.metric, sts.objective.name) == ("scored", "spearman", "cosent")
    assert (pairs_.metric, pairs_.objective.name) == ("pool_ndcg_10", "infonce")
    assert config.evaluate.objective == "mean"
    assert "objective.name" not in config.space
    assert config.space["objective.temperature"]["when"] == {}
    said = "\n".join(notes)
    assert "data.sets.sts.format=scored, by the columns" in said
    assert "data.sets.sts.objective.name=cosent: usual for its rows" in said
    assert "the mean of Spearman (sts) and pool nDCG@10 (pairs)" in said
    assert "searched without objective.name, objective.margin" in said
    assert fit_to_data(config)[0] == config


def test_an_objective_of_one_set_is_kept():
    config = Config(
        data=DataConfig(sets={"a": SetConfig(path="a.csv")}),
        evaluate=EvaluateConfig(objective="a/ndcg_10"),
    )
    from embsearch.tasks.catalogue import task_of

    assert task_of(config).primary.name == "mean"
