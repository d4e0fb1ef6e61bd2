"""A chunk's forward and backward pass recorded as CUDA graphs, and what all graphs share.

Not torch's ``make_graphed_callables``: it casts every weight, and every gradient back, by a kernel
of its own, keeps gradients for each size, and hands them over one by one. Here weights are cast
together, and gradients lie end to end in one tensor for all sizes, which is clipped as one
(docs/decisions/0028-cuda-graphs.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from embsearch.kernels.context import Context
from embsearch.kernels.graph_sizes import Size
from embsearch.kernels.packing import flat_features

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SAME = 0.999  # cosine of one text's vectors in bf16; one that saw its neighbours has 0.9
# A graph's gradients from autograd's, relative; in bf16, in another order of sums, at most.
APART = 0.02


class Chunk(nn.Module):
    """The encoder as a function of one tensor: the ids of a chunk's texts, then their borders."""

    def __init__(self, model: SentenceTransformer, size: Size, first: int) -> None:
        super().__init__()  # never by train() or eval(), which would reach what is frozen
        self.model, self.size, self.first = model, size, first

    def forward(self, chunk: Tensor) -> Tensor:
        """Return (texts, E) from (tokens + texts + 1,) int32."""
        size = self.size
        given = flat_features(chunk, size.tokens, size.longest, size.short, self.first)
        embeddings_BE: Tensor = self.model(given)["sentence_embedding"]
        return embeddings_BE


class GraphWeights:
    """State that all graphs of an encoder share: weights, gradients and the memory of a step.

    Weights are held as they are differentiated by, those of linear layers in ``dtype``. The memory
    is one pool, as no two steps are at work at once. Linear layers' weights come first wherever
    weights lie end to end, so that a few kernels cast all of them.
    """

    def __init__(self, chunk: Chunk, dtype: torch.dtype) -> None:
        linear = {
            id(p) for m in chunk.modules() if isinstance(m, nn.Linear) for p in m.parameters()
        }
        learning = [(name, p) for name, p in chunk.named_parameters() if p.requires_grad]
        learning.sort(key=lambda pair: id(pair[1]) not in linear)
        self.parameters = [p for _, p in learning]
        device = self.parameters[0].device
        self._count = sum(id(p) in linear for p in self.parameters)
        first = [p.detach().flatten() for p in self.parameters[: self._count]]
        self._cast = torch.cat(first or [torch.empty(0)]).to(device, dtype)
        self._tensors = _views(self._cast, self.parameters[: self._count])
        self._tensors += [p.detach() for p in self.parameters[self._count :]]
        self.leaves = {
            name: tensor.requires_grad_()
            for (name, _), tensor in zip(learning, self._tensors, strict=True)
        }
        self.gradient = torch.zeros(sum(p.numel() for p in self.parameters), device=device)
        self.gradients = _views(self.gradient, self.parameters)
        self._used: list[int] = []
        self.pool = torch.cuda.graph_pool_handle()

    def cast(self) -> None:
        """Take over the weights as they are now."""
        if self._count:
            first = [p.detach().flatten() for p in self.parameters[: self._count]]
            self._cast.copy_(torch.cat(first))

    def keep(self, found: Sequence[Tensor | None]) -> None:
        """Keep the gradients of a backward pass, None of what it did not touch."""
        self._used = [number for number, one in enumerate(found) if one is not None]
        flat = [
            p.new_zeros(p.numel()) if g is None else g.flatten()
            for g, p in zip(found, self._tensors, strict=True)
        ]
        size = len(self._cast)
        if self._count:
            self.gradient[:size].copy_(torch.cat(flat[: self._count]))
        if flat[self._count :]:
            torch.cat(flat[self._count :], out=self.gradient[size:])

    def agree(self, found: Tensor, expected: Tensor, gradient: Tensor) -> bool:
        """Return true where vectors, and the gradients kept, are those that autograd finds."""
        parts = torch.autograd.grad(expected, self.parameters, gradient, allow_unused=True)
        pairs = zip(parts, self.parameters, strict=True)
        flat = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
        cosines = torch.cosine_similarity(found.float(), expected.detach().float())
        alike = cosines.min() > SAME
        return bool(alike and (self.gradient - flat).norm() <= APART * flat.norm())

    def hand_over(self) -> None:
        """Let the parameters have the gradients kept."""
        for number in self._used:
            self.parameters[number].grad = self.gradients[number]

    def handed_over(self) -> bool:
        """Return true where the parameters have these gradients and no others."""
        used = set(self._used)
        own = (self.gradients[n] if n in used else None for n in range(len(self.parameters)))
        return all(p.grad is one for p, one in zip(self.parameters, own, strict=True))


