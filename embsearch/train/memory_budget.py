"""A step's memory: in which chunks texts are encoded, and which chunks keep their activations.

Chunks whose activations do not fit beside those before them have their gradients cached (step.py).
What layers by hand keep is known to the tensor; for others it is estimated.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

import numpy as np
import torch

from embsearch.config.schema import TrainConfig
from embsearch.errors import OutOfMemory
from embsearch.model.device import Compute
from embsearch.model.embed import chunks
from embsearch.model.tower import Tower
from embsearch.train import process_memory

# Measured on MiniLM-L6, 32 product triplets, 2 cores: 3 length buckets cut padded tokens by 2.4;
# more buckets cost more launches than padding saved. A GPU waits for launches: 3 take 3 times as
# long as 1.
BUCKETS = 3
# Bytes of activations that may be kept at once. So a worker with MiniLM-L6 stays below 4 GB
# whatever its batch: libraries, weights and AdamW take 1, what a step frees in between 0.8.
ACTIVATION_BYTES = 3 * 2**29
CONTIGUOUS = 1.28  # so much more where it lies in one stretch of memory
# On a GPU this share of its memory, divided by its workers; as much again for what is recorded.
GPU_SHARE = 0.4
# Bytes that a process may take before the backward pass, which needs more than lies free: where all
# chunks keep their activations up to 0.1 GB, where gradients are cached up to 0.4.
GROWN, GROWN_CACHED = 3.65e9, 3.55e9
EMBEDDING_ROWS = 2  # of D in fp32 a token, that autograd keeps of the embeddings below such layers


@dataclass(frozen=True)
class Plan:
    """The way that one step encodes its texts.

    ``chunks``: positions of texts, longest first; ``tokens``: of all chunks, with what padding
    there is; ``kept``: how many chunks, from the first on, keep their activations; ``alone``: the
    only chunk may be recorded; ``shared``: what its chunks share (``Kernel.share_weights``).
    """

    chunks: list[np.ndarray]
    tokens: int
    kept: int
    alone: bool = False
    shared: object = None

    @property
    def keeps_all(self) -> bool:
        """Return true where no chunk's gradients are cached."""
        return self.kept == len(self.chunks)


