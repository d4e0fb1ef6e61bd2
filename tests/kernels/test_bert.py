"""BERT's layers by hand against their own code and autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from embsearch.config.schema import ModelConfig
from embsearch.kernels import attention_interface, bert, bert_layer, layout, unpadded
from embsearch.kernels.bert import BertStack, FrozenWeights
from embsearch.kernels.dropout import use_byte_dropout
from embsearch.kernels.packing import Packing
from embsearch.kernels.select import choose_kernel
from embsearch.model import pretrained
from embsearch.model.encoder import Encoder

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
    attention_interface.register()
    model.set_attn_implementation(attention_interface.NAME)
    with torch.no_grad():  # norms and biases that do something
        for parameter in model.encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    use_byte_dropout(model)
    return model.encoder.train()


def by_itself(encoder, x, shared=None):
    """(1, T, D) through the layers' own code."""
    return encoder(x, attention_mask=None, packing=Packing.of(LENGTHS)).last_hidden_state


def by_hand(encoder, x, shared=None):
    """The same by hand."""
    found = BertStack(encoder)(x[0], Packing.of(LENGTHS).runs, shared=shared)
    return found.to(x.dtype)[None]


def run(encoder, through=by_hand, weight=None, draw=1, shared=None):
    """Hidden states, the gradient of the input, the gradients of the weights."""
    given = torch.Generator().manual_seed(2)
    x = torch.randn(1, TOKENS, 24, dtype=torch.float64, generator=given).requires_grad_()
    torch.manual_seed(draw)
    found = through(encoder, x, shared)
    if weight is None:
        weight = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).sin().view_as(found)
    encoder.zero_grad()
    (found * weight).sum().backward()
    return (
        found.detach(),
        x.grad,
        {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None},
    )


def assert_same(one, two):
    torch.testing.assert_close(one[0], two[0])
    torch.testing.assert_close(one[1], two[1])
    assert one[2].keys() == two[2].keys()
    for name in two[2]:
        torch.testing.assert_close(
            one[2][name], two[2][name], msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("kind", [BertModel, RobertaModel])
def test_values_and_gradients_are_those_of_autograd(kind):
    assert_same(run(stack(kind=kind)), run(stack(kind=kind), by_itself))


def test_with_dropout_the_gradient_is_that_of_the_same_draw():
    encoder = stack(dropout=0.3)
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
    rows, before = [], bert_layer.backward

    def counted(dz, x, saved, weights, shape, where):
        rows.append(where.tokens)
        return before(dz, x, saved, weights, shape, where)

    monkeypatch.setattr(bert, "backward", counted)
    return rows


@pytest.mark.parametrize("silent", [{0}, {1, 3}, {0, 1, 2, 3, 4}])
def test_texts_without_gradient_take_no_part_and_change_nothing(silent, monkeypatch):
    weight = silencing(silent)
    rows = backward_rows(monkeypatch)
    picked = run(stack(dropout=0.3), weight=weight)
    assert set(rows) == {TOKENS - LENGTHS[list(silent)].sum() or LENGTHS[-1]}
    monkeypatch.setattr(layout, "WORTH_PICKING", 0.0)
    rows.clear()
    whole = run(stack(dropout=0.3), weight=weight)
    assert set(rows) == {TOKENS}
    assert_same(picked, whole)


@pytest.mark.parametrize("silent", [[], [1, 3]])
def test_masks_that_are_drawn_again_are_those_of_the_forward_pass(silent, monkeypatch):
    weight = silencing(silent)
    expected, after = run(stack(dropout=0.3), weight=weight), torch.get_rng_state()
    times, drawn = bert_layer.Mask.times, []

    def counted(mask, *given):
        drawn.append(mask.rows)
        return times(mask, *given)

    monkeypatch.setattr(bert_layer.Mask, "times", counted)
    assert_same(
        run(stack(dropout=0.3), weight=weight, shared=FrozenWeights(recompute_masks=True)), expected
    )
    assert torch.equal(torch.get_rng_state(), after)
    assert drawn == [64] * 6  # two of each layer, for all rows


@pytest.mark.parametrize(("rows", "lengths"), [(1, 1), (25, 4), (64, 16)])
def test_filling_up_changes_nothing(rows, lengths, monkeypatch):
    expected = run(stack())
    monkeypatch.setattr(layout, "ROWS", rows)
    monkeypatch.setattr(layout, "LENGTHS", lengths)
    assert_same(run(stack()), expected)


def test_one_token_that_matters_keeps_its_whole_text(monkeypatch):
    weight = torch.zeros(1, TOKENS, 24, dtype=torch.float64)
    weight[0, 9] = torch.arange(24)  # the first token of the second text, as pooling=cls has it
    rows = backward_rows(monkeypatch)
    assert_same(run(stack(), weight=weight), run(stack(), by_itself, weight))
    assert set(rows) == {LENGTHS[1]}


@pytest.mark.parametrize("silent", [0, 2])  # texts without gradient
@pytest.mark.parametrize("layers", [1, 2])
def test_frozen_layers_are_neither_kept_nor_differentiated(layers, silent, monkeypatch):
    first = int(LENGTHS[:silent].sum())

    def frozen(through):
        encoder = stack()
        encoder.layer[:layers].requires_grad_(False)
        x = torch.randn(
            1, TOKENS, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
        )
        found = through(encoder, x)
        found[:, first:].sin().sum().backward()
        return (
            found.detach(),
            x,
            {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None},
        )

    rows = backward_rows(monkeypatch)
    assert_same(frozen(by_hand), frozen(by_itself))
    assert rows == [TOKENS - first] * (3 - layers)


def test_changed_weights_are_noticed():
    encoder, other = stack(), stack()
    made, runs = BertStack(encoder), Packing.of(LENGTHS).runs
    x = torch.zeros(TOKENS, 24).double()
    with torch.inference_mode():
        once = made(x, runs)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1, fused=True)
    run(encoder, lambda encoder, x, shared: made(x[0], runs)[None])
    optimizer.step()
    other.load_state_dict(encoder.state_dict())
    assert_same(
        run(encoder, lambda encoder, x, shared: made(x[0], runs)[None]), run(other, by_itself)
    )
    encoder.load_state_dict(stack().state_dict())
    with torch.inference_mode():
        again = made(x, runs)
    torch.testing.assert_close(again, once)


