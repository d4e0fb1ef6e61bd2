"""The settings of encoders that a space may give a trial, each tried before the first trial begins."""

from __future__ import annotations

from embsearch.config.build import build
from embsearch.hpo.encoders import others, untuned
from embsearch.hpo.space import parse


def tried(space, **model):
    """The settings of ``untuned`` and of the others, where they differ from the config's."""
    config = build({"model": {"path": "one", **model}, "space": space})
    parsed = parse(config.space, config)
    every = [untuned(parsed, config), *others(parsed, config)]
    return [
        {k: v for k, v in vars(one.model).items() if v != vars(config.model)[k]} for one in every
    ]


def test_the_most_frozen_layers_stand_for_fewer():
    assert tried({"model.freeze_layers": {"low": 0, "high": 3}}) == [{"freeze_layers": 3}]
    assert tried({"train.lr": {"low": 1e-5, "high": 1e-3}}) == [{}]


def test_every_value_of_each_setting_is_tried_for_every_encoder():
    space = {
        "model.path": {"choices": ["two", "one"]},
        "model.max_length": {"choices": [64, 8], "ordered": True},
        "model.freeze_layers": {"low": 0, "high": 1},
    }
    assert tried(space, max_length=8) == [
        {"freeze_layers": 1},
        {"freeze_layers": 1, "max_length": 64},
        {"freeze_layers": 1, "path": "two"},
        {"freeze_layers": 1, "path": "two", "max_length": 64},
    ]


def test_what_one_encoder_alone_may_have_is_not_asked_of_another():
    space = {
        "model.path": {"choices": ["one", "two"]},
        "objective.name": {"choices": ["infonce", "triplet"]},
        "model.dropout": {"choices": [None, 0.1], "when": {"model.path": "two"}},
        "model.pooling": {"choices": ["keep", "cls"], "when": {"objective.name": "triplet"}},
    }
    assert tried(space) == [
        {},
        {"pooling": "cls"},
        {"path": "two"},
        {"path": "two", "dropout": 0.1, "pooling": "cls"},
    ]
