"""The kernel of GPUs: texts without padding by flash attention, steps replayed as CUDA graphs.

A small encoder's step is some thousand short kernels that the host launches one by one, and the GPU
waits for it. A graph is launched as one. It holds for one size, so a chunk is filled up to a size
that recurs (graph_sizes.py); a size that has recurred is recorded, forward and backward. Recording
changes nothing.

A replay overwrites the vectors, states and gradients of the one before, whatever its size. So a
step may use graphs only where it is one chunk (train/memory_budget.py), and begins without
gradients.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from embsearch.data.batch import onto
from embsearch.kernels.graph_recording import Chunk, GraphWeights, RecordedChunk, record
from embsearch.kernels.graph_sizes import Size, fill
from embsearch.kernels.packing import joined
from embsearch.model.device import reason
from embsearch.model.positions import positions

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Chunks of a size before it is recorded, which takes 0.05 to 0.08 s: repaid within ten steps.
RECUR = 4
MOST = 8  # sizes kept; the one not used for longest makes room


class FlashKernel:
    """Chunks without padding on a GPU, those of recurring sizes by graphs."""

    recorded_sizes = MOST
    contiguous = False

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model
        base = model.transformers_model
        assert base is not None, "pretrained.build checked that this is a text transformer"
        self._first, _ = positions(base)
        self._seen: dict[Size, int] = {}
        self._recorded: OrderedDict[Size, RecordedChunk] = OrderedDict()
        self._weights: GraphWeights | None = None
        self.why_not = ""  # nothing is recorded any more

    def encode(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        states: Tensor | None = None,
        alone: bool = False,
        shared: object = None,
    ) -> Tensor:
        """Return (B, E) embeddings, as of ``Kernel.encode``."""
        texts = len(lengths)
        weights = self._weights
        learning = self._model.parameters() if weights is None else weights.parameters
        cleared = all(p.grad is None for p in learning)
        if self.why_not or not (alone and self._model.training and cleared):
            plain: Tensor = self._plain(Size.of(lengths))(self._moved(ids, lengths))
            return plain
        size = Size.of(lengths).filled()
        chunk = self._moved(*fill(ids, lengths, size))
        device = chunk.device.type
        dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        # autocast would keep what it cast while a graph was recorded for the steps after it
        with torch.autocast(device, dtype, enabled, cache_enabled=False):
            embeddings_BE: Tensor = self._step(size, chunk)(chunk)
        return embeddings_BE[:texts]

    def share_weights(self, recompute_masks: bool) -> None:
        """Share nothing: autocast keeps the casts of a step."""

    def frozen_layers(self, lengths: np.ndarray) -> int:
        """Return 0: frozen layers are computed at every step."""
        return 0

    def frozen_states(self, ids: np.ndarray, lengths: np.ndarray, count: int) -> Tensor:
        """Raise: there are none."""
        raise NotImplementedError("frozen layers are computed at every step on a GPU")

    def held_bytes(self, lengths: np.ndarray, itemsize: int, recompute_masks: bool) -> None:
        """Return None: the layers go through autograd."""

    def kept_bytes(self) -> int:
        """Return 0: activations are in torch's own memory."""
        return 0

    def gradient(self) -> Tensor | None:
        """Return all gradients end to end, where the last step's were left so."""
        weights = self._weights
        return weights.gradient if weights is not None and weights.handed_over() else None

    @property
    def sizes(self) -> list[Size]:
        """Return the sizes recorded, the one used last at the end."""
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
                dtype = torch.get_autocast_dtype(chunk.device.type)
                self._weights = GraphWeights(self._plain(size), dtype)
            self._recorded[size] = record(self._plain(size), chunk, self._weights)
        except BaseException as error:
            self.release()  # the random state they captured may have been replaced
            if not isinstance(error, Exception):
                raise
            self.why_not = reason(error)
            print(
                f"training steps are not replayed as CUDA graphs: {self.why_not}",
                file=sys.stderr,
                flush=True,
            )
            return self._plain(size)
        return self._recorded[size]

    def release_unused(self) -> None:
        """Do nothing: graphs are used again."""

    def release(self) -> None:
        """Give back the memory of what was recorded; sizes that recur are recorded anew."""
        self._recorded.clear()
        self._seen.clear()
        self._weights = None

    def _plain(self, size: Size) -> Chunk:
        return Chunk(self._model, size, self._first)

    def _moved(self, ids: np.ndarray, lengths: np.ndarray) -> Tensor:
        return onto(next(self._model.parameters()).device, joined(ids, lengths))
