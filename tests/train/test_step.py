"""One step: each distinct text once, in chunks, and yet the gradients of the plain forward."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from embsearch.config.catalogue import OBJECTIVES as NAMES
from embsearch.config.schema import ModelConfig, ObjectiveConfig, TrainConfig
from embsearch.data.batch import Batch
from embsearch.data.tokenise import tokenise
from embsearch.errors import OutOfMemory
from embsearch.kernels.bert_layer import Mask
from embsearch.kernels.select import select
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.embed import embed
from embsearch.model.encoder import Encoder
from embsearch.objectives.build import build
from embsearch.train import process_memory
from embsearch.train.memory_budget import GROWN, GROWN_CACHED
from embsearch.train.step import Stepper

TEXTS = [
    "red", "fast lamp x1", "small phone shoe x2 x3", "crimson y1", "rapid", "tiny light y2 y3 y4 y0", "mobile",
    "boot y4",
]  # fmt: skip
ROWS = [
    (0, 3, 4),
    (1, 4, 3),
    (1, 5, 7),
    (2, 6, 4),
    (0, 3, 7),
    (2, 7, 5),
]  # texts recur, as queries and titles do
ALSO = {(0, 4), (2, 5)}  # clicked elsewhere
CPU = choose("cpu", "fp32")
TEACHER = [[0.9, 0.2], [0.8, 0.1], [0.7, 0.3], [0.9, 0.4], [0.6, 0.5], [0.9, 0.0]]
CHOOSE = ("infonce", "listwise", "kl")  # among distinct titles


def batch_of(rows) -> Batch:
    """The rows over their distinct texts."""
    text_D = np.unique(rows)
    known = {(a, p) for a, p, _ in rows} | ALSO
    local = torch.from_numpy(np.searchsorted(text_D, np.array(rows)))
    titles = sorted({t for _, p, n in rows for t in (p, n)})
    return Batch(
        text_D=text_D, anchor_B=local[:, 0], positive_B=local[:, 1], negative_B=local[:, 2],
        weight_B=torch.linspace(0.5, 2, len(rows)), title_C=torch.from_numpy(np.searchsorted(text_D, titles)),
        known_BC=torch.tensor([[(a, t) in known for t in titles] for a, _, _ in rows]),
        score_B=torch.tensor([0.1, 0.9, 0.4, 0.4, 0.7, 0.0])[: len(rows)],
        grade_B2=torch.tensor([[2.0, 0.0]] * len(rows)),
        teacher_B2=torch.tensor(TEACHER)[: len(rows)],
    )  # fmt: skip


def plain(batch, rows, objective) -> Batch:
    """The same rows over their three columns written out, 3 B texts. InfoNCE chooses among distinct
    texts, so there a text that recurs is its first copy; elsewhere none is shared."""
    text_D = np.array(rows).T.flatten()
    titles = text_D[len(rows) :].tolist()
    first = np.array([*map(text_D[: len(rows)].tolist().index, text_D[: len(rows)]),
                      *(len(rows) + titles.index(t) for t in titles)])  # fmt: skip
    columns = torch.from_numpy(first if objective in CHOOSE else np.arange(len(text_D))).view(3, -1)
    title_C = torch.tensor([len(rows) + titles.index(t) for t in sorted(set(titles))])
    return replace(
        batch,
        text_D=text_D,
        anchor_B=columns[0],
        positive_B=columns[1],
        negative_B=columns[2],
        title_C=title_C,
    )


def laid_out(how, encoder):
    if how == "packed":
        select(encoder, CPU)
        assert encoder.packs
    return encoder.train()


@pytest.fixture(params=["padded", "packed"])
def encoder(request, tiny_bert):
    return laid_out(
        request.param, Encoder(pretrained.build(ModelConfig(str(tiny_bert), dropout=0.0)))
    )


@pytest.fixture(params=["padded", "packed"])
def noisy(request, tiny_bert):
    return laid_out(
        request.param, Encoder(pretrained.build(ModelConfig(str(tiny_bert), dropout=0.2)))
    )


def tokens_of(encoder):
    return tokenise(TEXTS, encoder.model.tokenizer, 32)


def lengths_of(encoder):
    """Tokens of the distinct texts of ROWS."""
    return tokens_of(encoder).lengths[batch_of(ROWS).text_D]


def stepper_of(encoder, config, objective="triplet"):
    loss = build(ObjectiveConfig(objective))
    return Stepper(encoder, tokens_of(encoder), loss, CPU, config)


def step(encoder, objective="triplet", seed=0, rows=ROWS, **train):
    """The loss and every parameter's gradient."""
    encoder.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    loss = build(ObjectiveConfig(objective, symmetric=True))
    stepper = Stepper(encoder, tokens_of(encoder), loss, CPU, TrainConfig(**train))
    return stepper(batch_of(rows)).item(), gradients(encoder)


