"""CoSENT: of two pairs of texts the one with the higher score has the higher cosine.

    loss = log( 1 + sum over i, j with y_i > y_j of  w_i w_j exp((s_j - s_i) / t) )

with s the cosine of a row's two texts, y its score, w its weight, t the temperature, and i, j the
rows of the batch. Only the order of the scores counts. Range [0, 2 / t + log(1 + B^2 / 4)] where
weights are 1; 0, without a gradient, where all rows have one score.

Source: Su 2022, CoSENT (https://kexue.fm/archives/8847). Equal to sentence-transformers'
CoSENTLoss with scale = 1 / t: tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from embsearch.data.batch import Batch
from embsearch.objectives.base import Objective


@dataclass(frozen=True)
class CoSENT(Objective):
    temperature: float

    def of_unit(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        cosine_B = (unit_DE[batch.anchor_B] * unit_DE[batch.positive_B]).sum(-1)
        return in_order(cosine_B / self.temperature, batch)


def in_order(logit_B: Tensor, batch: Batch) -> Tensor:
    """Return the loss where the order of ``logit_B`` is not that of the rows' scores."""
    weight_B = batch.weight_B.to(logit_B.dtype)
    lowest = torch.finfo(logit_B.dtype).tiny
    log_weight_BB = (weight_B[:, None] * weight_B[None, :]).clamp(min=lowest).log()
    higher_BB = batch.score_B[:, None] > batch.score_B[None, :]
    wrong_BB = logit_B[None, :] - logit_B[:, None] + log_weight_BB
    wrong_BB = wrong_BB.masked_fill(~higher_BB, -torch.inf)
    return torch.logsumexp(torch.cat([logit_B.new_zeros(1), wrong_BB.flatten()]), 0)
