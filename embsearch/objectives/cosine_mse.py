"""Cosine regression: the cosine of a pair should be its score.

    loss = sum_b w_b (s_b - y_b)^2 / sum_b w_b

with s the cosine of a row's two texts and y its score between 0 and 1. Range [0, 4].

Source: Reimers and Gurevych 2019, Sentence-BERT (arXiv:1908.10084). Equal to
sentence-transformers' CosineSimilarityLoss: tested.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from embsearch.data.batch import Batch
from embsearch.objectives.base import Objective, weighted_mean


@dataclass(frozen=True)
class CosineMSE(Objective):
    def of_unit(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        cosine_B = (unit_DE[batch.anchor_B] * unit_DE[batch.positive_B]).sum(-1)
        return weighted_mean((cosine_B - batch.score_B).square(), batch.weight_B)