class MemoryBudget:
    """The memory that a step may take on this device; remembers the chunk size that fits."""

    def __init__(self, encoder: Tower, compute: Compute, config: TrainConfig) -> None:
        self.encoder, self.compute, self.config = encoder, compute, config
        self.chunk_tokens = config.chunk_tokens
        self.room = ACTIVATION_BYTES
        if compute.device.type == "cuda":
            total = torch.cuda.get_device_properties(compute.device).total_memory
            self.room = int(GPU_SHARE * total / compute.sharers)

    @property
    def shrunk(self) -> bool:
        """Return true where memory did not suffice for chunks as large as they may be."""
        return self.chunk_tokens < self.config.chunk_tokens

    def plan(self, lengths: np.ndarray) -> Plan:
        """Return the plan of a step over texts of such lengths, in tokens."""
        recompute = self._recomputes_masks(lengths)
        shared = None
        if self.encoder.kernel is not None:
            shared = self.encoder.kernel.share_weights(recompute)
        taken, kept = self._chunks_and_kept(lengths, recompute)
        tokens = sum(self._tokens(lengths, taken))
        alone = kept > 0 and self._recurs(lengths, taken)
        return Plan(taken, tokens, kept, alone, shared)

    def _chunks_and_kept(
        self, lengths: np.ndarray, recompute: bool
    ) -> tuple[list[np.ndarray], int]:
        taken = self._chunks(lengths, self.chunk_tokens)
        if self._caches_all:
            return taken, 0
        if self.config.cache_gradients == "auto":
            much = recompute or self._fitting(lengths, taken, recompute) < len(taken)
            if much:  # more of smaller ones fit, and each needs less in passing
                half = max(int(lengths.max()), self.chunk_tokens // 2)
                taken = self._chunks(lengths, half)
                return taken, self._fitting(lengths, taken, recompute, embeddings=True)
        if self.compute.device.type == "cuda" and self.encoder.packs and not self.shrunk:
            # all is kept anyway, and a single chunk can be recorded
            taken = self._chunks(lengths, int(lengths.sum()))
        return taken, len(taken)

    @property
    def _caches_all(self) -> bool:
        """Return true where no chunk keeps its activations: one's alone are there at a time."""
        cache = self.config.cache_gradients
        return cache == "always" or (cache == "auto" and self.shrunk)

    def _chunks(self, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
        if self.encoder.packs:
            return list(chunks(lengths, budget, 0))
        gpu = self.compute.device.type == "cuda"
        return list(chunks(lengths, budget, 1 if gpu else BUCKETS))

    def _tokens(self, lengths: np.ndarray, taken: list[np.ndarray]) -> list[int]:
        """Return each chunk's tokens, padding included."""
        if self.encoder.packs:
            return [int(lengths[take].sum()) for take in taken]
        return [len(take) * int(lengths[take].max()) for take in taken]

    def _fitting(
        self,
        lengths: np.ndarray,
        taken: list[np.ndarray],
        recompute: bool,
        embeddings: bool = False,
    ) -> int:
        """Return how many chunks, from the first on, may keep their activations.

        ``embeddings``: reckon what autograd keeps of the embeddings below layers by hand, where
        such layers alone would fill the room.
        """
        by_hand = self._held(lengths, recompute)
        room = self.room if by_hand is None else self._room_by_hand
        more = 0.0
        if embeddings and by_hand is not None and by_hand > room:
            more = EMBEDDING_ROWS * 4 * self.encoder.hidden_size
        sizes = [
            self.activation_bytes(lengths[take], tokens, recompute) + more * tokens
            for take, tokens in zip(taken, self._tokens(lengths, taken), strict=True)
        ]
        return int((np.cumsum(sizes) <= room).sum())

    def _recomputes_masks(self, lengths: np.ndarray) -> bool:
        """Return true where a step draws masks of dropout again instead of keeping them.

        Else it would keep more than half of the room on the heap.
        """
        return not self._caches_all and (self._held(lengths, False) or 0) > self.room / 2

    @property
    def _room_by_hand(self) -> float:
        kernel = self.encoder.kernel
        return self.room * CONTIGUOUS if kernel is not None and kernel.contiguous else self.room

    def _held(self, lengths: np.ndarray, recompute: bool) -> int | None:
        """Return the bytes that layers by hand keep of such texts; None: there are none."""
        kernel = self.encoder.kernel
        if kernel is None or not len(lengths):
            return None
        return kernel.held_bytes(lengths, 2 if self.compute.autocast else 4, recompute)

    def _recurs(self, lengths: np.ndarray, taken: list[np.ndarray]) -> bool:
        """Return true where a GPU may record a step of these chunks, or rather this chunk.

        All that it keeps recorded must need no more than a step may that is not.
        """
        kernel = self.encoder.kernel
        if kernel is None or not kernel.recorded_sizes or len(taken) > 1:
            return False
        needed = self.activation_bytes(lengths, int(lengths.sum()))
        return kernel.recorded_sizes * needed <= self.room

    def activation_bytes(
        self, lengths: np.ndarray, tokens: int, recompute_masks: bool = False
    ) -> float:
        """Return the bytes that a step over texts of such lengths keeps; they fill ``tokens``.

        The tower says how many in 16 bits; fp32 takes twice that. Layers by hand know theirs.
        """
        known = self._held(lengths, recompute_masks)
        if known is not None:
            return float(known)
        return self.encoder.activation_bytes(lengths, tokens) * (1 if self.compute.autocast else 2)

    def make_room(self, all_kept: bool) -> None:
        """Give freed memory back before a backward pass, where a step keeps much.

        What others freed is of other sizes than what it needs. ``all_kept``: no chunk's gradients
        are cached.
        """
        kernel = self.encoder.kernel
        if kernel is None or kernel.kept_bytes() <= self.room / 2:
            return
        if process_memory.resident() > (GROWN if all_kept else GROWN_CACHED):
            process_memory.release_freed()

    def halve(self, longest: int, error: BaseException) -> None:
        """Go on in smaller chunks after ``error``; ``longest``: tokens of the longest text.

        Raises OutOfMemory where there are none.
        """
        if self.chunk_tokens <= longest:
            raise OutOfMemory(
                f"one text of {longest} tokens does not fit on {self.compute.device}: {error}"
            ) from error
        self.chunk_tokens = max(longest, self.chunk_tokens // 2)

    def release(self) -> None:
        """Give back all that the step kept which did not fit."""
        self.encoder.zero_grad(set_to_none=True)
        self.encoder.release()
        gc.collect()
        process_memory.release_freed()
        if self.compute.device.type == "cuda":
            torch.cuda.empty_cache()
