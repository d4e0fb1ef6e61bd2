"""Listwise softmax: each query spreads its choice over all its good titles, by their grades.

    loss_b = - sum over c of  p_bc log( exp(s_bc / t) / sum_d exp(s_bd / t) )
    p_bc = g_bc / sum_d g_bd,     g_bc = max(0, 2^y_bc - 1)

with s_bc the cosine of row b's query and title c of ``batch.title_C``, y_bc the grade that any row
of this query in the batch gives the title, and gain 0 for titles that none does; t is the
temperature. A row's better title gains something also where no grade is above 0. Left out of the
sums, as by InfoNCE: positives of the query that no row of the batch has, and the query's own text.
The loss is the weighted mean over rows; rows of one query lie side by side (``Entry.lists``).
Range [0, 2 / t + log C].

Source: the softmax loss of Cao et al. 2007, ListNet (ICML), with the gains of nDCG as target, a
bound of 1 - nDCG (Bruch 2021, arXiv:1911.09798, where gamma is 1); all titles of the batch as
negatives, as of InfoNCE, which it is where each query has one good title in the batch: tested, and
against torch's cross-entropy with these targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from embsearch.data.batch import Batch
from embsearch.objectives.base import Objective, of_lists, weighted_mean

LEAST = 1e-6  # of a gain: what a row's better title has where its grade gains nothing


@dataclass(frozen=True)
class Listwise(Objective):
    temperature: float

    def of_unit(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        share_BC = target(batch).to(unit_DE.dtype)
        same_BC = batch.title_C[None, :] == batch.anchor_B[:, None]
        left_out_BC = (batch.known_BC | same_BC) & (share_BC == 0)
        logits_BC = unit_DE[batch.anchor_B] @ unit_DE[batch.title_C].T / self.temperature
        logits_BC = logits_BC.masked_fill(left_out_BC, -torch.inf)
        choice_BC = logits_BC.log_softmax(1).masked_fill(left_out_BC, 0)
        return weighted_mean(-(share_BC * choice_BC).sum(1), batch.weight_B)


def target(batch: Batch) -> Tensor:
    """Return (B, C) the share of each title in the choice of row b's query."""
    usual_B2 = batch.weight_B.new_tensor([1.0, 0.0]).expand(len(batch.anchor_B), 2)
    grade_B2 = batch.grade_B2 if len(batch.grade_B2) else usual_B2
    gain_B2 = (torch.exp2(grade_B2) - 1).clamp(min=0)
    gain_B2 = torch.stack([gain_B2[:, 0].clamp(min=LEAST), gain_B2[:, 1]], 1)
    gain_BC = of_lists(gain_B2, batch).nan_to_num(0.0)
    return gain_BC / gain_BC.sum(1, keepdim=True)