def gradients(encoder):
    return {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}


def distance(found, expected):
    """Of all gradients together, relative to their length."""
    assert found.keys() == expected.keys()
    apart = sum((found[n] - expected[n]).double().square().sum() for n in expected)
    return float((apart / sum(g.double().square().sum() for g in expected.values())).sqrt())


@pytest.mark.parametrize("how", ["at once", "in chunks", "gradients cached"])
@pytest.mark.parametrize("objective", NAMES)
def test_loss_and_gradients_equal_those_of_the_plain_three_columns(encoder, objective, how):
    encoder.double()  # whatever the CPU, rounding is out of sight but for the loss, which is always fp32
    batch = batch_of(ROWS)
    if objective != "supcon":  # which counts distinct texts
        batch = plain(batch, ROWS, objective)
    ids, mask = tokens_of(encoder).padded(batch.text_D, 0)
    embeddings = encoder(torch.from_numpy(ids), torch.from_numpy(mask)).float()
    expected = build(ObjectiveConfig(objective, symmetric=True))(embeddings, batch)
    expected.backward()
    reference = gradients(encoder)

    chunk = 4096 if how == "at once" else 12
    cache = "always" if how == "gradients cached" else "never"
    loss, found = step(encoder, objective, chunk_tokens=chunk, cache_gradients=cache)

    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert distance(found, reference) < 1e-6


@pytest.mark.parametrize("objective", NAMES)
def test_cached_gradients_equal_uncached_ones_with_the_same_dropout(noisy, objective):
    expected, reference = step(noisy, objective, chunk_tokens=12, cache_gradients="never")
    after = torch.get_rng_state()

    loss, found = step(noisy, objective, chunk_tokens=12, cache_gradients="always")

    assert loss == expected
    assert distance(found, reference) < 1e-6
    assert torch.equal(torch.get_rng_state(), after)
    assert step(noisy, objective, seed=1, chunk_tokens=12)[0] != loss  # dropout was on


