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


def first_equal(value_B: Tensor) -> Tensor:
    """Return (B,) the first row with the same value. argmax takes the first of equals."""
    return (value_B[None, :] == value_B[:, None]).int().argmax(1)


def of_lists(value_B2: Tensor, batch: Batch) -> Tensor:
    """Return (B, C) the value that title c has in any row of row b's query; NaN where in none.

    ``value_B2`` is of the rows' positives and negatives. Of several values the highest holds.
    """
    own_BC = torch.stack([batch.positive_B, batch.negative_B], 1)[:, :, None] == batch.title_C
    lowest = torch.where(torch.isnan(value_B2), -torch.inf, value_B2)[:, :, None]
    row_BC = torch.where(own_BC, lowest, -torch.inf).amax(1)
    first_B = first_equal(batch.anchor_B)
    list_BC = torch.full_like(row_BC, -torch.inf).scatter_reduce(
        0, first_B[:, None].expand_as(row_BC), row_BC, "amax"
    )[first_B]
    return torch.where(torch.isinf(list_BC), torch.nan, list_BC)


def weighted_mean(loss_N: Tensor, weight_N: Tensor) -> Tensor:
    """Return the sum of w * loss over sum of w; 0, still differentiable, where all weights are 0."""
    weight_N = weight_N.to(loss_N.dtype)
    return (weight_N * loss_N).sum() / weight_N.sum().clamp(min=torch.finfo(loss_N.dtype).tiny)
