"""Settings of several sets of data by their names: typed, written, composed, and in a space."""

from __future__ import annotations

import re

import pytest
import yaml

from embsearch.config.build import build, to_dict, value_at, with_values
from embsearch.config.load import compose, diff, identity
from embsearch.config.schema import Config
from embsearch.config.sets import in_set, of_set
from embsearch.errors import ConfigError
from embsearch.hpo.space import parse

TWO = [
    "data.sets.products.path=a.csv",
    "data.sets.products.share=2",
    "data.sets.products.prompts.query='product: '",
    "data.sets.questions.path=b.csv",
    "data.sets.questions.objective.temperature=0.03",
]


def test_settings_of_a_set_are_typed_and_written_as_any_other():
    config = compose(TWO)
    assert config.data.sets["products"].share == 2.0
    assert build(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config
    assert config.data.named == ["a.csv", "b.csv"]
    assert config.encoder.prompts == config.model.prompts
    assert config.encoder.set_prompts["products_query"] == "product: "
    assert config.encoder.set_prompts["questions_query"] is None


def test_a_set_says_of_loss_and_prompts_what_differs_from_the_study():
    config = with_values(compose(TWO), {"objective.temperature": 0.2, "model.prompts.query": "q: "})
    products, questions = (of_set(config, name) for name in config.data.sets)
    assert products.objective.temperature == 0.2
    assert questions.objective.temperature == 0.03
    assert (products.model.prompts.query, questions.model.prompts.query) == ("product: ", "q: ")
    assert products.data.path == "a.csv"
    assert not products.data.sets


def test_a_share_may_be_searched_and_reaches_the_trials_config():
    config = compose([*TWO, "+space.data.sets.products.share={low: 0.2, high: 5, log: true}"])
    space = parse(config.space, config)
    assert space.default(config)["data.sets.products.share"] == 2.0
    assert "share" in space.short_names()
    trial = with_values(config, {"data.sets.products.share": 0.4})
    assert value_at(trial, "data.sets.products.share") == 0.4
    assert trial.data.sets["questions"] == config.data.sets["questions"]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["data.sets.products.shre=2"], "data.sets.products.shre: no such setting. Did you mean "),
        (["data.sets.prodcts.share=2"], "names no file; give data.sets.prodcts.path=... Did you mean 'products'"),
        (["data.path=x.csv"], "data.path: says nothing beside data.sets"),
        (["data.sets.products.share=0"], "data.sets.products.share=0.0: must be above 0"),
        (["data.sets.products.split.valid=0"], "data.sets.products.split.valid=0.0"),
        (["data.sets.products.objective.name=infonc"], "Did you mean 'infonce'"),
    ],
)  # fmt: skip
def test_a_wrong_setting_of_a_set_is_refused_at_its_path(words, fault):
    with pytest.raises(ConfigError, match=re.escape(fault)):
        compose([*TWO, *words])


def test_a_name_that_no_path_can_hold_is_refused():
    with pytest.raises(ConfigError, match=r"data\.sets\.a b: a name has letters, digits"):
        build({"data": {"sets": {"a b": {"path": "x"}}}})


def test_a_space_that_names_no_set_is_refused_with_the_nearest_one():
    config = compose(TWO)
    with pytest.raises(ConfigError, match=r"Did you mean 'data\.sets\.products\.share'"):
        parse({"data.sets.product.share": {"low": 1, "high": 2}}, config)
    with pytest.raises(ConfigError, match="must be equal for all trials"):
        parse({"data.sets.products.weight": {"low": 1, "high": 2}}, config)


def test_a_study_without_sets_has_the_identity_that_it_had():
    assert "sets" not in identity(Config())["data"]
    config = Config()
    assert config.encoder is config.model


def test_another_share_is_another_study():
    one, other = compose(TWO), compose([*TWO[:1], "data.sets.products.share=3", *TWO[2:]])
    assert diff(identity(one), identity(other)) == ["data.sets.products.share: 2.0 -> 3.0"]


def test_faults_are_renamed_where_they_name_settings_alone():
    fault = "data.path=data.csv: no such file; set data.columns.anchor or data.split.by"
    assert in_set(fault, "a") == (
        "data.sets.a.path=data.csv: no such file; set data.sets.a.columns.anchor or data.sets.a.split.by"
    )
