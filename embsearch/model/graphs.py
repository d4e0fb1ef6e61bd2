"""A GPU's part of a training step recorded once and replayed: CUDA graphs of packed chunks.

A small encoder's step is some thousand short kernels that the host launches one by one, and the GPU waits for it.
A graph is launched as one. It holds for one number of tokens and of texts, so a chunk is filled up, with texts that
nobody looks at, to sizes that recur; a size that has recurred is recorded, forward and backward. Filling up changes
rounding and which masks dropout draws, as a text sees only itself; recording changes nothing.

A replay overwrites the vectors, states and gradients of the one before, whatever its size. So a step may use graphs
only where it is one chunk (train/step.py), and begins without gradients.

Not torch's ``make_graphed_callables``: it casts every weight, and every gradient back, by a kernel of its own, keeps
gradients for each size, and hands them over one by one. Here weights are cast together, and gradients lie end to end
in one tensor for all sizes, which is clipped as one (docs/decisions/0028-cuda-graphs.md).
"""

from __future__ import annotations

import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from embsearch.data.batch import onto
from embsearch.model import packing
from embsearch.model.device import reason

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

RECUR = 4  # chunks of a size before it is recorded, which takes 0.05 to 0.08 s: repaid within ten steps
MOST = 8  # sizes kept; the one not used for longest makes room
TOKENS, TEXTS, LONGEST = 256, 32, 128  # sizes are multiples of these, or more (Size.filled)
FILLER = 8  # tokens of a text that fills up, about
APART = 0.02  # a graph's gradients from autograd's, relative; in bf16, in another order of sums, at most


