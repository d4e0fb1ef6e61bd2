"""Chunks filled up to sizes that recur, and which are recorded.

tests/kernels/test_gpu.py has the graphs themselves.
"""

from __future__ import annotations

import kernel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embsearch.config.schema import ModelConfig, TrainConfig
from embsearch.data.batch import Batch
from embsearch.data.tokenise import Tokens
from embsearch.kernels import cuda_graphs, flash, graph_recording, graph_sizes
from embsearch.kernels.select import choose_kernel
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.encoder import Encoder
from embsearch.objectives.triplet import Triplet
from embsearch.train.step import Stepper

ROWS = 8


@given(st.lists(st.integers(1, 500), min_size=1, max_size=600))
def test_a_filled_chunk_has_its_own_texts_first_and_short_ones_after_them(lengths):
    lengths = np.array(lengths)
    ids = np.arange(1, lengths.sum() + 1, dtype=np.int32)
    size = graph_sizes.Size.of(lengths).filled()
    all_ids, all_lengths = graph_sizes.fill(ids, lengths, size)
    assert (len(all_ids), len(all_lengths)) == (size.tokens, size.texts)
    assert (all_ids[: len(ids)] == ids).all()
    assert (all_lengths[: len(lengths)] == lengths).all()
    filled = all_lengths[len(lengths) :]
    assert all_lengths.sum() == size.tokens
    assert 1 <= filled.min() <= filled.max() <= 2 * graph_sizes.FILLER
    assert all_lengths.max() <= size.longest
    assert size.tokens <= 1.3 * lengths.sum() + 2 * graph_sizes.TOKENS + size.texts - len(lengths)


def test_batches_of_a_size_recur():
    draw = np.random.default_rng(0)
    sizes = {
        graph_sizes.Size.of(draw.integers(4, 30, 90 + draw.integers(0, 6))).filled()
        for _ in range(200)
    }
    assert len(sizes) <= 3


class Apart:
    """Gradients that lie apart, as without graphs."""

    def __init__(self, chunk, dtype):
        self.parameters = list(chunk.parameters())

    def handed_over(self):
        return False


@pytest.fixture
def recorded(monkeypatch):
    """Records that are the plain step; the sizes that were recorded, one after the other."""
    found = []

    def record(chunk, example, weights):
        found.append(chunk.size)
        assert len(example) == chunk.size.tokens + chunk.size.texts + 1
        return chunk

    monkeypatch.setattr(flash, "varlen", kernel.varlen)
    monkeypatch.setattr(cuda_graphs, "record", record)
    monkeypatch.setattr(cuda_graphs, "GraphWeights", Apart)
    return found


def encoder(tiny_bert, flash=True):
    made = Encoder(pretrained.build(ModelConfig(str(tiny_bert), dropout=0.0)))
    choose_kernel(made, flash)
    return made.train()


def tokens(longest=30):
    lengths = np.random.default_rng(0).integers(3, longest, 3 * ROWS)
    ids = np.random.default_rng(1).integers(5, 30, lengths.sum()).astype(np.int32)
    return Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]))


def batch():
    at = torch.arange(ROWS)
    known = torch.eye(ROWS, dtype=torch.bool)
    return Batch(
        np.arange(3 * ROWS), at, ROWS + at, 2 * ROWS + at, torch.ones(ROWS), ROWS + at, known
    )


def gradients(made, clear=True, **train):
    if clear:
        made.zero_grad(set_to_none=True)
    loss = Stepper(made, tokens(), Triplet(2.0), choose("cpu", "fp32"), TrainConfig(**train))(
        batch()
    ).item()
    return loss, torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None])


def test_a_step_of_a_filled_chunk_is_the_plain_step(tiny_bert, recorded):
    expected_loss, expected = gradients(encoder(tiny_bert, flash=False))
    made = encoder(tiny_bert)
    for _ in range(cuda_graphs.RECUR + 3):
        loss, found = gradients(made)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert len(recorded) == 1


@pytest.mark.parametrize(
    "train",
    [
        {"chunk_tokens": 100, "cache_gradients": "never"},
        {"chunk_tokens": 100, "cache_gradients": "always"},
    ],
)
def test_a_step_of_several_chunks_is_not_recorded(tiny_bert, recorded, train):
    made = encoder(tiny_bert)
    for _ in range(cuda_graphs.RECUR + 3):
        gradients(made, **train)
    assert recorded == []


def test_a_step_that_adds_to_gradients_is_not_recorded(tiny_bert, recorded):
    made = encoder(tiny_bert)
    for _ in range(cuda_graphs.RECUR + 3):
        gradients(made, clear=False)
    assert recorded == []


def test_what_is_measured_is_not_filled_up(tiny_bert, recorded):
    made = encoder(tiny_bert).eval()
    sizes = []
    made.kernel._plain = lambda size: (
        sizes.append(size) or graph_recording.Chunk(made.model, size, 0)
    )
    ids, lengths = np.arange(5, 15, dtype=np.int32), np.array([6, 4])
    with torch.no_grad():
        for _ in range(cuda_graphs.RECUR + 3):
            made.kernel.encode(ids, lengths, alone=True)
    assert set(sizes) == {graph_sizes.Size(10, 2, 6, True)}
    assert recorded == []


