"""MarginMSE: a query prefers one title to another by as much as a teacher does.

    loss = sum_b w_b ((s+_b - s-_b) / t - (z+_b - z-_b))^2 / sum_b w_b

over rows whose two titles have a teacher's score, with s+ and s- the cosines of the row's query and
titles, z+ and z- the teacher's scores, t the temperature: scores of a cross-encoder are logits, and
differ by more than the 2 of cosines. Each negative of a row counts.

Source: Hofstaetter et al. 2020 (arXiv:2010.02666). Equal to sentence-transformers' MarginMSELoss of
cosines divided by t, with one negative and with several: tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from embsearch.data.batch import Batch
from embsearch.objectives.base import Objective, negative_weight, similarities, weighted_mean


@dataclass(frozen=True)
class MarginMSE(Objective):
    temperature: float

    def of_unit(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        positive_B, negative_B = similarities(unit_DE, batch)
        wanted_B = batch.teacher_B2[:, 0] - batch.teacher_B2[:, 1]
        scored_B = torch.isfinite(wanted_B)
        off_B = (positive_B - negative_B) / self.temperature - wanted_B.nan_to_num(0.0)
        return weighted_mean(off_B.square(), negative_weight(batch) * scored_B)
