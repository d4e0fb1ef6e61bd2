"""Triplet loss on cosines: the better title leads the worse one by a margin.

    loss = sum_b w_b max(0, margin - (s+_b - s-_b)) / sum_b w_b     over rows with a negative

with s+_b, s-_b the cosines of row b's query with its better and its worse title. Range
[0, margin + 2]. A row that already leads by the margin has no gradient.

Source: Schroff et al. 2015, FaceNet (arXiv:1503.03832), with cosines for squared distances
(on unit vectors |a - b|^2 = 2 - 2s, so their margin is twice ours). Equal to
sentence-transformers' TripletLoss with TripletDistanceMetric.COSINE: tested.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from embsearch.data.batch import Batch
from embsearch.objectives.base import Objective, negative_weight, similarities, weighted_mean


@dataclass(frozen=True)
class Triplet(Objective):
    margin: float

    def of_unit(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        positive_B, negative_B = similarities(unit_DE, batch)
        lead_B = positive_B - negative_B
        return weighted_mean((self.margin - lead_B).clamp(min=0), negative_weight(batch))