def test_the_size_that_was_used_last_makes_room(tiny_bert, recorded):
    made = encoder(tiny_bert)
    lengths = [np.full(n, 8) for n in range(32, 32 * (cuda_graphs.MOST + 2), 32)]

    def use(these):
        made.kernel.encode(np.full(these.sum(), 5, dtype=np.int32), these, alone=True)

    for these in lengths:
        use(lengths[0])
        for _ in range(cuda_graphs.RECUR + 1):
            use(these)
    assert len(recorded) == cuda_graphs.MOST + 1
    kept = list(made.kernel.sizes)
    assert len(kept) == cuda_graphs.MOST
    assert recorded[0] in kept  # used all the while
    assert recorded[1] not in kept
    for _ in range(cuda_graphs.RECUR + 1):
        use(lengths[1])
    assert recorded[-1] == recorded[1]


def test_a_step_that_lacks_memory_gives_back_what_was_recorded(tiny_bert, recorded):
    made = encoder(tiny_bert)
    for _ in range(cuda_graphs.RECUR + 1):
        gradients(made)
    assert len(made.kernel.sizes) == 1
    whole, lacking = made.encode, []

    def short_of_memory(*given):
        if not lacking:
            lacking.append(given)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(*given)

    made.encode = short_of_memory
    gradients(made)
    assert not made.kernel.sizes


@pytest.mark.parametrize(("error", "why"), [
    (RuntimeError("a synchronizing operation\nmore"), "RuntimeError: a synchronizing operation"),
    (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory"),
    (ValueError(), "ValueError: "),
])  # fmt: skip
def test_where_it_cannot_be_recorded_the_plain_step_goes_on(
    tiny_bert, recorded, monkeypatch, capsys, error, why
):
    tried = []

    def fails(*given):
        tried.append(given)
        raise error

    monkeypatch.setattr(cuda_graphs, "record", fails)
    made = encoder(tiny_bert)
    losses = [gradients(made)[0] for _ in range(cuda_graphs.RECUR + 4)]
    assert capsys.readouterr().err == f"training steps are not replayed as CUDA graphs: {why}\n"
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-6)
    assert len(tried) == 1
    assert made.kernel.why_not == why


class Small(torch.nn.Module):
    """Linear layers and others in turns, one without a part in what comes out, one frozen."""

    def __init__(self):
        super().__init__()
        self.table, self.one, self.norm = (
            torch.nn.Embedding(10, 8),
            torch.nn.Linear(8, 8),
            torch.nn.LayerNorm(8),
        )
        self.two, self.unused = torch.nn.Linear(8, 3), torch.nn.Linear(8, 2)
        self.frozen = torch.nn.Linear(3, 3).requires_grad_(False)

    def forward(self, ids):
        return self.frozen(self.two(self.norm(self.one(self.table(ids)))))


def test_gradients_end_to_end_are_those_of_each_parameter(monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    small, ids, gradient = Small(), torch.arange(4), torch.randn(4, 3)
    weights = graph_recording.GraphWeights(small, torch.float32)
    with torch.no_grad():
        small.one.weight.add_(1)
    weights.cast()
    found = torch.func.functional_call(small, weights.leaves, (ids,))
    weights.keep(
        torch.autograd.grad(found, list(weights.leaves.values()), gradient, allow_unused=True)
    )
    plain = small(ids)
    assert weights.agree(found, plain, gradient)
    assert not weights.agree(found, small(ids), -gradient)
    assert not weights.agree(-found, small(ids), gradient)
    assert not weights.handed_over()
    weights.hand_over()
    assert weights.handed_over()
    own = {name: p.grad for name, p in small.named_parameters()}
    length = torch.cat([g.flatten() for g in own.values() if g is not None]).norm()
    torch.testing.assert_close(weights.gradient.norm(), length)
    small.zero_grad(set_to_none=True)
    small(ids).backward(gradient)
    for name, p in small.named_parameters():
        assert (p.grad is None) == (own[name] is None)
        if p.grad is not None:
            torch.testing.assert_close(own[name], p.grad)
    assert not weights.handed_over()


def test_a_step_whose_activations_would_fill_the_memory_by_the_sizes_kept_is_not_recorded(
    tiny_bert, recorded
):
    made = encoder(tiny_bert)
    stepper = Stepper(made, tokens(), Triplet(2.0), choose("cpu", "fp32"), TrainConfig())
    lengths = tokens().lengths
    need = cuda_graphs.MOST * stepper.budget.activation_bytes(lengths, int(lengths.sum()))
    for room, count in ((0.99 * need, 0), (1.01 * need, 1)):
        stepper.budget.room = room
        stepper.budget.config = TrainConfig(cache_gradients="never")
        for _ in range(cuda_graphs.RECUR + 1):
            made.zero_grad(set_to_none=True)
            stepper(batch())
        assert len(recorded) == count


def test_a_recording_that_is_interrupted_is_none(tiny_bert, recorded, monkeypatch):
    made = encoder(tiny_bert)
    for _ in range(cuda_graphs.RECUR + 1):
        gradients(made)
    assert made.kernel.sizes

    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(cuda_graphs, "record", interrupted)
    given = np.full(1600, 5, dtype=np.int32), np.full(200, 8)
    made.zero_grad(set_to_none=True)
    for _ in range(cuda_graphs.RECUR):
        made.kernel.encode(*given, alone=True)
    with pytest.raises(KeyboardInterrupt):
        made.kernel.encode(*given, alone=True)
    assert made.kernel.sizes == []  # their draws may come from another state
    assert made.kernel.why_not == ""