def _views(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(flat, [one.numel() for one in like])
    return [part.view_as(one) for part, one in zip(parts, like, strict=True)]


class RecordedChunk:
    """A chunk's forward and backward pass as two graphs."""

    def __init__(self, chunk: Chunk, example: Tensor, weights: GraphWeights) -> None:
        self._chunk, self.weights, self._given = chunk, weights, example.clone()
        self._tie = torch.zeros((), requires_grad=True)  # makes autograd ask for a backward pass
        here = torch.cuda.current_stream()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):  # what torch and its libraries set up at their first call
            for _ in range(2):
                found = self._forward()
                self._gradient = torch.zeros_like(found)
                self._backward(found)
                del found
        here.wait_stream(aside)
        self.ahead, self.back = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.ahead, pool=weights.pool):
            found = self._forward()
        with torch.cuda.graph(self.back, pool=weights.pool):
            self._backward(found)
        self._embeddings = found.detach()

    def _forward(self) -> Tensor:
        self.weights.cast()
        leaves = self.weights.leaves
        found: Tensor = torch.func.functional_call(self._chunk, leaves, (self._given,))
        return found

    def _backward(self, embeddings: Tensor) -> None:
        leaves = list(self.weights.leaves.values())
        found = torch.autograd.grad(embeddings, leaves, self._gradient, allow_unused=True)
        self.weights.keep(found)

    def __call__(self, chunk: Tensor) -> Tensor:
        """Return (texts, E); its backward pass leaves the gradients in the parameters."""
        found: Tensor = _Replay.apply(self._tie, chunk, self)  # type: ignore[no-untyped-call]
        return found

    def replay(self, chunk: Tensor) -> Tensor:
        """Replay the forward pass on the ids and borders of ``chunk``."""
        self._given.copy_(chunk)
        self.ahead.replay()
        return self._embeddings.detach()

    def replay_back(self, gradient: Tensor) -> None:
        """Replay the backward pass with ``gradient`` of the embeddings."""
        self._gradient.copy_(gradient)
        self.back.replay()


class _Replayed(Context):
    recorded: RecordedChunk


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Replayed, tie: Tensor, chunk: Tensor, recorded: RecordedChunk) -> Tensor:
        ctx.recorded = recorded
        return recorded.replay(chunk)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Replayed, gradient: Tensor) -> tuple[None, None, None]:
        ctx.recorded.replay_back(gradient)
        ctx.recorded.weights.hand_over()
        return None, None, None


def record(chunk: Chunk, example: Tensor, weights: GraphWeights) -> RecordedChunk:
    """Record ``chunk`` as graphs; what is drawn meanwhile is put back.

    They are recorded with the tokens of ``example`` in turned order, and tried on itself.

    Raises RuntimeError where it reads from the GPU on the way (which is seen before the capture),
    where memory does not suffice, where the capture fails for another reason, and where the replay
    gives other vectors or gradients. The caller can go on without graphs then, and without those
    it has (``_guarded``).
    """
    tokens = chunk.size.tokens
    with _guarded(example.device) as draws:
        turned = torch.cat([example[:tokens].flip(0), example[tokens:]])
        recorded = RecordedChunk(chunk, turned, weights)
    with torch.random.fork_rng([example.device]):
        torch.cuda.set_rng_state(draws, example.device)
        found = recorded.replay(example)
        gradient = torch.randn_like(found)
        recorded.replay_back(gradient)
        torch.cuda.set_rng_state(draws, example.device)
        if not weights.agree(found, chunk(example), gradient):
            raise RuntimeError("a graph gives other vectors or gradients")
    return recorded


@contextmanager
def _guarded(device: torch.device) -> Iterator[Tensor]:
    """Guard a capture: a read from the GPU raises RuntimeError before it can break the capture.

    Afterwards the draws go on from the state that is given. A capture that broke all the same
    leaves torch on its stream, and a generator that believes to be captured for good: it gets
    another state, which graphs of before know nothing of.
    """
    draws, stream = torch.cuda.get_rng_state(device), torch.cuda.current_stream(device)
    mode = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():
            # the mode is a prototype; nodes of the warm-up are on another stream
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
            yield draws
    except BaseException:
        torch.cuda.set_stream(stream)
        fresh = torch.Generator(stream.device).graphsafe_get_state()
        torch.cuda.default_generators[stream.device_index].graphsafe_set_state(fresh)
        raise
    finally:
        torch.cuda.set_sync_debug_mode(mode)
        torch.cuda.set_rng_state(draws, device)