@pytest.mark.parametrize("objective", NAMES)
def test_only_what_does_not_fit_has_its_gradients_cached(noisy, objective, monkeypatch):
    config, longest = TrainConfig(chunk_tokens=12), int(lengths_of(noisy).max())
    half = max(longest, config.chunk_tokens // 2)  # then chunks are smaller
    expected, reference = step(noisy, objective, chunk_tokens=half, cache_gradients="never")
    after = torch.get_rng_state()
    stepper = stepper_of(noisy, config, objective)
    plan = stepper.plan(batch_of(ROWS))
    assert plan.kept == len(plan.chunks) > 2
    whole = stepper.budget.activation_bytes(lengths_of(noisy), plan.tokens)
    monkeypatch.setattr("embsearch.train.memory_budget.ACTIVATION_BYTES", 0.6 * whole)
    again = stepper_of(noisy, config, objective).plan(batch_of(ROWS))
    few, count = again.kept, len(again.chunks)
    assert 0 < few < count
    assert count >= len(plan.chunks)
    counted: list[bool] = []
    shared: list[int] = []
    encode = Encoder.encode

    def counting(encoder, tokens, texts, alone=False, weights=None):
        counted.append(torch.is_grad_enabled())
        found = encode(encoder, tokens, texts, alone, weights)
        shared.append(id(weights))
        if encoder.kernel is not None:
            assert len(weights.casts) == 2  # layers: no chunk makes its own
        return found

    monkeypatch.setattr(Encoder, "encode", counting)

    loss, found = step(noisy, objective, chunk_tokens=12)

    assert counted == [True] * few + [False] * (count - few) + [True] * (count - few)
    assert len(set(shared)) == 1
    assert loss == expected
    assert distance(found, reference) < 1e-6
    assert torch.equal(torch.get_rng_state(), after)
    if noisy.kernel is not None:
        assert noisy.kernel.kept_bytes() == 0  # nothing is kept for a backward pass any more


@pytest.mark.parametrize("objective", NAMES)
def test_a_step_that_fills_half_of_the_room_keeps_less_and_is_the_same(
    noisy, objective, monkeypatch
):
    if noisy.kernel is None:
        pytest.skip("its layers go through autograd, which knows one way")
    expected, reference = step(noisy, objective)
    after = torch.get_rng_state()
    budget, lengths = stepper_of(noisy, TrainConfig(), objective).budget, lengths_of(noisy)
    tokens = int(lengths.sum())
    kept = budget.activation_bytes(lengths, tokens)
    assert budget.activation_bytes(lengths, tokens, recompute_masks=True) < 0.9 * kept
    whole = TrainConfig(chunk_tokens=tokens)

    def chunks():
        plan = stepper_of(noisy, whole, objective).plan(batch_of(ROWS))
        assert plan.keeps_all
        return len(plan.chunks)

    assert chunks() == 1
    monkeypatch.setattr("embsearch.train.memory_budget.ACTIVATION_BYTES", 1.5 * kept)
    assert chunks() > 1  # each needs less in passing
    dropped: list[int] = []
    times = Mask.times

    def counted(mask, *given):
        dropped.append(mask.rows)
        return times(mask, *given)

    monkeypatch.setattr(Mask, "times", counted)
    for room in (1.5, 0.5):
        monkeypatch.setattr("embsearch.train.memory_budget.ACTIVATION_BYTES", room * kept)
        dropped.clear()
        loss, found = step(noisy, objective, cache_gradients="never")
        assert dropped
        assert all(dropped)  # drawn again
        assert loss == expected
        assert distance(found, reference) < 1e-6
        assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize(("all_kept", "limit"), [(True, GROWN), (False, GROWN_CACHED)])
@pytest.mark.parametrize(("beyond", "given"), [(1, 1), (-1, 0)])
def test_a_step_that_keeps_much_gives_memory_back_where_the_process_is_large(
    noisy, all_kept, limit, beyond, given, monkeypatch
):
    if noisy.kernel is None:
        pytest.skip("its layers go through autograd, which keeps its blocks on the heap")
    config = TrainConfig(chunk_tokens=12, cache_gradients="never" if all_kept else "auto")
    lengths = lengths_of(noisy)
    budget = stepper_of(noisy, config).budget
    whole = budget.activation_bytes(lengths, int(lengths.sum()), recompute_masks=True)
    monkeypatch.setattr("embsearch.train.memory_budget.ACTIVATION_BYTES", 0.6 * whole)
    stepper = stepper_of(noisy, config)
    plan = stepper.plan(batch_of(ROWS))
    assert plan.keeps_all if all_kept else 0 < plan.kept < len(plan.chunks)
    monkeypatch.setattr(process_memory, "resident", lambda: limit + beyond)
    calls: list[None] = []
    monkeypatch.setattr(process_memory, "release_freed", lambda: calls.append(None))
    stepper(batch_of(ROWS))
    assert len(calls) == given


def test_what_autograd_keeps_of_embeddings_counts_where_not_all_fits(noisy, monkeypatch):
    if noisy.kernel is None:
        pytest.skip("its layers go through autograd, which knows one way")
    config, lengths = TrainConfig(chunk_tokens=12), lengths_of(noisy)
    budget = stepper_of(noisy, config).budget
    whole = budget.activation_bytes(lengths, int(lengths.sum()), recompute_masks=True)
    monkeypatch.setattr("embsearch.train.memory_budget.CONTIGUOUS", 1)
    monkeypatch.setattr("embsearch.train.memory_budget.ACTIVATION_BYTES", 0.95 * whole)
    kept = stepper_of(noisy, config).plan(batch_of(ROWS)).kept
    monkeypatch.setattr("embsearch.train.memory_budget.EMBEDDING_ROWS", 0)
    assert 0 < kept < stepper_of(noisy, config).plan(batch_of(ROWS)).kept


class Narrow(Encoder):
    """An encoder on a device that holds ``limit`` padded tokens at once."""

    limit = 10**9
    refused = 0

    def forward(self, ids_BT, mask_BT):
        if ids_BT.numel() > self.limit:
            self.refused += 1
            self.run_out()
        return super().forward(ids_BT, mask_BT)

    def run_out(self):
        raise torch.OutOfMemoryError("CUDA out of memory")


class NarrowCPU(Narrow):
    """The same where the memory is the CPU's: torch's allocator has an error of its own."""

    def run_out(self):
        torch.empty(2**50)


@pytest.mark.parametrize("kind", [Narrow, NarrowCPU])
@pytest.mark.parametrize("limit", [8, 10])
def test_running_out_of_memory_halves_the_chunk_and_changes_no_gradient(encoder, kind, limit):
    expected, reference = step(encoder)
    narrow = kind(encoder.model)
    narrow.limit = limit

    loss, found = step(narrow)

    assert narrow.refused > 0
    assert loss == pytest.approx(expected, rel=1e-6)
    assert distance(found, reference) < 1e-6


def test_the_chunk_that_fitted_is_remembered(encoder):
    narrow = Narrow(encoder.model)
    narrow.limit = 10
    stepper = Stepper(
        narrow, tokens_of(encoder), build(ObjectiveConfig()), CPU, TrainConfig(chunk_tokens=64)
    )
    stepper(batch_of(ROWS))
    refused = narrow.refused

    stepper(batch_of(ROWS))

    assert (narrow.refused, stepper.budget.chunk_tokens) == (refused, 8)


@pytest.mark.parametrize("kind", [Narrow, NarrowCPU])
def test_one_text_that_does_not_fit_is_out_of_memory(encoder, kind):
    narrow = kind(encoder.model)
    narrow.limit = 4

    with pytest.raises(OutOfMemory, match="one text of 8 tokens does not fit on cpu"):
        step(narrow)


@pytest.mark.parametrize("kind", [Narrow, NarrowCPU])
def test_evaluating_halves_the_chunk_too_until_one_text_does_not_fit(encoder, kind):
    many = [f"{a} {b}" for a in TEXTS for b in TEXTS]
    tokens, texts = tokenise(many, encoder.model.tokenizer, 16), np.arange(len(many))
    expected = embed(encoder, tokens, texts, CPU)
    narrow = kind(encoder.model)
    narrow.limit = int(tokens.lengths.max())

    assert np.allclose(embed(narrow, tokens, texts, CPU), expected, atol=1e-6)
    assert narrow.refused > 0
    narrow.limit = 2
    with pytest.raises(OutOfMemory, match=r"one text of .* tokens does not fit"):
        embed(narrow, tokens, texts, CPU)


def test_other_errors_are_not_taken_for_a_lack_of_memory(encoder):
    narrow = Narrow(encoder.model)
    narrow.limit = 4
    narrow.run_out = lambda: torch.zeros(2) @ torch.zeros(3)

    with pytest.raises(RuntimeError, match=r"inconsistent tensor size|size mismatch|shapes"):
        step(narrow)


def test_workers_that_share_a_gpu_share_the_memory_for_activations(encoder, monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=10_000)
    )
    monkeypatch.setenv("EMBSEARCH_GPU_SHARERS", "4")
    compute = replace(choose("cpu", "fp32"), device=torch.device("cuda"))
    assert compute.sharers == 4
    assert Stepper(encoder, None, None, compute, TrainConfig()).budget.room == 1_000
