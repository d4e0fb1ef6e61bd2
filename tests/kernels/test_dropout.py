"""Masks drawn by bytes against their probability, and the bytes themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from embsearch.kernels import dropout as byte_dropout


@pytest.mark.parametrize("count", [9 * 2**13 - 1, 2**20 + 5])
def test_bytes_are_uniform_and_depend_on_nothing_but_the_random_state(count):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = byte_dropout.random_bytes(count)
    assert first.dtype == torch.uint8
    assert len(first) == count
    after = torch.get_rng_state()
    assert not torch.equal(byte_dropout.random_bytes(count), first)
    torch.set_rng_state(state)
    assert torch.equal(byte_dropout.random_bytes(count), first)
    assert torch.equal(torch.get_rng_state(), after)
    source = torch.Generator().set_state(state)
    assert torch.equal(byte_dropout.random_bytes(count, source), first)
    assert torch.equal(torch.get_rng_state(), after)
    chi2 = ((torch.bincount(first.int(), minlength=256) - count / 256) ** 2).sum().item() / (
        count / 256
    )
    assert abs(chi2 - 255) < 5 * math.sqrt(
        2 * 255
    )  # of 255 degrees of freedom, five standard deviations


def test_a_long_draw_repeats_nothing():
    torch.manual_seed(0)
    found = byte_dropout.random_bytes(2**20 + 5)
    for shift in (1, 8, 16, 2**17):  # a byte, a number of torch's, ...
        share = (found[shift:] == found[:-shift]).float().mean().item()
        assert share == pytest.approx(1 / 256, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_dropped_has_a_minus_and_neither_is_used_nor_lets_a_gradient_through(dtype):
    torch.manual_seed(0)
    weights, by = torch.rand(4, 64, 64).to(dtype), byte_dropout.random_bytes(4 * 64 * 64)
    marked, kept = weights.clone(), by.view(weights.shape) >= byte_dropout.threshold(0.1)
    left = byte_dropout.drop(marked, by, 0.1, torch.empty_like(weights))
    assert 0.85 < kept.float().mean() < 0.95
    assert torch.equal(left, weights * kept)
    assert torch.equal(marked.abs(), weights)
    assert torch.equal(torch.signbit(marked), ~kept)
    assert torch.equal(byte_dropout.surviving(marked), left)
    gradient = torch.randn_like(weights)
    expected = gradient * (kept & (weights > 0))
    assert torch.equal(byte_dropout.mask_gradient(gradient, marked), expected)


def test_a_weight_that_is_no_number_is_not_hidden():
    weights = torch.tensor([torch.nan, -torch.nan, 1.0, 1.0], dtype=torch.bfloat16)
    by = torch.tensor([255, 255, 255, 0], dtype=torch.uint8)
    left = byte_dropout.drop(weights, by, 0.1, torch.empty_like(weights))
    assert left.isnan().tolist() == [True, True, False, False]
    assert left[2:].tolist() == [1, 0]


@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5])
def test_a_mask_drops_its_share_and_scales_by_what_it_keeps(probability):
    torch.manual_seed(0)
    made = byte_dropout.mask(torch.empty(1_000_003), probability)
    share = byte_dropout.threshold(probability) / 256
    assert abs(share - probability) <= 1 / 512
    assert (made == 0).float().mean().item() == pytest.approx(share, abs=4 * (share / 1e6) ** 0.5)
    assert made.max().item() == pytest.approx(1 / (1 - share))
    assert made.mean().item() == pytest.approx(1, abs=0.005)
    near = torch.corrcoef(torch.stack([made[:-1], made[1:]]))[
        0, 1
    ]  # bytes of one number are independent too
    assert abs(near) < 0.005


def test_the_same_random_state_draws_the_same_and_evaluation_draws_nothing():
    module, x = byte_dropout.ByteDropout(0.1), torch.ones(64, 64)
    torch.manual_seed(1)
    first = module(x)
    torch.manual_seed(1)
    assert torch.equal(module(x), first)
    state = torch.get_rng_state()
    assert module.eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_every_dropout_of_a_model_is_replaced_in_its_own_mode():
    model = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))).eval()
    byte_dropout.use_byte_dropout(model)
    assert [(type(m), m.p, m.training) for m in (model[0], model[1][1])] == [
        (byte_dropout.ByteDropout, 0.2, False), (byte_dropout.ByteDropout, 0.1, False)
    ]  # fmt: skip
