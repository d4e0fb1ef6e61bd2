"""Supervised contrastive loss: each text chooses all texts of its class among those of the batch.

    loss_v = - mean over p in P(v) of  log( exp(s_vp / t) / sum_d exp(s_vd / t) )

over the two texts v of every row; d runs over the other distinct texts of the batch, P(v) are those
among them that belong with v: the texts of rows of its class (``batch.known_BC`` of the row's query
and their positives), and further positives of its query. The loss is the weighted mean over texts
with a non-empty P. Range [0, 2 / t + log D].

Source: Khosla et al. 2020, Supervised Contrastive Learning (arXiv:2004.11362), equation 2, a row's
two texts in place of two views of an image. Further shape: V = 2 B texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from embsearch.data.batch import Batch
from embsearch.objectives.base import Objective, weighted_mean
from embsearch.objectives.infonce import own_title


@dataclass(frozen=True)
class SupCon(Objective):
    temperature: float

    def of_unit(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        view_V = torch.cat([batch.anchor_B, batch.positive_B])
        every_D = torch.arange(len(unit_DE), device=unit_DE.device)
        own_VD = view_V[:, None] == every_D
        belongs_VD = texts_of_class(batch, every_D).repeat(2, 1) & ~own_VD
        logits_VD = (unit_DE[view_V] @ unit_DE.T / self.temperature).masked_fill(own_VD, -torch.inf)
        log_share_VD = logits_VD - logits_VD.logsumexp(1, keepdim=True)
        count_V = belongs_VD.sum(1)
        loss_V = -log_share_VD.masked_fill(~belongs_VD, 0).sum(1) / count_V.clamp(min=1)
        return weighted_mean(loss_V, batch.weight_B.repeat(2) * (count_V > 0))


def texts_of_class(batch: Batch, every_D: Tensor) -> Tensor:
    """Return (B, D) true for the texts that belong with a row's two."""
    same_BB = batch.known_BC[:, own_title(batch)]
    same_BB = same_BB | same_BB.T
    of_row_BD = (batch.anchor_B[:, None] == every_D) | (batch.positive_B[:, None] == every_D)
    known_BD = torch.zeros_like(of_row_BD)
    known_BD[:, batch.title_C] = batch.known_BC
    return (same_BB.float() @ of_row_BD.float() > 0) | of_row_BD | known_BD
