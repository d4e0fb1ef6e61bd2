"""The search space: every fault at once, before anything starts; what is suggested lies in it."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embsearch.config.build import with_values
from embsearch.config.load import compose
from embsearch.config.schema import Config, ObjectiveConfig, StudyConfig, TrainConfig
from embsearch.errors import ConfigError
from embsearch.hpo.space import parse

CONFIG = Config(objective=ObjectiveConfig("triplet"), train=TrainConfig(lr=1e-4, warmup_steps=20))
LR = {"low": 1e-5, "high": 1e-3, "log": True}
MIXED = {
    "objective.margin": {
        "low": 0.05,
        "high": 0.5,
        "when": {"objective.name": ["triplet", "contrastive"]},
    },
    "objective.temperature": {
        "low": 0.01,
        "high": 0.1,
        "log": True,
        "when": {"objective.name": "infonce"},
    },
    "train.lr": LR,
    "train.batch_size": {"choices": [64, 16, 32], "ordered": True},
    "train.warmup_steps": {"low": 0, "high": 100, "step": 10},
    "objective.name": {"choices": ["triplet", "contrastive", "infonce"]},
    "model.dropout": {"choices": [None, 0.1]},
    "train.l2": {"low": 0, "high": 0.1},
}
FAULTS = {
    "unknown path": (
        {"train.lrr": LR},
        "space.train.lrr: no such config path. Did you mean 'train.lr'?",
    ),
    "empty range": (
        {"train.lr": {"low": 2e-4, "high": 1e-4}},
        "space.train.lr: the range is empty: low 0.0002",
    ),
    "log from 0": (
        {"train.l2": {"low": 0, "high": 0.1, "log": True}},
        "space.train.l2: a log range starts above 0",
    ),
    "default outside": (
        {"train.lr": {"low": 1e-3, "high": 1e-2}},
        "space.train.lr: the default train.lr=0.0001 is outside 0.001 ... 0.01; widen the space or set train.lr",
    ),
    "default between steps": (
        {"train.warmup_steps": {"low": 0, "high": 99, "step": 3}},
        "the default train.warmup_steps=20 is outside 0 ... 99 in steps of 3",
    ),
    "default no choice": (
        {"train.batch_size": {"choices": [16, 32], "ordered": True}},
        "the default train.batch_size=64 is outside the choices [16, 32]",
    ),
    "default of an active conditional": (
        {
            "objective.name": {"choices": ["triplet", "bce"]},
            "objective.margin": {"low": 0.4, "high": 0.5, "when": {"objective.name": "triplet"}},
        },
        "space.objective.margin: the default objective.margin=0.3 is outside 0.4 ... 0.5",
    ),
    "condition on what is not searched": (
        {
            "objective.margin": {"low": 0.1, "high": 0.5, "when": {"objective.nam": "triplet"}},
            "objective.name": {"choices": ["triplet", "bce"]},
        },
        "space.objective.margin.when.objective.nam: a condition names a searched parameter. "
        "Did you mean 'objective.name'? Searched: objective.margin, objective.name",
    ),
    "condition on a continuous range": (
        {"train.lr": LR, "train.l2": {"low": 0, "high": 0.1, "when": {"train.lr": 1e-4}}},
        "space.train.l2.when.train.lr: a condition needs a parameter with choices",
    ),
    "circle": (
        {
            "train.schedule": {
                "choices": ["linear", "cosine"],
                "when": {"objective.name": "triplet"},
            },
            "objective.name": {"choices": ["triplet", "bce"], "when": {"train.schedule": "linear"}},
        },
        "space: the conditions of train.schedule, objective.name form a circle",
    ),
    "impossible condition": (
        {
            "objective.margin": {"low": 0.1, "high": 0.5, "when": {"objective.name": "triplte"}},
            "objective.name": {"choices": ["triplet", "bce"]},
        },
        "space.objective.margin.when.objective.name='triplte': never true, objective.name is one of "
        "the choices ['triplet', 'bce']",
    ),
    "choice twice": (
        {"train.batch_size": {"choices": [64, 64.0]}},
        "space.train.batch_size.choices=[64, 64.0]: a value",
    ),
    "no choices": ({"train.batch_size": {"choices": []}}, "expected a list of at least one value"),
    "a list as a choice": (
        {"train.batch_size": {"choices": [64, [32]]}},
        "expected numbers, words, true, false or null",
    ),
    "order of words": (
        {"train.schedule": {"choices": ["linear", "cosine"], "ordered": True}},
        "only numbers have an order",
    ),
    "range of words": (
        {"objective.name": {"low": 0, "high": 1}},
        "space.objective.name: not a number, so it needs choices",
    ),
    "ends that are no numbers": (
        {"train.lr": {"low": "small", "high": 1e-3}},
        "expected two numbers, low and high",
    ),
    "one end": ({"train.lr": {"low": 1e-5}}, "expected two numbers, low and high"),
    "infinite": (
        {"train.lr": {"low": 1e-5, "high": float("inf")}},
        "space.train.lr: low and high must be finite",
    ),
    "broken int": (
        {"train.warmup_steps": {"low": 0.5, "high": 100}},
        "a whole number needs whole low and high",
    ),
    "broken step": (
        {"train.warmup_steps": {"low": 0, "high": 100, "step": 2.5}},
        "a whole number needs a whole step",
    ),
    "log and step": ({"train.lr": LR | {"step": 1e-5}}, "log and step exclude each other"),
    "step of 0": ({"train.l2": {"low": 0, "high": 0.1, "step": 0}}, "step must be above 0"),
    "data": (
        {"data.positive_grade": {"low": 1, "high": 2}},
        "space.data.positive_grade: must be equal for all trials",
    ),
    "the budget": (
        {"train.texts": {"low": 100, "high": 40000}},
        "space.train.texts: must be equal for all trials",
    ),
    "unknown key": (
        {"train.lr": LR | {"hihg": 1}},
        "space.train.lr.hihg: no such key. Did you mean 'high'?",
    ),
    "an end the setting refuses": (
        {"train.lr": {"low": 0, "high": 1e-3}},
        "space.train.lr: train.lr=0.0: must be above 0",
    ),
    "an end that only its condition makes wrong": (
        {
            "objective.name": {"choices": ["bce", "triplet"]},
            "objective.margin": {"low": 0.05, "high": 3, "when": {"objective.name": "triplet"}},
        },
        "space.objective.margin: objective.margin=3.0: cosine similarities differ by at most 2",
    ),
    "a choice the setting refuses": (
        {"objective.name": {"choices": ["triplet", "hinge"]}},
        "space.objective.name: objective.name='hinge': expected one of",
    ),
    "a rank without adapters": (
        {"model.lora.rank": {"choices": [4, 8], "ordered": True}},
        "space.model.lora.rank: nothing reads it with model.adapter=none; set model.adapter=lora",
    ),
}


def test_ranks_may_be_searched_with_adapters():
    ranks = {"model.lora.rank": {"choices": [4, 8], "ordered": True}}
    assert parse(ranks, with_values(CONFIG, {"model.adapter": "lora"})).dimensions
    adapters = {"model.adapter": {"choices": ["none", "lora"]}}
    both = adapters | {
        "model.lora.rank": ranks["model.lora.rank"] | {"when": {"model.adapter": "lora"}}
    }
    assert parse(both, CONFIG)["model.lora.rank"].active({"model.adapter": "lora"})


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_named_with_place_value_and_remedy(case):
    raw, says = FAULTS[case]
    with pytest.raises(ConfigError) as raised:
        parse(raw, CONFIG)
    assert says in str(raised.value)


def test_all_faults_are_reported_at_once():
    raw = {
        "train.lrr": LR,
        "train.lr": {"low": 2e-4, "high": 1e-4},
        "train.l2": {"low": 0, "high": 0.1, "log": True},
        "data.positive_grade": {"low": 1, "high": 2},
        "objective.margin": {"low": 0.1, "high": 0.5, "when": {"objective.nam": "bce"}},
        "train.batch_size": {"choices": [64, 64]},
    }
    with pytest.raises(ConfigError) as raised:
        parse(raw, CONFIG)
    assert len(raised.value.faults) == len(raw)


def test_a_point_to_try_first_must_have_a_place_in_the_space():
    points = (
        {"objective.name": "wavy", "train.btach_size": 32},
        {"objective.name": "infonce", "train.lr": 1e-4},
    )
    config = replace(
        CONFIG,
        study=StudyConfig(defaults=points),
        objective=ObjectiveConfig("triplet", temperature=0.5),
    )
    with pytest.raises(ConfigError) as raised:
        parse(MIXED, config)
    assert [fault.split(" Searched")[0] for fault in raised.value.faults] == [
        "study.defaults[0]: train.btach_size is not searched. Did you mean 'train.batch_size'?",
        "study.defaults[0]: objective.name='wavy' is outside the choices ['triplet', 'contrastive', 'infonce']",
    ]


def test_a_point_to_try_first_moves_into_a_space_that_was_narrowed():
    space = parse({**MIXED, "train.lr": {"low": 1e-5, "high": 1e-4, "log": True}}, CONFIG)
    started = space.start(
        {"train.lr": 2e-4, "train.batch_size": 48, "train.warmup_steps": 5000}, CONFIG
    )
    assert (started["train.lr"], started["train.batch_size"]) == (1e-4, 32)
    assert all(space[path].contains(value) for path, value in started.items())


def test_only_active_parameters_are_suggested():
    space, study = parse(MIXED, CONFIG), optuna.create_study()
    for name, active in [("triplet", "objective.margin"), ("infonce", "objective.temperature")]:
        study.enqueue_trial({"objective.name": name})
        params = space.suggest(study.ask())
        assert set(params) & {"objective.margin", "objective.temperature"} == {active}


def test_the_default_point_holds_what_one_would_train_without_a_search():
    assert parse(MIXED, CONFIG).default(CONFIG) == {
        "train.lr": 1e-4, "train.batch_size": 64, "train.warmup_steps": 20, "objective.name": "triplet",
        "model.dropout": None, "train.l2": 0.01, "objective.margin": 0.3,
    }  # fmt: skip


def test_axes_have_short_names_and_a_value_also_where_inactive():
    space = parse(MIXED, CONFIG)
    assert space.axes({"train.lr": 2e-4, "objective.name": "infonce"}, CONFIG) == {
        "lr": 2e-4, "batch_size": 64, "warmup_steps": 20, "objective": "infonce",
        "dropout": None, "l2": 0.01, "margin": 0.3, "temperature": 0.05,
    }  # fmt: skip


def test_names_that_end_alike_stay_whole():
    raw = {"train.seed": {"low": 0, "high": 9}, "train.schedule": {"choices": ["linear", "cosine"]}}
    assert parse(raw, CONFIG).short_names() == ["seed", "schedule"]
    raw = {
        "model.path": {"choices": ["minilm", "x"]},
        "model.pooling": {"choices": ["keep", "max"]},
    }
    assert parse(raw, CONFIG).short_names() == ["model", "pooling"]


@pytest.mark.parametrize(
    ("choices", "name", "asked"),
    [
        ([16, 32, 64, 128], "log2(train.batch_size)", (4, 7)),
        ([128, 64], "log2(train.batch_size)", (6, 7)),
        ([16, 64, 256], "place(train.batch_size)", (0, 2)),
        ([10, 64], "place(train.batch_size)", (0, 1)),
        ([1, 2, 64], "place(train.batch_size)", (0, 2)),
    ],
)
def test_ordered_choices_are_asked_for_by_their_place(choices, name, asked):
    dimension = parse({"train.batch_size": {"choices": choices, "ordered": True}}, CONFIG)[
        "train.batch_size"
    ]
    assert dimension.name == name
    assert (dimension.distribution.low, dimension.distribution.high) == asked
    places = range(asked[0], asked[1] + 1)
    assert [dimension.from_optuna(p) for p in places] == sorted(choices)
    assert [dimension.to_optuna(c) for c in sorted(choices)] == list(places)


def test_a_point_keeps_its_values_through_optuna():
    space, study = parse(MIXED, CONFIG), optuna.create_study()
    point = space.fill(
        {"train.batch_size": 16, "train.lr": 3e-4, "objective.name": "infonce"}, CONFIG
    )
    study.enqueue_trial(space.to_optuna(point))
    assert space.suggest(study.ask()) == point


@given(st.integers(0, 2**32 - 1))
def test_every_suggestion_lies_in_the_space_and_the_config_takes_it(seed):
    space = parse(MIXED, CONFIG)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    params = space.suggest(study.ask())
    config = with_values(CONFIG, params)
    assert 1e-5 <= config.train.lr <= 1e-3
    assert config.train.batch_size in (16, 32, 64)
    assert config.train.warmup_steps in range(0, 101, 10)
    assert ("objective.margin" in params) == (config.objective.name in ("triplet", "contrastive"))


@given(
    st.floats(1e-6, 1.0),
    st.floats(1.0, 1e3),
    st.sampled_from([None, 0.01, 0.3]),
    st.booleans(),
    st.integers(0, 999),
)
def test_any_range_of_numbers_is_kept(low, factor, step, log, seed):
    raw = {
        "train.lr": {"low": low, "high": low * factor, "step": step, "log": log and step is None}
    }
    config = with_values(CONFIG, {"train.lr": low})
    space = parse(raw, config)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    assert low * (1 - 1e-12) <= space.suggest(study.ask())["train.lr"] <= low * factor * (1 + 1e-12)


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        ({}, 1),
        ({"train.lr": {"low": 1e-5, "high": 1e-3}}, float("inf")),
        ({"train.lr": {"low": 2e-4, "high": 2e-4}}, 1),
        ({"train.l2": {"low": 0, "high": 0.1, "step": 0.01}}, 11),
        ({"train.batch_size": {"low": 16, "high": 64, "step": 16}}, 4),
        (
            {
                "model.freeze_layers": {"low": 0, "high": 2},
                "train.schedule": {"choices": ["linear", "cosine"]},
                "train.l2": {"choices": [0.0, 0.1], "when": {"model.freeze_layers": [1, 2]}},
            },
            2 * (1 + 2 + 2),
        ),
        (
            {
                "objective.name": {"choices": ["infonce", "triplet"]},
                "objective.margin": {"low": 0.1, "high": 0.5, "when": {"objective.name": "triplet"}},
            },
            float("inf"),
        ),
    ],
)  # fmt: skip
def test_the_size_of_a_space_counts_points_under_their_conditions(raw, size):
    config = Config(train=replace(Config().train, l2=0.0))
    assert parse(raw, config).size() == size


def test_a_condition_on_what_is_not_searched_is_asked_once():
    margin = {"low": 0.1, "high": 0.5, "when": {"objective.name": ["triplet"]}}
    heat = {
        "low": 0.02,
        "high": 0.2,
        "when": {"objective.name": ["infonce"], "train.schedule": ["linear"]},
    }
    schedule = {"choices": ["linear", "cosine"]}
    raw = {"objective.margin": margin, "objective.temperature": heat, "train.schedule": schedule}
    space = parse(raw, compose(["space=none", "objective=infonce"]))
    found = {dimension.path: set(dimension.when) for dimension in space.dimensions}
    assert found == {"train.schedule": set(), "objective.temperature": {"train.schedule"}}
    space = parse(raw, compose(["space=none", "objective=triplet"]))
    assert {dimension.path for dimension in space.dimensions} == {
        "objective.margin",
        "train.schedule",
    }
