"""Binary cross-entropy on the pair's similarity: is this title right for this query, alone?

    logit = (s - 1/2) / temperature
    pair(logit, y) = -y log sigmoid(logit) - (1 - y) log sigmoid(-logit)

with s the cosine of query and title, y = 1 for better titles and 0 for worse ones. The loss is
the weighted mean over pairs: two a row, one where a row has no negative. Range
(0, softplus(3 / (2 temperature))]: with 0.05 it is (0, 30].

The bias is fixed at s = 1/2, half-way between unrelated (0) and the same (1). Without one, s = 0
would be the border, and a worse title would have to point away from its query: unrelated texts
are about orthogonal, so all space between 0 and 1 would be given up. A learned bias (SigLIP's
starts at -10 with scale 10, that is s = 1, for one positive among thousands of negatives) would
be a parameter outside the encoder; here classes are about even, and half-way needs none.

Source: the pairwise form of Zhai et al. 2023, Sigmoid Loss for Language Image Pre-Training
(arXiv:2303.15343), over judged pairs only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from embsearch.data.batch import Batch
from embsearch.objectives.base import Objective, negative_weight, similarities, weighted_mean

BORDER = 0.5  # the cosine that is even odds


@dataclass(frozen=True)
class BinaryCrossEntropy(Objective):
    temperature: float

    def of_unit(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        positive_B, negative_B = similarities(unit_DE, batch)
        right_B = softplus(-(positive_B - BORDER) / self.temperature)  # -log sigmoid(logit)
        wrong_B = softplus((negative_B - BORDER) / self.temperature)
        return weighted_mean(
            torch.cat([right_B, wrong_B]), torch.cat([batch.weight_B, negative_weight(batch)])
        )