@dataclass(frozen=True)
class Size:
    """Of a chunk: ``longest`` is what no text exceeds; ``short`` as ``packing.mostly_short`` says."""

    tokens: int
    texts: int
    longest: int
    short: bool

    @staticmethod
    def of(lengths: np.ndarray) -> Size:
        return Size(int(lengths.sum()), len(lengths), int(lengths.max()), packing.mostly_short(lengths))

    def filled(self) -> Size:
        """A size that recurs, with room for a token in each further text, and for about FILLER at most. Tokens go up
        in steps of what the sum of so many lengths varies by, a share of about 1 / sqrt(texts), a quarter at most."""
        longest = LONGEST * 2 ** max(0, int(np.ceil(np.log2(self.longest / LONGEST))))
        spread = 2 ** int(np.ceil(np.log2(self.tokens / self.texts**0.5)))
        step = max(TOKENS, min(spread, _quarter(self.tokens)))
        texts = _up(self.texts + step // FILLER, max(TEXTS, _quarter(self.texts)))
        return Size(_up(self.tokens + texts - self.texts, step), texts, longest, self.short)


def _quarter(number: int) -> int:
    """Of the largest power of two that is not above ``number``."""
    return int(2 ** (number.bit_length() - 1) // 4)


def _up(number: int, step: int) -> int:
    return int(-(-number // step) * step)


class Chunk(nn.Module):
    """The encoder as a function of one tensor, the ids of a chunk's texts end to end and after them their borders."""

    def __init__(self, model: SentenceTransformer, size: Size, first: int) -> None:
        super().__init__()  # never by train() or eval(), which would reach what is frozen
        self.model, self.size, self.first = model, size, first

    def forward(self, chunk: Tensor) -> Tensor:
        """(texts, E) from (tokens + texts + 1,) int32."""
        given = packing.flat(chunk, self.size.tokens, self.size.longest, self.size.short, self.first)
        embeddings_BE: Tensor = self.model(given)["sentence_embedding"]
        return embeddings_BE


class Graphs:
    """Encodes chunks on a GPU, those of recurring sizes by graphs."""

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model
        assert model.transformers_model is not None, "pretrained.build checked that this is a text transformer"
        self._first, _ = packing.positions(model.transformers_model)
        self._seen: dict[Size, int] = {}
        self._recorded: OrderedDict[Size, Recorded] = OrderedDict()
        self._weights: Weights | None = None
        self.why_not = ""  # nothing is recorded any more

    def __call__(self, ids: np.ndarray, lengths: np.ndarray, alone: bool) -> Tensor:
        """(B, E) of texts whose ids lie end to end. ``alone``: the only chunk of a training step."""
        texts = len(lengths)
        learning = self._weights.parameters if self._weights is not None else self._model.parameters()
        cleared = all(p.grad is None for p in learning)
        if self.why_not or not (alone and self._model.training and cleared):
            plain: Tensor = self._plain(Size.of(lengths))(self._moved(ids, lengths))
            return plain
        size = Size.of(lengths).filled()
        chunk = self._moved(*fill(ids, lengths, size))
        device = chunk.device.type
        # autocast would keep what it cast while a graph was recorded for the steps after it
        with torch.autocast(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device), False):
            embeddings_BE: Tensor = self._step(size, chunk)(chunk)
        return embeddings_BE[:texts]

    def gradient(self) -> Tensor | None:
        """All gradients end to end, where the last step's were left so."""
        weights = self._weights
        return weights.gradient if weights is not None and weights.handed_over() else None

    @property
    def sizes(self) -> list[Size]:
        """Those recorded, the one used last at the end."""
        return list(self._recorded)

    def _step(self, size: Size, chunk: Tensor) -> Callable[[Tensor], Tensor]:
        if size in self._recorded:
            self._recorded.move_to_end(size)
            return self._recorded[size]
        self._seen[size] = self._seen.get(size, 0) + 1
        if self._seen[size] <= RECUR:
            return self._plain(size)
        if len(self._recorded) >= MOST:
            gone, _ = self._recorded.popitem(last=False)
            self._seen[gone] = 0
        try:
            if self._weights is None:
                self._weights = Weights(self._plain(size), torch.get_autocast_dtype(chunk.device.type))
            self._recorded[size] = record(self._plain(size), chunk, self._weights)
        except BaseException as error:
            self.release()  # what draws for them may be another now
            if not isinstance(error, Exception):
                raise
            self.why_not = reason(error)
            print(f"training steps are not replayed as CUDA graphs: {self.why_not}", file=sys.stderr, flush=True)
            return self._plain(size)
        return self._recorded[size]

    def release(self) -> None:
        """Give back the memory of what was recorded."""
        self._recorded.clear()
        self._seen.clear()
        self._weights = None

    def _plain(self, size: Size) -> Chunk:
        return Chunk(self._model, size, self._first)

    def _moved(self, ids: np.ndarray, lengths: np.ndarray) -> Tensor:
        return onto(next(self._model.parameters()).device, packing.joined(ids, lengths))


def fill(ids: np.ndarray, lengths: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Ids and lengths with texts at the end that make them ``size``; their tokens are of id 0."""
    tokens, texts = size.tokens - len(ids), size.texts - len(lengths)
    more = np.full(texts, tokens // texts)
    more[: tokens % texts] += 1
    return np.concatenate([ids, np.zeros(tokens, dtype=ids.dtype)]), np.concatenate([lengths, more])


class Weights:
    """What all graphs of an encoder share: the weights as they are differentiated by, those of linear layers in
    ``dtype``; where their gradients lie; and the memory of a step, as no two steps are at work at once.

    Linear layers' come first wherever weights lie end to end, so that a few kernels cast all of them."""

    def __init__(self, chunk: Chunk, dtype: torch.dtype) -> None:
        linear = {id(p) for m in chunk.modules() if isinstance(m, nn.Linear) for p in m.parameters()}
        learning = [(name, p) for name, p in chunk.named_parameters() if p.requires_grad]
        learning.sort(key=lambda pair: id(pair[1]) not in linear)
        self.parameters = [p for _, p in learning]
        self._count = sum(id(p) in linear for p in self.parameters)
        self._cast = torch.cat([p.detach().flatten() for p in self.parameters[: self._count]] or [torch.empty(0)])
        self._cast = self._cast.to(self.parameters[0].device, dtype)
        self._tensors = _views(self._cast, self.parameters[: self._count])
        self._tensors += [p.detach() for p in self.parameters[self._count :]]
        self.leaves = {name: t.requires_grad_() for (name, _), t in zip(learning, self._tensors, strict=True)}
        self.gradient = torch.zeros(sum(p.numel() for p in self.parameters), device=self.parameters[0].device)
        self.gradients = _views(self.gradient, self.parameters)
        self._used: list[int] = []
        self.pool = torch.cuda.graph_pool_handle()

    def cast(self) -> None:
        """The weights as they are now."""
        if self._count:
            self._cast.copy_(torch.cat([p.detach().flatten() for p in self.parameters[: self._count]]))

    def keep(self, found: Sequence[Tensor | None]) -> None:
        """The gradients of a backward pass, None of what it did not touch."""
        self._used = [number for number, one in enumerate(found) if one is not None]
        flat = [
            p.new_zeros(p.numel()) if g is None else g.flatten() for g, p in zip(found, self._tensors, strict=True)
        ]
        size = len(self._cast)
        if self._count:
            self.gradient[:size].copy_(torch.cat(flat[: self._count]))
        if flat[self._count :]:
            torch.cat(flat[self._count :], out=self.gradient[size:])

    def agree(self, found: Tensor, expected: Tensor, gradient: Tensor) -> bool:
        """Whether vectors, and the gradients kept, are those that autograd finds."""
        parts = torch.autograd.grad(expected, self.parameters, gradient, allow_unused=True)
        pairs = zip(parts, self.parameters, strict=True)
        flat = torch.cat([(torch.zeros_like(p) if part is None else part).flatten() for part, p in pairs])
        alike = torch.cosine_similarity(found.float(), expected.detach().float()).min() > packing.SAME
        return bool(alike and (self.gradient - flat).norm() <= APART * flat.norm())

    def hand_over(self) -> None:
        for number in self._used:
            self.parameters[number].grad = self.gradients[number]

    def handed_over(self) -> bool:
        """Whether the parameters have these gradients and no others."""
        used = set(self._used)
        return all(p.grad is (self.gradients[n] if n in used else None) for n, p in enumerate(self.parameters))


def _views(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(flat, [one.numel() for one in like])
    return [part.view_as(one) for part, one in zip(parts, like, strict=True)]


class Recorded:
    """A chunk's forward and backward pass as two graphs."""

    def __init__(self, chunk: Chunk, example: Tensor, weights: Weights) -> None:
        self._chunk, self.weights, self._given = chunk, weights, example.clone()
        self._tie = torch.zeros((), requires_grad=True)  # what makes autograd ask for a backward pass
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
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
        found: Tensor = torch.func.functional_call(self._chunk, self.weights.leaves, (self._given,))
        return found

    def _backward(self, embeddings: Tensor) -> None:
        leaves = list(self.weights.leaves.values())
        self.weights.keep(torch.autograd.grad(embeddings, leaves, self._gradient, allow_unused=True))

    def __call__(self, chunk: Tensor) -> Tensor:
        """(texts, E); its backward pass leaves the gradients in the parameters."""
        found: Tensor = _Replay.apply(self._tie, chunk, self)  # type: ignore[no-untyped-call]
        return found

    def replay(self, chunk: Tensor) -> Tensor:
        self._given.copy_(chunk)
        self.ahead.replay()
        return self._embeddings.detach()

    def replay_back(self, gradient: Tensor) -> None:
        self._gradient.copy_(gradient)
        self.back.replay()


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tie: Tensor, chunk: Tensor, recorded: Recorded) -> Tensor:
        ctx.recorded = recorded
        return recorded.replay(chunk)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ctx.recorded.replay_back(gradient)
        ctx.recorded.weights.hand_over()
        return None, None, None


def record(chunk: Chunk, example: Tensor, weights: Weights) -> Recorded:
    """``chunk`` as graphs; what is drawn meanwhile is put back. They are recorded with the tokens of ``example`` in
    turned order, and tried on itself.

    Raises RuntimeError where it reads from the GPU on the way (which is seen before the capture), where memory does
    not suffice, where the capture fails for another reason, and where the replay gives other vectors or gradients.
    The caller can go on without graphs then, and without those it has (``_guarded``).
    """
    tokens = chunk.size.tokens
    with _guarded(example.device) as draws:
        recorded = Recorded(chunk, torch.cat([example[:tokens].flip(0), example[tokens:]]), weights)
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
    """Around a capture: a read from the GPU raises RuntimeError before it can break the capture; afterwards the draws
    go on from the state that is given. A capture that broke all the same leaves torch on its stream, and a generator
    that believes to be captured for good: it gets another state, which graphs of before know nothing of."""
    draws, stream = torch.cuda.get_rng_state(device), torch.cuda.current_stream(device)
    mode = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the mode is a prototype; nodes of the warm-up are on another stream
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
