"""The kernel of CPUs: texts without padding, BERT's layers by hand where an encoder has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from embsearch.kernels.attention import WRITTEN_OUT
from embsearch.kernels.bert import BertStack, FrozenWeights
from embsearch.kernels.packing import Packing, features

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class UnpaddedKernel:
    """Chunks without padding on a CPU.

    The model's attention must take packed texts (attention_interface.py). ``stack``: its layers by
    hand; texts that are too long for that go through the layers themselves.
    """

    recorded_sizes = 0

    def __init__(self, model: SentenceTransformer, stack: BertStack | None) -> None:
        self._model, self.stack = model, stack

    def encode(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        states: Tensor | None = None,
        alone: bool = False,
        shared: FrozenWeights | None = None,
    ) -> Tensor:
        """Return (B, E) embeddings, as of ``Kernel.encode``."""
        packing = Packing.of(lengths)
        given = features(self._model, ids, packing)
        if self.stack is None or packing.longest > WRITTEN_OUT:
            embeddings_BE: Tensor = self._model(given)["sentence_embedding"]
            return embeddings_BE
        layers = slice(None)
        if states is not None:
            layers = slice(self.stack.frozen(), None)
        else:
            states = self._embedded(given)
        hidden_TD = self.stack(states, packing.runs, layers, shared)
        del given["packing"]
        given["token_embeddings"] = hidden_TD.to(self._dtype)[None]
        for module in list(self._model)[1:]:  # pooling and what follows it
            given = module(given)
        pooled_BE: Tensor = given["sentence_embedding"]
        return pooled_BE

    def _embedded(self, given: dict[str, Any]) -> Tensor:
        """Return (T, D) of the token and position tables."""
        base: Any = self._model.transformers_model
        found: Tensor = base.embeddings(
            input_ids=given["input_ids"], position_ids=given["position_ids"]
        )[0]
        return found

    @property
    def _dtype(self) -> torch.dtype:
        base: Any = self._model.transformers_model
        found: torch.dtype = base.embeddings.LayerNorm.weight.dtype
        return found

    def share_weights(self, recompute_masks: bool) -> FrozenWeights:
        """Return the casts of weights that the chunks of a step share."""
        return FrozenWeights(recompute_masks)

    def frozen_layers(self, lengths: np.ndarray) -> int:
        """Return how many of the lowest layers learn nothing, where all texts are short enough."""
        if self.stack is None or lengths.max() > WRITTEN_OUT:
            return 0
        return self.stack.frozen()

    def frozen_states(self, ids: np.ndarray, lengths: np.ndarray, count: int) -> Tensor:
        """Return (T, D) after the lowest ``count`` layers."""
        assert self.stack is not None, "frozen_layers was above 0"
        packing = Packing.of(lengths)
        hidden_TD = self._embedded(features(self._model, ids, packing))
        return self.stack(hidden_TD, packing.runs, slice(count))

    def held_bytes(self, lengths: np.ndarray, itemsize: int, recompute_masks: bool) -> int | None:
        """Return the bytes that the layers by hand keep of a chunk of such texts."""
        if self.stack is None:
            return None
        return self.stack.held_bytes(lengths, itemsize, recompute_masks)

    @property
    def contiguous(self) -> bool:
        """Return true where what the layers by hand keep lies in one stretch of memory."""
        return self.stack is not None and self.stack.arena.mapped

    def kept_bytes(self) -> int:
        """Return the bytes of the arena up to the end of its last block."""
        return 0 if self.stack is None else self.stack.arena.top

    def gradient(self) -> None:
        """Return None: gradients lie apart."""

    def release_unused(self) -> None:
        """Give back the pages of the arena, where nothing lies in it."""
        if self.stack is not None:
            self.stack.arena.release_unused()

    def release(self) -> None:
        """Give back the pages of the arena, where nothing lies in it."""
        self.release_unused()
