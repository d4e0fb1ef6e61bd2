"""What decays and what does not, and the learning rate of every step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embsearch.config.schema import ModelConfig, TrainConfig
from embsearch.data.dataset import Triplets, steps_of, stops_of
from embsearch.model import pretrained
from embsearch.model.encoder import Encoder
from embsearch.train.optimizer import adamw, learning_rate, warmup_steps


def rates(steps, **train):
    config = TrainConfig(lr=1.0, **train)
    warmup = warmup_steps(config, steps, steps)
    return [round(learning_rate(step, steps, warmup, config), 4) for step in range(steps)]


def test_only_matrices_decay(tiny_bert):
    encoder = Encoder(pretrained.build(ModelConfig(str(tiny_bert), projection=8)))
    names = {id(p): n for n, p in encoder.named_parameters()}

    decayed, plain = adamw(encoder, TrainConfig(l2=0.1)).param_groups

    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert {names[id(p)].split(".")[-1] for p in decayed["params"]} == {"weight"}
    assert all(p.ndim == 2 and "embeddings" not in names[id(p)] for p in decayed["params"])
    assert {n for p in plain["params"] if not (n := names[id(p)]).endswith("bias")} == {
        n
        for n in names.values()
        if ("embeddings" in n or "LayerNorm" in n) and n.endswith("weight")
    }
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_a_token_that_does_not_occur_keeps_its_row(tiny_bert):
    encoder = Encoder(pretrained.build(ModelConfig(str(tiny_bert))))
    before = encoder.table.weight.detach().clone()
    optimizer = adamw(encoder, TrainConfig(l2=0.5, lr=0.1))

    encoder(torch.tensor([[2, 7, 3]]), torch.ones(1, 3, dtype=torch.long))[:, 0].sum().backward()
    optimizer.step()

    assert (encoder.table.weight != before).any(1).nonzero().flatten().tolist() == [2, 3, 7]


def test_frozen_parameters_are_not_the_optimizers(tiny_bert):
    encoder = Encoder(pretrained.build(ModelConfig(str(tiny_bert), freeze_layers=1)))

    groups = adamw(encoder, TrainConfig()).param_groups

    assert all(p.requires_grad for group in groups for p in group["params"])


def test_the_rate_rises_to_its_height_and_falls_to_nothing():
    assert rates(6, warmup_steps=2) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]


def test_the_cosine_falls_slowly_then_fast_then_slowly():
    assert rates(4, warmup_steps=0, schedule="cosine") == [1.0, 0.8536, 0.5, 0.1464]


def test_the_constant_rate_stays():
    assert rates(4, warmup_steps=2, schedule="constant") == [0.5, 1.0, 1.0, 1.0]


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert rates(2, warmup_steps=0) == [1.0, 0.5]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_warm_up_longer_than_the_budget_never_reaches_the_height(schedule):
    assert rates(4, warmup_steps=8, schedule=schedule) == [0.125, 0.25, 0.375, 0.5]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_is_never_negative_past_the_budget(schedule):
    assert learning_rate(40, 10, 10, TrainConfig(schedule=schedule)) == 0


@pytest.mark.parametrize(
    ("batch", "first", "warmup"),
    [(16, 0.1, 40), (64, 0.1, 10), (128, 0.1, 5), (128, 0.33, 10), (64, 0.037, 4), (64, 1.0, 20)],
)
def test_a_share_of_the_steps_ends_by_the_first_evaluation(batch, first, warmup):
    rows = Triplets(*(np.arange(6400, dtype=np.int32) for _ in range(3)), np.ones(6400, np.float32))
    steps = steps_of(19_200, rows, batch)
    config = TrainConfig(warmup=0.2)

    assert warmup_steps(config, steps, stops_of(steps, [first])[0]) == warmup


@pytest.mark.parametrize(
    ("share", "steps", "warmup"), [(0.29, 100, 29), (0.1, 49, 4), (0.1, 9, 0), (0.0, 100, 0)]
)
def test_a_share_is_whole_steps_rounded_down(share, steps, warmup):
    assert warmup_steps(TrainConfig(warmup=share), steps, steps) == warmup


def test_steps_that_are_given_override_the_share_and_outlast_the_first_evaluation():
    assert warmup_steps(TrainConfig(warmup=0.1, warmup_steps=50), 100, 10) == 50
    assert warmup_steps(TrainConfig(warmup=0.1, warmup_steps=0), 100, 10) == 0