def test_chunks_of_a_step_share_the_casts_of_weights():
    encoder, shared = stack(), FrozenWeights()
    run(encoder, shared=shared)
    first = dict(shared.casts)
    run(encoder, shared=shared)
    assert len(first) == 3
    assert all(shared.casts[key] is cast for key, cast in first.items())
    with torch.no_grad():
        encoder.layer[0].output.dense.weight.mul_(2)
    other = stack()
    other.load_state_dict(encoder.state_dict())
    assert_same(run(encoder, shared=FrozenWeights()), run(other, by_itself))


def test_texts_that_are_too_long_go_through_the_model_itself(monkeypatch, tiny_bert):
    encoder = Encoder(pretrained.build(ModelConfig(str(tiny_bert), dropout=0.0)))
    assert choose_kernel(encoder) == "texts without padding"
    ids, lengths = np.arange(5, 17), np.array([9, 3])
    found = encoder.kernel.encode(ids, lengths)
    monkeypatch.setattr(unpadded, "WRITTEN_OUT", 8)
    monkeypatch.setattr(BertStack, "__call__", None)
    torch.testing.assert_close(encoder.kernel.encode(ids, lengths), found)


def whole(**more):
    return BertModel(BertConfig(**SHAPE, **more))


def test_only_exactly_plain_bert_is_computed_by_hand():
    assert bert.unsuited(whole()) == ""
    assert bert.unsuited(RobertaModel(RobertaConfig(**SHAPE))) == ""
    assert bert.unsuited(whole(hidden_act="relu")) == "its layers are not plain BERT's"
    assert bert.unsuited(whole(is_decoder=True)) == "its layers are not plain BERT's"
    swapped = whole()
    swapped.encoder.layer[1].attention.self.key = torch.nn.Identity()
    assert bert.unsuited(swapped) == "attention.self.key of layer 1 is a Identity"

    class Own(BertModel):
        pass

    assert bert.unsuited(Own(BertConfig(**SHAPE))) == "Own is not of BERT's family"


def test_in_bf16_gradients_are_those_of_autocast_up_to_its_rounding():
    x = torch.randn(1, TOKENS, 24, generator=torch.Generator().manual_seed(2))
    found = []
    for through, on in ((by_hand, True), (by_itself, True), (by_itself, False)):
        encoder = stack().float()
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            hidden = through(encoder, x)
        assert hidden.dtype == torch.float32
        hidden.sin().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in encoder.parameters()]))
    mine, theirs = ((gradient - found[2]).norm() / found[2].norm() for gradient in found[:2])
    assert mine < 0.03
    assert mine < 3 * theirs


@pytest.mark.parametrize("recompute_masks", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("lengths", [[8, 8, 8], [3, 9, 20, 20]])
def test_what_a_layer_keeps_is_reckoned_to_the_tensor(lengths, dropout, recompute_masks):
    encoder = stack()
    shape = replace(bert.shape_of(encoder.layer[0]), dropout=dropout, attention_dropout=dropout)
    width, inner, heads = 24, encoder.config.intermediate_size, shape.heads
    lengths = np.array(lengths)
    where = layout.PackedLayout(tuple((1, int(n)) for n in lengths), heads)
    parameters = bert._parameters(encoder.layer[0])
    cast = bert_layer.CastWeights.of(parameters, torch.float64, shape)
    x = where.fill(torch.randn(where.tokens, width, dtype=torch.float64))
    new = torch.Tensor.new_empty
    _, saved = bert_layer.forward(x, cast, shape, where, new, recompute_masks)
    kept, tokens = saved.qkv.nbytes + saved.weights.nbytes, slice(where.tokens)
    kept += sum(held[tokens].nbytes for held in (saved.mixed, saved.sum, saved.up, saved.sum_2))
    for mask in (saved.mask, saved.mask_2):
        if mask and mask.state is None:
            kept += mask.made[tokens].nbytes
    masks = 2 if dropout and not recompute_masks else 0
    assert kept == bert_layer.saved_bytes(lengths, (width, inner, heads), 8, masks)
