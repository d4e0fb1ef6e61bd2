"""One optimizer step's loss and gradients: each distinct text encoded once, in chunks.

Equal to the plain three-column forward (dropout off) up to rounding: tested. Chunks whose activations
do not fit beside those before them have their gradients cached (Gao et al. 2021, GradCache):
a pass without graph for the embeddings, the loss's gradient with respect to them, then chunk
by chunk a pass with graph from the same random state. An out-of-memory error halves the
chunk and repeats the step; it changes neither the step's mathematics nor its random draws.

Where several processes train together (group.py), each encodes its share of the texts; all compute the same loss of
all vectors, send its gradient back through their own texts, and add up the gradients of the parameters.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from embsearch.config.schema import TrainConfig
from embsearch.data.batch import Batch, onto
from embsearch.data.tokenise import Tokens
from embsearch.errors import OutOfMemory
from embsearch.model import bert, memory
from embsearch.model.arena import ARENA
from embsearch.model.device import Compute, is_out_of_memory
from embsearch.model.embed import chunks, encode
from embsearch.model.encoder import Encoder
from embsearch.model.graphs import MOST
from embsearch.train.group import ALONE, Alone, Group

T = TypeVar("T")
Loss = Callable[[Tensor, Batch], Tensor]
# Measured on MiniLM-L6, 32 product triplets, 2 cores: 3 length buckets cut padded tokens by 2.4;
# more buckets cost more launches than padding saved. A GPU waits for launches: 3 take 3 times as long as 1.
BUCKETS = 3
# Bytes of activations that may be kept at once; chunks beyond have their gradients cached. So a worker with MiniLM-L6
# stays below 4 GB whatever its batch: libraries, weights and AdamW take 1, what a step frees in between 0.8. On a GPU
# this share of its memory, divided by its workers; as much again for what is recorded.
GRAPH_BYTES, GRAPH_SHARE = 3 * 2**29, 0.4
IN_A_ROW = 1.28  # so much more where it lies in one stretch of memory
# Bytes that a process may take before the backward pass, which needs more than lies free: where all chunks keep their
# activations up to 0.1 GB, where gradients are cached up to 0.4.
GROWN, GROWN_CACHED = 3.65e9, 3.55e9

FINE, AGAIN, NEVER = range(3)  # how one process got on: by itself, with smaller chunks, not at all


@dataclass
class Passed:
    """Texts after the forward pass: the chunks' vectors, and the random state that a chunk began with where its
    gradients are cached (then its vectors have no graph)."""

    plan: list[np.ndarray]
    parts: list[Tensor]
    states: list[Tensor | None]


class Stepper:
    """Computes gradients of batches; remembers the chunk size that fits this device."""

    def __init__(
        self, encoder: Encoder, tokens: Tokens, objective: Loss, compute: Compute, config: TrainConfig,
        group: Alone = ALONE,
    ) -> None:  # fmt: skip
        self.encoder, self.tokens, self.objective, self.compute = encoder, tokens, objective, compute
        self.config, self.group = config, group
        self.budget = config.chunk_tokens
        self.room, self.by_hand = GRAPH_BYTES, bert.stack(encoder.model)
        if compute.device.type == "cuda":
            total = torch.cuda.get_device_properties(compute.device).total_memory
            self.room = int(GRAPH_SHARE * total / compute.sharers)

    def __call__(self, batch: Batch) -> Tensor:
        """The loss of ``batch`` as it lies on the device, which may still be at work on it; its gradients are left in
        the encoder's parameters.

        Raises OutOfMemory when a chunk of one text does not fit, Lost when another process of the group is gone.
        """
        state = torch.get_rng_state()
        cuda_state = torch.cuda.get_rng_state() if self.compute.device.type == "cuda" else None
        lengths = self.tokens.lengths[self.own(batch).text_D]
        while True:
            with bert.steady(self.by_hand, self._sparing(lengths), self._overflowing(lengths)):
                if isinstance(self.group, Group):
                    loss = self._together(self.group, batch)
                else:
                    loss, _ = self._tried(batch, partial(self._gradients, batch))
            if loss is not None:
                return loss.detach()
            # outside the handler, so that no traceback keeps the failed step's tensors
            self.encoder.zero_grad(set_to_none=True)
            self.encoder.release()
            gc.collect()
            memory.give_back()
            torch.set_rng_state(state)
            if cuda_state is not None:
                torch.cuda.empty_cache()
                torch.cuda.set_rng_state(cuda_state)

    def _shrink(self, batch: Batch, error: BaseException) -> None:
        """Smaller chunks from now on. Raises OutOfMemory where there are none."""
        longest = int(self.tokens.lengths[batch.text_D].max())
        if self.budget <= longest:
            raise OutOfMemory(
                f"one text of {longest} tokens does not fit on {self.compute.device}: {error}"
            ) from error
        self.budget = max(longest, self.budget // 2)

    def own(self, batch: Batch) -> Batch:
        """``batch`` with those of its texts that this process encodes."""
        if not isinstance(self.group, Group):
            return batch
        return replace(
            batch, text_D=batch.text_D[self.group.shares(self.tokens.lengths[batch.text_D])[self.group.rank]]
        )

    def plan(self, batch: Batch) -> tuple[list[np.ndarray], int, int]:
        """The chunks that ``batch`` is encoded in, their tokens (with what padding there is), and how many of them,
        from the first on, keep their activations; the gradients of the others are cached."""
        lengths = self.tokens.lengths[batch.text_D]
        gpu = self.compute.device.type == "cuda"
        plan, tokens = self._chunks(lengths, self.budget)
        if self._caches_all:
            return plan, sum(tokens), 0
        much = self._sparing(lengths) or self._fitting(lengths, plan, tokens) < len(plan)
        if self.config.cache_gradients == "auto" and much:  # more of them fit, and each needs less in passing
            plan, tokens = self._chunks(lengths, max(int(lengths.max()), self.budget // 2))
            return plan, sum(tokens), self._fitting(lengths, plan, tokens)
        if gpu and self.encoder.packs and not self.shrunk:  # all is kept anyway, and a single chunk can be recorded
            plan, tokens = self._chunks(lengths, sum(tokens))
        return plan, sum(tokens), len(plan)

    @property
    def shrunk(self) -> bool:
        """Whether memory did not suffice for chunks as large as they may be."""
        return self.budget < self.config.chunk_tokens

    @property
    def _caches_all(self) -> bool:
        """Whether no chunk keeps its activations, so that one's alone are there at a time."""
        cache = self.config.cache_gradients
        return cache == "always" or (cache == "auto" and self.shrunk)

    def _chunks(self, lengths: np.ndarray, budget: int) -> tuple[list[np.ndarray], list[int]]:
        """Chunks of texts, and each one's tokens, padding included."""
        gpu, packs = self.compute.device.type == "cuda", self.encoder.packs
        plan = list(chunks(lengths, budget, 0 if packs else 1 if gpu else BUCKETS))
        return plan, [int(lengths[t].sum()) if packs else len(t) * int(lengths[t].max()) for t in plan]

    def _fitting(self, lengths: np.ndarray, plan: list[np.ndarray], tokens: list[int]) -> int:
        """How many chunks, from the first on, may keep their activations."""
        sparing = self._sparing(lengths)
        room = self.room if self._held(lengths, sparing) is None else self._room_by_hand
        sizes = np.cumsum([self.graph_bytes(lengths[t], n, sparing) for t, n in zip(plan, tokens, strict=True)])
        return int((sizes <= room).sum())

    def _sparing(self, lengths: np.ndarray) -> bool:
        """Whether a step over texts of such lengths computes again what it can; else it would keep more than half of
        the room on the heap."""
        return not self._caches_all and (self._held(lengths, False) or 0) > self.room / 2

    def _overflowing(self, lengths: np.ndarray) -> bool:
        """Whether being sparing does not suffice, so that some texts' gradients are cached: then embeddings are
        computed again too, of which every text's would lie on the heap."""
        return not self._caches_all and (self._held(lengths, True) or 0) > self._room_by_hand

    @property
    def _room_by_hand(self) -> float:
        return self.room * IN_A_ROW if ARENA.mapped else self.room

    def _held(self, lengths: np.ndarray, sparing: bool) -> int | None:
        """What layers that compute by hand keep of texts of such lengths, in bytes; None where they do not."""
        if self.by_hand is None or not self.encoder.packs or not len(lengths):
            return None
        held: int | None = self.by_hand.held_bytes(lengths, 2 if self.compute.autocast else 4, sparing)
        return held

    def _recurs(self, batch: Batch, plan: list[np.ndarray]) -> bool:
        """Whether a GPU may record a step of these chunks, or rather this chunk: all that it keeps recorded needs no
        more than a step may that is not."""
        if self.encoder.graphs is None or len(plan) > 1:
            return False
        lengths = self.tokens.lengths[batch.text_D]
        return MOST * self.graph_bytes(lengths, int(lengths.sum())) <= self.room

    def graph_bytes(self, lengths: np.ndarray, held: int, sparing: bool = False) -> float:
        """What a step over texts of such lengths that fill ``held`` tokens keeps: 34 D + 5 H L bytes a token and
        layer of width D with H heads in 16 bits (Korthikanti et al. 2022, arXiv:2205.05198), twice that in fp32.
        Layers that compute by hand know theirs."""
        base = self.encoder.model.transformers_model
        assert base is not None, "pretrained.build checked that this is a text transformer"
        known = self._held(lengths, sparing)
        if known is not None:
            return float(known)
        names = ("num_hidden_layers", "hidden_size", "num_attention_heads")
        layers, width, heads = (getattr(base.config, name, 0) for name in names)
        row = float((lengths.astype(float) ** 2).sum() / lengths.sum())  # of attention, a token's mean
        a_token: float = layers * (34 * width + 5 * heads * row)
        return held * a_token * (1 if self.compute.autocast else 2)

    def _gradients(self, batch: Batch) -> Tensor:
        plan, _, kept = self.plan(batch)
        if kept < len(plan):
            return self._cached(batch, plan, kept)
        with self.compute.context():
            parts = [self._encode(batch, take, self._recurs(batch, plan)) for take in plan]
        self._make_room()
        loss = self._loss(_reorder(torch.cat(parts), plan), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def _cached(self, batch: Batch, plan: list[np.ndarray], kept: int) -> Tensor:
        passed = self._forward(batch, plan, kept)
        self._make_room(GROWN_CACHED)
        embeddings = _reorder(torch.cat([part.detach() for part in passed.parts]), plan).requires_grad_()
        loss = self._loss(embeddings, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        assert embeddings.grad is not None
        self._backward(batch, passed, embeddings.grad)
        return loss

    def _make_room(self, limit: float = GROWN) -> None:
        """A step that keeps much needs what others freed, which is of other sizes."""
        if ARENA.top > self.room / 2 and memory.resident() > limit:
            memory.give_back()

    def _forward(self, batch: Batch, plan: list[np.ndarray], kept: int) -> Passed:
        passed = Passed(plan, [], [])
        with self.compute.context():  # one for all, which casts the weights once
            for number, take in enumerate(plan):
                keep = number < kept
                passed.states.append(None if keep else _random_state(self.compute.device))
                with torch.set_grad_enabled(keep):
                    passed.parts.append(self._encode(batch, take, keep and self._recurs(batch, plan)))
        return passed

    def _backward(self, batch: Batch, passed: Passed, gradient_DE: Tensor) -> None:
        """Send the gradient of the embeddings back, chunk by chunk."""
        after = _random_state(self.compute.device)
        for take, state in zip(passed.plan, passed.states, strict=True):
            part = passed.parts.pop(0)  # nobody else holds the chunk's graph
            if state is not None:
                _set_random_state(self.compute.device, state)
                with self.compute.context():
                    part = self._encode(batch, take)
            gradient = gradient_DE[onto(part.device, torch.from_numpy(take))].to(part.dtype)
            part.backward(gradient)  # type: ignore[no-untyped-call]
        _set_random_state(self.compute.device, after)

    def _together(self, group: Group, batch: Batch) -> Tensor | None:
        """The loss, with the group's gradients; None where the step must be repeated, because one of the processes
        goes on in smaller chunks. All learn how each got on before they exchange anything, so that none waits."""
        shares = group.shares(self.tokens.lengths[batch.text_D])
        mine = replace(batch, text_D=batch.text_D[shares[group.rank]])
        passed, how = self._tried_by_each(mine, partial(self._pass, mine))
        width = passed.parts[0].shape[1] if passed and passed.parts else 0
        said = group.gather([how, width])
        if not self._fine(said[:, 0]):
            return None
        assert passed is not None
        own_BE = torch.empty(0, int(said[:, 1].max()), device=self.compute.device)
        if passed.parts:
            own_BE = _reorder(torch.cat([part.detach() for part in passed.parts]), passed.plan).float()
        embeddings_DE = group.vectors(own_BE, shares).requires_grad_()
        share = onto(embeddings_DE.device, torch.from_numpy(shares[group.rank]))

        def work() -> float:
            self._make_room(GROWN_CACHED)
            loss = self._loss(embeddings_DE, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            assert embeddings_DE.grad is not None
            self._backward(mine, passed, embeddings_DE.grad[share])
            return loss.item()

        loss, how = self._tried_by_each(mine, work)
        learn = [p for p in self.encoder.parameters() if p.requires_grad]
        said = group.gather([how, loss or 0.0, *(p.grad is not None for p in learn)])
        if not self._fine(said[:, 0]):
            return None
        has_P = said[:, 2:].max(axis=0)
        group.add_gradients([p for p, has in zip(learn, has_P, strict=True) if has])
        return torch.tensor(float(said[0, 1]), device=self.compute.device)

    def _pass(self, mine: Batch) -> Passed:
        if not len(mine.text_D):  # fewer texts than processes
            return Passed([], [], [])
        plan, _, kept = self.plan(mine)
        return self._forward(mine, plan, kept)

    def _tried(self, batch: Batch, work: Callable[[], T]) -> tuple[T | None, int]:
        """What ``work`` gives, and FINE; AGAIN where memory did not suffice. Raises OutOfMemory where it cannot."""
        try:
            return work(), FINE
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._shrink(batch, error)
            return None, AGAIN

    def _tried_by_each(self, mine: Batch, work: Callable[[], T]) -> tuple[T | None, int]:
        """The same with NEVER for OutOfMemory, which the others must learn of first."""
        try:
            return self._tried(mine, work)
        except OutOfMemory as error:
            self._why = str(error)
            return None, NEVER

    def _fine(self, said_N: np.ndarray) -> bool:
        """Whether every process has done its part. Raises OutOfMemory where one cannot."""
        if NEVER in said_N:
            stuck = int((said_N == NEVER).argmax())
            why = self._why if stuck == self.group.rank else "its log says more"
            raise OutOfMemory(f"device {stuck} of {self.group.size}: {why}")
        return not said_N.any()

    _why = ""

    def _encode(self, batch: Batch, take: np.ndarray, alone: bool = False) -> Tensor:
        return encode(self.encoder, self.tokens, batch.text_D[take], alone)

    def _loss(self, embeddings_DE: Tensor, batch: Batch) -> Tensor:
        return self.objective(embeddings_DE.float(), batch.to(embeddings_DE.device))


def _reorder(parts_DE: Tensor, plan: list[np.ndarray]) -> Tensor:
    """Embeddings in the batch's order from embeddings in the plan's."""
    back = np.argsort(np.concatenate(plan), kind="stable")
    return parts_DE[onto(parts_DE.device, torch.from_numpy(back))]


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
