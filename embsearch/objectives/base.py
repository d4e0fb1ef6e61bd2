"""The interface of objectives: vectors of a batch's distinct texts in, one number to minimise out.

An objective owns no parameters and no model, so a checkpoint holds only the encoder, and the
trainer may encode the texts in chunks of its choice.

Shapes, here and in every objective: B rows, D distinct texts, C distinct titles, E dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from embsearch.data.batch import Batch


class Objective(ABC):
    """A weighted mean loss of a batch. ``batch`` lies on the device of the embeddings."""

    def __call__(self, embeddings_DE: Tensor, batch: Batch) -> Tensor:
        """Return the loss, a scalar, in fp32 whatever the embeddings are and autocast says.

        The embeddings need not be normalised: only their direction counts.
        """
        # bf16 has 8 bits: similarities near 1 would come in steps of 1/128, and a temperature
        # of 0.05 makes 20 times that of it.
        with torch.autocast(embeddings_DE.device.type, enabled=False):
            return self.of_unit(unit(embeddings_DE), batch)

    @abstractmethod
    def of_unit(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        """Return the loss of embeddings of length 1."""


def unit(embeddings_DE: Tensor) -> Tensor:
    """Return embeddings scaled to length 1 in fp32 (fp64 stays). A zero vector stays zero.

    eps is above torch's 1e-12 because 1 / eps is the gradient at a zero vector.
    """
    exact = embeddings_DE if embeddings_DE.dtype == torch.float64 else embeddings_DE.float()
    return functional.normalize(exact, dim=-1, eps=1e-6)


def similarities(unit_DE: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the cosines of each row's query with its better and its worse title.

    Where a row has no negative the second is that with an arbitrary text: give it the weight
    of ``negative_weight``, which is 0 there.
    """
    anchor_BE = unit_DE[batch.anchor_B]
    positive_B = (anchor_BE * unit_DE[batch.positive_B]).sum(-1)
    negative_B = (anchor_BE * unit_DE[batch.negative_B.clamp(min=0)]).sum(-1)
    return positive_B, negative_B


def negative_weight(batch: Batch) -> Tensor:
    """Return (B,) the rows' weights, 0 where a row has no negative."""
    return batch.weight_B * (batch.negative_B >= 0)


def weighted_mean(loss_N: Tensor, weight_N: Tensor) -> Tensor:
    """Return the sum of w * loss over sum of w; 0, still differentiable, where all weights are 0."""
    weight_N = weight_N.to(loss_N.dtype)
    return (weight_N * loss_N).sum() / weight_N.sum().clamp(min=torch.finfo(loss_N.dtype).tiny)
