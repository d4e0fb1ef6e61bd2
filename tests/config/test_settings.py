"""What stands beside a field: unsearchable, part of a study, unbounded unless it says otherwise."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import yaml

from embsearch.cli.verbs import VERBS
from embsearch.config.build import build, build_options, to_dict, with_values
from embsearch.config.catalogue import OBJECTIVES
from embsearch.config.launchers import LauncherConfig, LocalConfig, ReplayConfig, SlurmConfig
from embsearch.config.load import compose, compose_options, digest, identity
from embsearch.config.options import EVERY, Options, QueryOptions, TakesModel
from embsearch.config.schema import Config, ObjectiveConfig
from embsearch.config.setting import Room, setting
from embsearch.config.settings import declared, may_change, options, settings
from embsearch.errors import ConfigError

RECORDED = Path(__file__).parent / "recorded"

# These two were written down before fields said so themselves: another set changes what a study is.
SEARCHABLE = """
model.path model.revision model.pooling model.projection model.normalize model.freeze_layers
model.max_length model.dropout model.trust_remote_code model.prompts.query model.prompts.document
objective.name objective.margin objective.temperature objective.symmetric
train.batch_size train.lr train.l2 train.warmup train.warmup_steps train.schedule train.clip_norm train.patience
train.seed train.precision train.chunk_tokens train.cache_gradients
train.augment.drop train.augment.swap train.augment.synonym train.augment.synonyms
"""
ADAPTERS = """
model.adapter model.lora.rank model.lora.alpha model.lora.dropout model.lora.targets
"""
IDENTITY = f"""
data.format data.path data.train data.valid data.test data.columns data.encoding data.on_bad_row
data.positive_grade data.split.by data.split.valid data.split.test data.split.seed
data.derive.per_query data.derive.min_gap data.derive.relevant_alone data.derive.seed
{SEARCHABLE}
train.texts train.devices
evaluate.objective evaluate.at evaluate.draws evaluate.pool evaluate.max_rows evaluate.early_error
space sampler.name sampler.startup_trials sampler.seed
scheduler.name scheduler.reduction scheduler.min_rung scheduler.startup_trials scheduler.threshold
study.name study.task study.defaults study.seeds seed
"""


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict) and value and f"{prefix}{key}" not in settings():
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_what_a_search_may_vary_is_what_it_was():
    known = set(SEARCHABLE.split()) | set(ADAPTERS.split())
    assert {p for p, one in settings().items() if one.setting.searchable} == known


def test_what_makes_a_study_the_same_is_what_it_was():
    assert set(leaves(identity(compose()))) == set(IDENTITY.split())


@pytest.mark.parametrize(
    "words", ["space=lora", "model.adapter=lora", "+space.model.adapter={choices: [none, lora]}"]
)
def test_adapters_make_a_study_what_it_is_where_it_has_some(words):
    assert set(ADAPTERS.split()) <= set(leaves(identity(compose([words]))))


def test_a_field_that_says_nothing_is_neither_searched_nor_left_out_of_a_study():
    @dataclass(frozen=True)
    class Tuned(Room):
        momentum: float = setting(0.9, "of the optimizer")
        plain: int = 3

    for one in declared(Tuned).values():
        assert not one.setting.searchable
        assert one.setting.identity
        assert not one.setting.bounded
        assert one.setting.verbs == ()


def test_nothing_that_a_search_may_vary_may_change_in_a_study():
    changeable = [p for p in SEARCHABLE.split() if p.startswith(may_change())]
    assert changeable == []


@pytest.mark.parametrize(
    ("known", "value", "why"),
    [
        ({"low": 1}, 0, "must be at least 1"),
        ({"low": 0}, -1, "must be 0 or more"),
        ({"low": 0, "zero": "off"}, -1, "must be 0 (off) or more"),
        (
            {"above": 0, "hint": "usual values are 1 to 2"},
            0,
            "must be above 0; usual values are 1 to 2",
        ),
        ({"low": 0, "high": 1}, 1.5, "must be at least 0 and at most 1"),
        ({"low": 0, "below": 0.5}, 0.5, "must be at least 0 and below 0.5"),
        ({"low": 0, "below": 0.5, "fault": "a share"}, float("nan"), "a share"),
        ({"low": 1}, 1, ""),
        ({"low": 1}, None, ""),
    ],
)
def test_a_range_is_told_in_words(known, value, why):
    @dataclass(frozen=True)
    class One(Room):
        field: float = setting(1.0, "a number", **known)

    assert declared(One)["field"].setting.refusal(value) == why


def test_every_fault_of_every_kind_is_told_at_once():
    wrong = {
        "train": {"lr": 0, "augment": {"synonym": 0.5}}, "evaluate": {"at": [0.5]},
        "launcher": {"name": "local", "minutes": 0}, "k": 0, "device": "gpu",
        "data": {"split": {"valid": 0.5, "test": 0.5}},
    }  # fmt: skip
    with pytest.raises(ConfigError) as error:
        build(wrong)
    places = [fault.partition("=")[0].partition(":")[0] for fault in error.value.faults]
    assert places == [
        "data.split.valid", "train.lr", "train.augment.synonyms", "evaluate.at", "device",
        "launcher.minutes", "k",
    ]  # fmt: skip


def test_every_verb_that_a_field_names_is_one():
    named = {verb for one in settings().values() for verb in one.setting.verbs}
    assert named <= {verb.name for verb in VERBS}


def test_every_option_of_a_verb_is_known_by_its_name():
    taken = {name for verb in VERBS for name in declared(verb.options)}
    assert taken == set(options()) == {f.name for cls in EVERY for f in fields(cls)}
    assert not taken & set(declared(Config))


def test_a_config_has_no_settings_of_verbs():
    assert not set(options()) & set(to_dict(compose(["trial=7", "k=3"])))
    assert compose_options(["trial=7", "checkpoint=a"], TakesModel) == TakesModel("a", 7)
    assert compose_options(["k=3", "compare=untuned"], QueryOptions).k == 3
    assert build_options({"trial": 7}, Options) == Options()


def test_a_launcher_has_its_own_settings_and_every_launcher_takes_all_paths():
    typed = ["launcher.partition=gpu", "launcher.noise=0.1", "launcher.workers=2"]
    assert compose(["launcher=local", *typed]).launcher == LocalConfig(workers=2)
    assert compose(["launcher=slurm", *typed]).launcher == SlurmConfig(workers=2, partition="gpu")
    assert compose(["launcher=replay", *typed]).launcher == ReplayConfig(workers=2, noise=0.1)
    assert type(with_values(Config(), {"launcher.name": "slurm"}).launcher) is SlurmConfig


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": "rya"}, "launcher.name='rya': expected one of inline, local, ray, slurm, replay."),
        ({"name": "rya"}, "Did you mean 'ray'?"),
        ({"partitoin": "gpu"}, "launcher.partitoin: no such setting. Did you mean 'launcher.partition'?"),
        ({"name": "local", "minutes": "long"}, "launcher.minutes='long': expected a whole number"),
        ({"name": "local", "minutes": 0}, "launcher.minutes=0: must be at least 1"),
        ({"name": ["local"]}, "launcher.name=['local']: expected a word"),
    ],
)  # fmt: skip
def test_a_mistake_in_any_launchers_settings_is_told(values, says):
    with pytest.raises(ConfigError) as error:
        build({"launcher": values})
    assert says in str(error.value)


def test_every_launcher_says_its_name_and_nothing_twice():
    own = [set(declared(cls)) - set(declared(LauncherConfig)) for cls in _launchers()]
    assert sum(map(len, own)) == len(set.union(*own))
    assert {cls().name for cls in _launchers()} == {"inline", "local", "ray", "slurm", "replay"}


def _launchers():
    return declared(Config)["launcher"].setting.variants


@pytest.mark.parametrize("name", ["slurm", "replay"])
def test_a_config_recorded_with_all_launchers_and_verbs_settings_opens(name):
    recorded = yaml.safe_load((RECORDED / f"{name}.yaml").read_text(encoding="utf-8"))
    config = build(recorded["config"])
    assert config.launcher.name == name
    assert config.train.warmup_steps == 20
    assert json.loads(json.dumps(identity(config))) == recorded["identity"]
    assert digest(config) == recorded["digest"]
    assert build(to_dict(config)) == config


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_the_catalogue_says_an_objective_uses_is_there(name):
    assert set(OBJECTIVES[name].settings) < set(declared(ObjectiveConfig))
    assert build({"objective": {"name": name}}).objective.name == name
