"""InfoNCE: each query chooses its title among all titles of the batch.

    loss_b = -log( exp(s_bp / t) / sum_c exp(s_bc / t) )

with s_bc the cosine of row b's query and title c of ``batch.title_C`` (each distinct title once,
better and worse ones alike), p row b's own positive, t the temperature, and c over the titles
that may serve as negatives, and p. Left out of the sum: titles that are positives of the query
anywhere in the data (``batch.known_BC``), and a title that is the query's own text, which no
encoder can tell from it. The loss is the weighted mean over rows. Range [0, 2 / t + log C]; a row
whose titles are all left out has loss 0 and no gradient.

``symmetric``: the mean of that and of its mirror, where row b's positive chooses among the
distinct queries of the batch, and those it is also a positive of are left out.

Source: van den Oord et al. 2018 (arXiv:1807.03748); in-batch negatives with hard ones, Karpukhin
et al. 2020 (arXiv:2004.04906); symmetric, Radford et al. 2021 (arXiv:2103.00020). With nothing to
leave out it equals sentence-transformers' MultipleNegativesRankingLoss: tested.

Further shape: Q = B, one column a row, of which repeated queries use the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from embsearch.data.batch import Batch
from embsearch.objectives.base import Objective, first_equal, weighted_mean


@dataclass(frozen=True)
class InfoNCE(Objective):
    temperature: float
    symmetric: bool = False

    def of_unit(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        loss_B = self._choose_title(unit_DE, batch)
        if self.symmetric:
            loss_B = (loss_B + self._choose_query(unit_DE, batch)) / 2
        return weighted_mean(loss_B, batch.weight_B)

    def _choose_title(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        scores_BC = unit_DE[batch.anchor_B] @ unit_DE[batch.title_C].T
        same_BC = batch.title_C[None, :] == batch.anchor_B[:, None]
        return self._choose(scores_BC, batch.known_BC | same_BC, own_title(batch))

    def _choose_query(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        scores_BQ = unit_DE[batch.positive_B] @ unit_DE[batch.anchor_B].T
        first_B = first_equal(batch.anchor_B)
        again_Q = first_B != torch.arange(len(first_B), device=first_B.device)
        known_BQ = batch.known_BC[:, own_title(batch)].T
        same_BQ = batch.anchor_B[None, :] == batch.positive_B[:, None]
        return self._choose(scores_BQ, known_BQ | same_BQ | again_Q, first_B)

    def _choose(self, scores_BN: Tensor, left_out_BN: Tensor, own_B: Tensor) -> Tensor:
        """Return the cross-entropy of each row's own choice against those not left out."""
        own_BN = torch.arange(scores_BN.shape[1], device=own_B.device) == own_B[:, None]
        logits_BN = (scores_BN / self.temperature).masked_fill(left_out_BN & ~own_BN, -torch.inf)
        return cross_entropy(logits_BN, own_B, reduction="none")


def own_title(batch: Batch) -> Tensor:
    """Return (B,) the column of ``title_C`` that holds the row's positive."""
    return (batch.title_C[None, :] == batch.positive_B[:, None]).int().argmax(1)
