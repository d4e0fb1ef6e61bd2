"""Contrastive loss on pairs: better titles are pulled in, worse ones pushed out to a margin.

    pair(d, y) = 1/2 (y d^2 + (1 - y) max(0, margin - d)^2),     d = 1 - s

with s the cosine of query and title, y = 1 for better titles and 0 for worse ones. The loss is
the weighted mean over pairs: two a row, one where a row has no negative. Range [0, 2].

Unlike the triplet loss it asks for absolute similarities (1 and at most 1 - margin), so the
scores of different queries become comparable, which pooled AUC measures.

Source: Hadsell, Chopra and LeCun 2006, Dimensionality Reduction by Learning an Invariant
Mapping, equation 4 with Y turned around. Equal to sentence-transformers' ContrastiveLoss, with
its SiameseDistanceMetric.COSINE_DISTANCE, over the same pairs: tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from embsearch.data.batch import Batch
from embsearch.objectives.base import Objective, negative_weight, similarities, weighted_mean


@dataclass(frozen=True)
class Contrastive(Objective):
    margin: float

    def of_unit(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        positive_B, negative_B = similarities(unit_DE, batch)
        pull_B = (1 - positive_B).square() / 2
        push_B = (self.margin - (1 - negative_B)).clamp(min=0).square() / 2
        return weighted_mean(
            torch.cat([pull_B, push_B]), torch.cat([batch.weight_B, negative_weight(batch)])
        )
