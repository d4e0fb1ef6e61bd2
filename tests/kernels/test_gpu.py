"""What only a GPU can show; skipped where there is none. Other tests have stand-ins for the kernel and the graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embsearch.config.schema import ModelConfig, TrainConfig
from embsearch.data.batch import Batch
from embsearch.data.tokenise import Tokens
from embsearch.kernels import cuda_graphs, flash, graph_recording
from embsearch.kernels.select import select
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.embed import embed
from embsearch.model.encoder import Encoder
from embsearch.objectives.triplet import Triplet
from embsearch.train.optimizer import adamw, clip
from embsearch.train.step import Stepper

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
ROWS = 24
LONGEST = {"short": 32, "flash": 40}  # tokens of a text: by one kernel, and by the other
kernel = "short"


@pytest.fixture(autouse=True, params=LONGEST)
def by(request, monkeypatch):
    monkeypatch.setitem(globals(), "kernel", request.param)
    assert flash.mostly_short(tokens().lengths) == (request.param == "short")


def tokens() -> Tokens:
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, 1 + LONGEST[kernel], 3 * ROWS)
    ids = draw.integers(5, 30, lengths.sum()).astype(np.int32)
    return Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]))


def batch(rows=ROWS) -> Batch:
    at = torch.arange(rows)
    known = torch.eye(rows, dtype=torch.bool)
    return Batch(
        np.arange(3 * rows), at, rows + at, 2 * rows + at, torch.ones(rows), rows + at, known
    )


def encoder(folder, dropout=0.0, precision="bf16", packed=True):
    compute = choose("cuda", precision)
    made = Encoder(pretrained.build(ModelConfig(str(folder), dropout=dropout))).to(compute.device)
    if packed:
        assert (
            select(made, compute)
            == "texts without padding, by the flash kernel, short ones by one for them"
        )
    return made.train(), compute


def gradients(made, compute, seed=0, rows=ROWS, **train):
    made.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    loss = Stepper(made, tokens(), Triplet(2.0), compute, TrainConfig(**train))(batch(rows)).item()
    return loss, torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None])


def far(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_texts_without_padding_have_the_padded_ones_vectors_and_gradients(tiny_bert):
    made, compute = encoder(tiny_bert)
    plain, _ = encoder(tiny_bert, packed=False)
    ids = np.arange(3 * ROWS)
    one, two = (torch.from_numpy(embed(each, tokens(), ids, compute)) for each in (made, plain))
    assert torch.cosine_similarity(one, two).min() > 0.9995
    loss, found = gradients(made, compute)
    expected_loss, expected = gradients(plain, compute)
    assert loss == pytest.approx(expected_loss, rel=5e-3)
    assert far(found, expected) < 0.03  # both rounded to bf16


def test_the_kernel_drops_the_share_it_was_asked_to_and_sends_gradients_back_by_the_same_draw():
    count, width, share = 48, 64, 0.25
    query, key = (
        torch.randn(count, 2, width, device="cuda", dtype=torch.bfloat16) for _ in range(2)
    )
    # the values are the unit vectors, so what is mixed are the weights themselves
    value = (
        torch.eye(width, device="cuda", dtype=torch.bfloat16)[:count, None]
        .repeat(1, 2, 1)
        .requires_grad_()
    )
    borders = torch.tensor([0, count], device="cuda", dtype=torch.int32)
    mixed = flash.varlen(query, key, value, borders, count, width**-0.5, share, False)
    whole = flash.varlen(query, key, value.detach(), borders, count, width**-0.5, 0.0, False)
    weights, full = mixed[..., :count].detach().float(), whole[..., :count].float()
    kept = weights > 0
    assert abs(1 - kept.float().mean().item() - share) < 0.02
    torch.testing.assert_close(weights[kept], full[kept] / (1 - share), rtol=0.02, atol=1e-3)
    draw = torch.randn_like(mixed)
    mixed.backward(draw)
    expected = torch.einsum("qhk,qhw->khw", weights, draw.float())
    assert far(value.grad.float(), expected) < 0.02


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("width", [16, 32, 64, 128])
def test_the_kernel_of_short_texts_has_the_flash_kernels_vectors_and_gradients(width, causal):
    from embsearch.kernels import short_attention

    assert flash.why_not_short(width, causal, torch.device("cuda")) == ""
    counts = [1, 16, 17, 32, 33, 64, 100, 128]
    borders = torch.tensor([0, *counts]).cumsum(0, dtype=torch.int32).cuda()
    given = [
        torch.randn(sum(counts), 3, width, device="cuda", dtype=torch.bfloat16) for _ in range(4)
    ]
    gradient, inputs = given.pop(), [t.requires_grad_() for t in given]
    mixed = flash.varlen(*inputs, borders, 128, width**-0.5, 0.0, causal)
    expected = [mixed, *torch.autograd.grad(mixed, inputs, gradient)]
    for _ in range(2):
        mixed = short_attention.attention(*inputs, borders, width**-0.5, 0.0, causal)
        found = [mixed, *torch.autograd.grad(mixed, inputs, gradient)]
        assert all(
            far(one.float(), other.float()) < 0.01
            for one, other in zip(found, expected, strict=True)
        )


def test_the_kernel_of_short_texts_drops_the_share_it_was_asked_to_and_sends_gradients_back_by_the_same_draw():
    from embsearch.kernels import short_attention

    count, width, share = 64, 64, 0.25
    query, key = (
        torch.randn(count, 2, width, device="cuda", dtype=torch.bfloat16) for _ in range(2)
    )
    value = (
        torch.eye(width, device="cuda", dtype=torch.bfloat16)[:, None]
        .repeat(1, 2, 1)
        .requires_grad_()
    )
    borders = torch.tensor([0, count], device="cuda", dtype=torch.int32)
    torch.manual_seed(0)
    mixed = short_attention.attention(query, key, value, borders, width**-0.5, share, False)
    again = short_attention.attention(query, key, value, borders, width**-0.5, share, False)
    torch.manual_seed(0)
    assert torch.equal(
        short_attention.attention(query, key, value, borders, width**-0.5, share, False), mixed
    )
    whole = short_attention.attention(
        query, key, value.detach(), borders, width**-0.5, 0.0, False
    ).float()
    weights = mixed.detach().float()
    kept = weights > 0
    assert not torch.equal(kept, again > 0)
    assert abs(1 - kept.float().mean().item() - share) < 0.02
    torch.testing.assert_close(weights[kept], whole[kept] / (1 - share), rtol=0.02, atol=1e-3)
    draw = torch.randn_like(mixed)
    (found,) = torch.autograd.grad(mixed, value, draw)
    assert far(found.float(), torch.einsum("qhk,qhw->khw", weights, draw.float())) < 0.02


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_recorded_step_is_the_plain_step_draw_for_draw(tiny_bert, dropout):
    plain = [gradients(*encoder(tiny_bert, dropout), seed) for seed in range(3)]
    made, compute = encoder(tiny_bert, dropout)
    for _ in range(cuda_graphs.RECUR + 1):
        gradients(made, compute)
    assert made.kernel.why_not == ""
    assert [size.short for size in made.kernel.sizes] == [kernel == "short"]
    for seed, (loss, expected) in enumerate(plain):
        found_loss, found = gradients(made, compute, seed)
        assert found_loss == pytest.approx(loss, rel=1e-4)
        assert far(found, expected) < 1e-3


def test_recording_leaves_the_draws_as_they_were(tiny_bert):
    made, compute = encoder(tiny_bert, 0.1)
    states = []
    for _ in range(cuda_graphs.RECUR + 2):
        gradients(made, compute)
        states.append(torch.cuda.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)


def test_sizes_that_take_turns_do_not_disturb_each_other(tiny_bert):
    plain = {rows: gradients(*encoder(tiny_bert, 0.1), rows=rows) for rows in (6, ROWS)}
    made, compute = encoder(tiny_bert, 0.1)
    for number in range(4 * cuda_graphs.RECUR):
        rows = (6, ROWS)[number % 2]
        loss, found = gradients(made, compute, rows=rows)
        assert loss == pytest.approx(plain[rows][0], rel=1e-4)
        assert far(found, plain[rows][1]) < 1e-3
    assert len(made.kernel.sizes) == 2


def test_a_recorded_steps_gradients_are_clipped_as_torch_does_and_taken_by_the_optimizer(tiny_bert):
    made, compute = encoder(tiny_bert)
    config = TrainConfig(lr=1e-3)
    for _ in range(cuda_graphs.RECUR + 1):
        gradients(made, compute)
    _, found = gradients(made, compute)
    others = [torch.nn.Parameter(p.detach().clone()) for p in made.parameters()]
    for other, p in zip(others, made.parameters(), strict=True):
        other.grad = None if p.grad is None else p.grad.clone()
    assert made.gradient() is not None
    assert clip(made, 0.1).item() == pytest.approx(float(found.norm()), rel=1e-5)
    torch.nn.utils.clip_grad_norm_(others, 0.1)
    for other, p in zip(others, made.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, other.grad, rtol=1e-4, atol=1e-9)
    before = [p.detach().clone() for p in made.parameters()]
    adamw(made, config).step()
    assert all(
        (p != b).any() for p, b in zip(made.parameters(), before, strict=True) if p.grad is not None
    )
    loss, _ = gradients(made, compute)  # the next replay sees the new weights
    assert loss != pytest.approx(gradients(*encoder(tiny_bert))[0], rel=1e-4)
    assert loss == pytest.approx(
        gradients(made, compute, chunk_tokens=10**6, cache_gradients="always")[0], rel=1e-3
    )


def test_gradients_that_others_put_in_place_are_clipped_one_by_one(tiny_bert):
    made, compute = encoder(tiny_bert)
    for _ in range(cuda_graphs.RECUR + 1):
        gradients(made, compute)
    for p in made.parameters():
        p.grad = None if p.grad is None else torch.ones_like(p)
    assert made.gradient() is None
    count = sum(p.numel() for p in made.parameters() if p.grad is not None)
    assert clip(made, 1.0).item() == pytest.approx(count**0.5, rel=1e-4)


def breaks_a_capture(scale):
    if torch.cuda.is_current_stream_capturing():
        torch.cuda.synchronize()
    return scale


@pytest.mark.parametrize("disturbed", [lambda scale: float(scale), breaks_a_capture])
def test_an_encoder_that_cannot_be_recorded_goes_on_as_it_was(tiny_bert, disturbed):
    expected = [gradients(*encoder(tiny_bert, 0.1), seed)[0] for seed in range(2)]
    unfilled, compute = encoder(tiny_bert, 0.1)
    unfilled.kernel.why_not = "not to be"
    after = [gradients(unfilled, compute, seed)[0] for seed in range(2)]
    made, _ = encoder(tiny_bert, 0.1)
    layer = type(made.model[0].auto_model.encoder.layer[0].output)
    plain, stream = layer.forward, torch.cuda.current_stream()
    layer.forward = lambda self, *given: plain(self, *given) * disturbed(given[0].isfinite().all())
    try:
        losses = [gradients(made, compute, seed % 2)[0] for seed in range(cuda_graphs.RECUR + 4)]
    finally:
        layer.forward = plain
    assert made.kernel.why_not
    assert not made.kernel.sizes
    assert torch.cuda.current_stream() == stream
    for number, loss in enumerate(losses):
        wanted = expected if number <= cuda_graphs.RECUR else after
        assert loss == pytest.approx(wanted[number % 2], rel=1e-4)
    others, _ = encoder(tiny_bert, 0.1)  # another encoder's graphs draw as ever
    for _ in range(cuda_graphs.RECUR + 1):
        gradients(others, compute)
    assert others.kernel.why_not == ""
    assert gradients(others, compute, 1)[0] == pytest.approx(expected[1], rel=1e-4)


def test_a_graph_with_wrong_gradients_is_not_used(tiny_bert, monkeypatch):
    keep = graph_recording.GraphWeights.keep
    monkeypatch.setattr(
        graph_recording.GraphWeights,
        "keep",
        lambda self, found: keep(self, [g if g is None else 2 * g for g in found]),
    )
    made, compute = encoder(tiny_bert)
    for _ in range(cuda_graphs.RECUR + 1):
        gradients(made, compute)
    assert made.kernel.why_not == "RuntimeError: a graph gives other vectors or gradients"


@pytest.mark.parametrize("train", [{"chunk_tokens": 256, "cache_gradients": "never"},
                                   {"chunk_tokens": 256, "cache_gradients": "always"}, {}])  # fmt: skip
def test_every_way_of_a_step_is_the_plain_padded_one_in_fp32(tiny_bert, train):
    made, compute = encoder(tiny_bert, precision="fp32", packed=False)
    loss, found = gradients(made, compute, **train)
    expected_loss, expected = gradients(made, compute, chunk_tokens=10**6)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert far(found, expected) < 1e-4


def test_too_little_memory_halves_the_chunk_and_repeats_the_step(tiny_bert):
    made, compute = encoder(tiny_bert)
    stepper = Stepper(made, tokens(), Triplet(2.0), compute, TrainConfig())
    expected, _ = gradients(made, compute)
    made.zero_grad(set_to_none=True)
    whole = made.encode

    def short_of_memory(tokens, texts, *more):
        if tokens.lengths[texts].sum() > 700:
            torch.empty(2**50, device="cuda")
        return whole(tokens, texts, *more)

    made.encode = short_of_memory
    torch.manual_seed(0)
    assert stepper(batch()).item() == pytest.approx(expected, rel=5e-3)
    assert stepper.budget.chunk_tokens < TrainConfig().chunk_tokens
