"""KL divergence from a teacher: a query chooses among its own titles as the teacher does.

    loss_b = sum over c of  p_bc log( p_bc / q_bc )
    p_b = softmax of the teacher's scores,     q_b = softmax of s_bc / t

over the titles c that rows of row b's query in the batch have with a teacher's score, s_bc being
the cosine of query and title, t the temperature. The loss is the weighted mean over rows; those of
one query lie side by side (``Entry.lists``). Range [0, 2 / t + log C]; a query with one scored
title has loss 0.

Source: Lin et al. 2020 (arXiv:2010.11386). Equal to sentence-transformers' DistillKLDivLoss of
cosines divided by t: tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from embsearch.data.batch import Batch
from embsearch.objectives.base import Objective, of_lists, weighted_mean

FAR = -1e4  # a logit of no weight; minus infinity would make the gradient NaN


@dataclass(frozen=True)
class KL(Objective):
    temperature: float

    def of_unit(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        teacher_BC = of_lists(batch.teacher_B2, batch).to(unit_DE.dtype)
        none_BC = torch.isnan(teacher_BC)
        logits_BC = unit_DE[batch.anchor_B] @ unit_DE[batch.title_C].T / self.temperature
        mine_BC = logits_BC.masked_fill(none_BC, FAR).log_softmax(1)
        theirs_BC = teacher_BC.masked_fill(none_BC, FAR).log_softmax(1)
        apart_B = (theirs_BC.exp() * (theirs_BC - mine_BC)).masked_fill(none_BC, 0).sum(1)
        return weighted_mean(apart_B, batch.weight_B * (~none_BC).any(1))
