"""What enters the lowest layer that learns is computed once a text, and changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embsearch.config.schema import ModelConfig
from embsearch.data.tokenise import Tokens
from embsearch.kernels.select import choose_kernel
from embsearch.model import encoder, frozen, pretrained
from embsearch.model.device import choose
from embsearch.model.embed import embed
from embsearch.model.encoder import Encoder

CPU = choose("cpu", "fp32")
TEXTS = np.array([5, 0, 3, 8])


@pytest.fixture
def tokens():
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, 12, 10)
    return Tokens(
        draw.integers(5, 20, lengths.sum()).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def made(tiny_bert, tokens=None, layers=1, **more):
    torch.manual_seed(0)
    found = Encoder(pretrained.build(ModelConfig(str(tiny_bert), freeze_layers=layers, **more)))
    choose_kernel(found)
    if tokens is not None:
        found.remember(tokens)
    return found.train()


def learned(of, tokens):
    """Vectors of a chunk, longest first, and the gradients of what learns."""
    take = TEXTS[np.argsort(-tokens.lengths[TEXTS], kind="stable")]
    torch.manual_seed(1)
    vectors = of.encode(tokens, take)
    of.zero_grad()
    (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
    return vectors.detach(), {
        n: p.grad.clone() for n, p in of.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("layers", [1, 2])
def test_vectors_and_gradients_are_those_of_computing_it_again(tiny_bert, tokens, layers):
    of = made(tiny_bert, tokens, layers, projection=8)
    vectors, gradients = learned(of, tokens)
    expected, reference = learned(made(tiny_bert, None, layers, projection=8), tokens)
    assert of.frozen_states(tokens, TEXTS) is not None
    torch.testing.assert_close(vectors, expected)
    assert gradients.keys() == reference.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, reference[name])


def test_a_text_is_computed_once_for_training_and_evaluation(tiny_bert, tokens, monkeypatch):
    monkeypatch.setattr(frozen, "BLOCK", 4)
    computed, before = [], Encoder._compute

    def counted(self, of, take):
        computed.extend(take)
        return before(self, of, take)

    monkeypatch.setattr(Encoder, "_compute", counted)
    of = made(tiny_bert, tokens)
    first = embed(of, tokens, TEXTS, CPU)
    learned(of, tokens)
    assert set(TEXTS) <= set(computed)
    embed(of, tokens, np.arange(10), CPU)
    np.testing.assert_array_equal(embed(of, tokens, TEXTS, CPU), first)
    assert sorted(computed) == list(range(10))


def test_who_asks_first_changes_no_bit(tiny_bert, tokens, monkeypatch):
    monkeypatch.setattr(frozen, "BLOCK", 4)
    one, two = made(tiny_bert, tokens), made(tiny_bert, tokens)
    for text in range(10):
        one.frozen_states(tokens, np.array([text]))
    assert torch.equal(one.frozen_states(tokens, TEXTS), two.frozen_states(tokens, TEXTS))


def test_each_precision_has_its_own(tiny_bert, tokens):
    of = made(tiny_bert, tokens)
    assert of.frozen_states(tokens, TEXTS).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert of.frozen_states(tokens, TEXTS).dtype == torch.bfloat16
    assert of.frozen_states(tokens, TEXTS).dtype == torch.float32


def test_frozen_layers_have_no_dropout_and_others_have(tiny_bert, tokens):
    of = made(tiny_bert, dropout=0.5, layers=1)
    layers = of.kernel.stack.layers
    assert [layer.training for layer in layers] == [False, True]
    assert not of.model[0].auto_model.embeddings.dropout.training
    of.eval().train()
    assert [layer.training for layer in layers] == [False, True]
    ids = np.arange(5, 12)
    hidden = [
        of.model[0].auto_model.embeddings(input_ids=torch.from_numpy(ids)[None]) for _ in range(2)
    ]
    assert torch.equal(*hidden)
    assert not torch.equal(learned(of, tokens)[0], learned(of.eval(), tokens)[0])


def test_nothing_is_kept_where_nothing_is_frozen_it_is_too_much_or_texts_are_others(
    tiny_bert, tokens, monkeypatch
):
    assert made(tiny_bert, tokens, layers=0).frozen_states(tokens, TEXTS) is None
    of = made(tiny_bert, tokens)
    assert of.frozen_states(Tokens(tokens.ids, tokens.offsets), TEXTS) is None
    monkeypatch.setattr(encoder, "LIMIT", 100)
    assert of.frozen_states(tokens, TEXTS) is None
