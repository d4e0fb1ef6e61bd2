"""The seam for faster ways to encode. The plain path knows kernels by this protocol alone.

A kernel gives the vectors and gradients of the plain path. Which one an encoder gets, if any, is
decided in kernels/select.py. Shapes: B texts, T tokens, E the width of the embedding, D of a layer.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from torch import Tensor


class Kernel(Protocol):
    """A stand-in for the plain path of one encoder."""

    @property
    def recorded_sizes(self) -> int:
        """Return how many sizes of steps it keeps recorded at most; 0 where it records none."""

    @property
    def contiguous(self) -> bool:
        """Return true where the activations that it keeps lie in one stretch of memory."""

    def encode(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        states: Tensor | None = None,
        alone: bool = False,
        shared: Any = None,
    ) -> Tensor:
        """Return (B, E) embeddings of texts whose ids lie end to end, the longest text first.

        ``states``: (T, D) of these texts after the frozen layers, as ``frozen_states`` gives them.
        ``alone``: this is the only chunk of a training step; its vectors and gradients may be
        overwritten once the next step begins. ``shared``: what ``share_weights`` gave.
        """

    def share_weights(self, recompute_masks: bool) -> object:
        """Return what chunks share while no weight changes; None where that is nothing.

        ``recompute_masks``: draw dropout's masks again in the backward pass instead of keeping
        them.
        """

    def frozen_layers(self, lengths: np.ndarray) -> int:
        """Return how many of the lowest layers learn nothing and need be computed only once.

        ``lengths``: of all texts, in tokens. 0 where ``frozen_states`` cannot be used.
        """

    def frozen_states(self, ids: np.ndarray, lengths: np.ndarray, count: int) -> Tensor:
        """Return (T, D) after the lowest ``count`` layers, without gradient."""

    def held_bytes(self, lengths: np.ndarray, itemsize: int, recompute_masks: bool) -> int | None:
        """Return the bytes that a chunk of such texts keeps for its backward pass.

        None where the layers go through autograd, whose share is not known to the tensor.
        """

    def kept_bytes(self) -> int:
        """Return the bytes that are kept now for backward passes, in the kernel's own memory."""

    def gradient(self) -> Tensor | None:
        """Return all gradients end to end, of which the parameters' are views.

        None where they lie apart.
        """

    def release_unused(self) -> None:
        """Give memory back that nothing lies in."""

    def release(self) -> None:
        """Give back all memory that is kept between steps; recorded sizes are recorded anew."""
