"""BERT's layers by hand against their own code and autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from embsearch.model import attention, bert, packing, places
from embsearch.model import dropout as cheap

LENGTHS = np.array([9, 5, 5, 4, 1])
TOKENS = int(LENGTHS.sum())
SHAPE = {
    "vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40,
    "max_position_embeddings": 32,
}  # fmt: skip


def stack(dropout=0.0, kind=BertModel, **more):
    torch.manual_seed(0)
    config = (BertConfig if kind is BertModel else RobertaConfig)(
        **SHAPE, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **more
    )
    model = kind(config).double()
    model.set_attn_implementation(packing.NAME)
    with torch.no_grad():  # norms and biases that do something
        for parameter in model.encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    cheap.replace(model)
    return model.encoder.train()


def by_hand(**more):
    made = stack(**more)
    assert bert.replace(made)
    return made


def run(encoder, weight=None, draw=1):
    """Hidden states, the gradient of the input, the gradients of the weights."""
    x = torch.randn(1, TOKENS, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    torch.manual_seed(draw)
    found = encoder(x, attention_mask=None, packing=packing.Packing.of(LENGTHS)).last_hidden_state
    if weight is None:
        weight = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).sin().view_as(found)
    encoder.zero_grad()
    (found * weight).sum().backward()
    return found.detach(), x.grad, {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}


def assert_same(one, two):
    torch.testing.assert_close(one[0], two[0])
    torch.testing.assert_close(one[1], two[1])
    assert one[2].keys() == two[2].keys()
    for name in two[2]:
        torch.testing.assert_close(one[2][name], two[2][name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", [BertModel, RobertaModel])
def test_values_and_gradients_are_those_of_autograd(kind):
    assert_same(run(by_hand(kind=kind)), run(stack(kind=kind)))


def test_with_dropout_the_gradient_is_that_of_the_same_draw():
    encoder = by_hand(dropout=0.3)
    _, _, gradients = run(encoder)
    parameter = encoder.layer[0].intermediate.dense.weight
    step = 1e-6 * torch.randn_like(parameter)
    weight = torch.linspace(-1, 1, TOKENS * 24, dtype=torch.float64).sin().view(1, TOKENS, 24)

    def loss():
        return (run(encoder)[0] * weight).sum()

    with torch.no_grad():
        parameter.add_(step)
    up = loss()
    with torch.no_grad():
        parameter.sub_(2 * step)
    slope = (gradients["layer.0.intermediate.dense.weight"] * step).sum()
    assert (up - loss()) / 2 == pytest.approx(slope.item(), rel=1e-4)
    assert not torch.equal(run(encoder)[0], run(encoder, draw=2)[0])
    assert torch.equal(run(encoder.eval())[0], run(encoder.eval(), draw=2)[0])


def silencing(texts):
    """Weights of the hidden states under which some texts have no gradient."""
    weight = torch.ones(1, TOKENS, 24, dtype=torch.float64)
    weight[..., ::2] = -2
    starts = np.cumsum(LENGTHS) - LENGTHS
    for text in texts:
        weight[0, starts[text] : starts[text] + LENGTHS[text]] = 0
    return weight


def backward_rows(monkeypatch):
    rows, before = [], bert.backward

    def counted(dz, x, saved, weights, shape, where):
        rows.append(where.tokens)
        return before(dz, x, saved, weights, shape, where)

    monkeypatch.setattr(bert, "backward", counted)
    return rows


@pytest.mark.parametrize("silent", [{0}, {1, 3}, {0, 1, 2, 3, 4}])
def test_texts_without_gradient_take_no_part_and_change_nothing(silent, monkeypatch):
    weight = silencing(silent)
    rows = backward_rows(monkeypatch)
    picked = run(by_hand(dropout=0.3), weight)
    assert set(rows) == {TOKENS - LENGTHS[list(silent)].sum() or LENGTHS[-1]}
    monkeypatch.setattr(places, "WORTH_PICKING", 0.0)
    rows.clear()
    whole = run(by_hand(dropout=0.3), weight)
    assert set(rows) == {TOKENS}
    assert_same(picked, whole)


@pytest.mark.parametrize("silent", [[], [1, 3]])
def test_masks_that_are_drawn_again_are_those_of_the_forward_pass(silent, monkeypatch):
    weight = silencing(silent)
    expected, after = run(by_hand(dropout=0.3), weight), torch.get_rng_state()
    encoder, times = by_hand(dropout=0.3), bert.Mask.times
    drawn = []
    monkeypatch.setattr(bert.Mask, "times", lambda mask, *args: (drawn.append(mask.rows), times(mask, *args))[1])
    with bert.steady(encoder, sparing=True):
        assert_same(run(encoder, weight), expected)
    assert torch.equal(torch.get_rng_state(), after)
    assert drawn == [64] * 6  # two of each layer, for all rows
    assert not encoder.sparing


@pytest.mark.parametrize(("rows", "lengths"), [(1, 1), (25, 4), (64, 16)])
def test_filling_up_changes_nothing(rows, lengths, monkeypatch):
    expected = run(by_hand())
    monkeypatch.setattr(places, "ROWS", rows)
    monkeypatch.setattr(places, "LENGTHS", lengths)
    assert_same(run(by_hand()), expected)


def test_one_token_that_matters_keeps_its_whole_text(monkeypatch):
    weight = torch.zeros(1, TOKENS, 24, dtype=torch.float64)
    weight[0, 9] = torch.arange(24)  # the first token of the second text, as pooling=cls has it
    rows = backward_rows(monkeypatch)
    assert_same(run(by_hand(), weight), run(stack(), weight))
    assert set(rows) == {LENGTHS[1]}


@pytest.mark.parametrize("silent", [0, 2])  # texts without gradient
@pytest.mark.parametrize("layers", [1, 2])
def test_frozen_layers_are_neither_kept_nor_differentiated(layers, silent, monkeypatch):
    first = int(LENGTHS[:silent].sum())

    def frozen(encoder):
        encoder.layer[:layers].requires_grad_(False)
        x = torch.randn(1, TOKENS, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        found = encoder(x, attention_mask=None, packing=packing.Packing.of(LENGTHS)).last_hidden_state
        found[:, first:].sin().sum().backward()
        return found.detach(), x, {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}

    rows = backward_rows(monkeypatch)
    assert_same(frozen(by_hand()), frozen(stack()))
    assert rows == [TOKENS - first] * (3 - layers)


def test_changed_weights_are_noticed():
    encoder, other = by_hand(), stack()
    with torch.inference_mode():
        run_once = encoder(torch.zeros(1, TOKENS, 24).double(), packing=packing.Packing.of(LENGTHS)).last_hidden_state
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1, fused=True)
    run(encoder)
    optimizer.step()
    other.load_state_dict(encoder.state_dict())
    assert_same(run(encoder), run(other))
    encoder.load_state_dict(stack().state_dict())
    with torch.inference_mode():
        again = encoder(torch.zeros(1, TOKENS, 24).double(), packing=packing.Packing.of(LENGTHS)).last_hidden_state
    torch.testing.assert_close(again, run_once)


def test_chunks_of_a_step_share_the_casts_of_weights():
    encoder = by_hand()
    with bert.steady(encoder):
        run(encoder)
        first = dict(encoder.casts)
        run(encoder)
        assert len(first) == 3
        assert all(encoder.casts[key] is cast for key, cast in first.items())
    assert encoder.casts is None
    with torch.no_grad():
        encoder.layer[0].output.dense.weight.mul_(2)
    other = stack()
    other.load_state_dict(encoder.state_dict())
    with bert.steady(encoder):
        assert_same(run(encoder), run(other))


def test_padded_input_and_long_texts_go_through_the_class_itself(monkeypatch):
    encoder, other = by_hand().eval(), stack().eval()
    monkeypatch.setattr(attention, "WRITTEN_OUT", 8)
    monkeypatch.setattr(bert.Stack, "apply", None)
    x = torch.randn(1, TOKENS, 24, dtype=torch.float64)
    packed = packing.Packing.of(LENGTHS)
    for more in ({"packing": packed}, {}):
        torch.testing.assert_close(encoder(x, **more).last_hidden_state, other(x, **more).last_hidden_state)


def test_layers_that_are_not_plain_bert_are_left_alone():
    assert not bert.replace(stack(hidden_act="relu"))
    assert not bert.replace(stack(is_decoder=True))
    encoder = by_hand()
    bert.restore(encoder)
    assert not isinstance(encoder, bert.ByHand)
    assert type(encoder) is type(stack())


def test_in_bf16_gradients_are_those_of_autocast_up_to_its_rounding():
    made = [stack().float(), stack().float()]
    bert.replace(made[0])
    x = torch.randn(1, TOKENS, 24, generator=torch.Generator().manual_seed(2))
    exact = stack().float()
    found = []
    for encoder, on in ((made[0], True), (made[1], True), (exact, False)):
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            hidden = encoder(x, attention_mask=None, packing=packing.Packing.of(LENGTHS)).last_hidden_state
        assert hidden.dtype == torch.float32
        hidden.sin().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in encoder.parameters()]))
    mine, theirs = ((gradient - found[2]).norm() / found[2].norm() for gradient in found[:2])
    assert mine < 0.03
    assert mine < 3 * theirs


@pytest.mark.parametrize("sparing", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("lengths", [[8, 8, 8], [3, 9, 20, 20]])
def test_what_a_layer_keeps_is_reckoned_to_the_tensor(lengths, dropout, sparing):
    encoder = by_hand()
    shape = replace(bert._shape(encoder.layer[0]), dropout=dropout, attention_dropout=dropout)
    width, inner, heads = 24, encoder.config.intermediate_size, shape.heads
    lengths = np.array(lengths)
    where = places.Places(tuple((1, int(n)) for n in lengths), heads)
    parameters = [p for name in bert.MODULES for p in bert._both(encoder.layer[0], name)]
    cast = bert.Cast.of(parameters, torch.float64, shape)
    x = where.filled(torch.randn(where.tokens, width, dtype=torch.float64))
    _, saved = bert.forward(x, cast, shape, where, torch.Tensor.new_empty, sparing)
    kept, tokens = saved.qkv.nbytes + saved.weights.nbytes, slice(where.tokens)
    kept += sum(held[tokens].nbytes for held in (saved.mixed, saved.sum, saved.up, saved.sum_2))
    kept += sum(mask.made[tokens].nbytes for mask in (saved.mask, saved.mask_2) if mask and mask.state is None)
    assert kept == bert.saved_bytes(lengths, (width, inner, heads), 8, masks=2 if dropout and not sparing else 0)
