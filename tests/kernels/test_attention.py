"""Hand-written attention against autograd's."""

from __future__ import annotations

import pytest
import torch

from embsearch.kernels import attention
from embsearch.kernels.attention import Attention, inverse, order

RUNS = ((2, 5), (1, 4), (3, 1))  # (texts, tokens): 17 tokens
HEADS, WIDTH = 3, 4


def apply(query, key, value, dropout=0.0, causal=False):
    there = order(RUNS, HEADS)
    return Attention.apply(query, key, value, RUNS, (there, inverse(there)), 0.5, dropout, causal)


def plain(query, key, value, causal=False):
    """Text by text, through autograd."""
    start, parts = 0, []
    for count, length in RUNS:
        for _ in range(count):
            q, k, v = (t[start : start + length].transpose(0, 1) for t in (query, key, value))
            scores = 0.5 * q @ k.transpose(1, 2)
            if causal:
                scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            parts.append((scores.softmax(-1) @ v).transpose(0, 1))
            start += length
    return torch.cat(parts)


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(17, HEADS, WIDTH, dtype=torch.float64, generator=generator).requires_grad_()
        for _ in range(3)
    ]


@pytest.mark.parametrize("causal", [False, True])
def test_values_and_gradients_are_those_of_autograd(rows, causal):
    weight = torch.randn(17, HEADS, WIDTH, dtype=torch.float64)
    found, expected = apply(*rows, causal=causal), plain(*rows, causal=causal)
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad((found * weight).sum(), rows)
    for gradient, other in zip(
        gradients, torch.autograd.grad((expected * weight).sum(), rows), strict=True
    ):
        torch.testing.assert_close(gradient, other)


@pytest.fixture
def in_pieces(monkeypatch):
    assert attention.cut(RUNS, HEADS) == RUNS
    monkeypatch.setattr(attention, "PIECE", 2 * HEADS)
    assert attention.cut(RUNS, HEADS) == ((1, 5), (1, 5), (1, 4), (2, 1), (1, 1))


def test_in_pieces_values_and_gradients_are_the_same(rows, in_pieces):
    test_values_and_gradients_are_those_of_autograd(rows, causal=False)
    test_with_dropout_the_gradient_is_that_of_the_same_draw(rows)


@pytest.mark.parametrize(
    "length", [attention.EXACT[0] - 1, attention.EXACT[0], attention.EXACT[-1] + 1]
)
def test_in_bf16_the_softmax_of_short_rows_is_as_near_to_the_exact_one(length):
    torch.manual_seed(0)
    scores, gradient = torch.randn(2, 6, length, length)
    weight = scores.softmax(-1)
    expected = torch._softmax_backward_data(gradient, weight, -1, torch.float32)
    found = attention._softmax(scores.bfloat16(), None)
    torch.testing.assert_close(found.float(), weight, atol=0, rtol=0.02)
    back = attention._softmax_back(gradient.bfloat16(), found)
    assert found.dtype == back.dtype == torch.bfloat16
    torch.testing.assert_close(back.float(), expected, atol=0.01, rtol=0.02)


def test_with_dropout_the_gradient_is_that_of_the_same_draw(rows):
    def drawn(*rows):
        torch.manual_seed(3)
        return apply(*rows, dropout=0.3)

    assert torch.autograd.gradcheck(drawn, rows)
    assert not torch.equal(drawn(*rows), apply(*rows))


def test_dropout_keeps_the_mean(rows):
    torch.manual_seed(0)
    query, key, value = (t.detach() for t in rows)
    mean = torch.stack([apply(query, key, value, dropout=0.3) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, apply(query, key, value), atol=0.08, rtol=0)
