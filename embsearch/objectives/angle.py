"""AnglE: CoSENT on the angle between two texts as complex vectors, which does not flatten out.

    loss = log( 1 + sum over i, j with y_i > y_j of  w_i w_j exp((a_j - a_i) / t) )
    a = | sum of the real and imaginary parts of  z conj(w) |

where z and w are the row's two texts of length 1, the first half of a vector being the real part
and the second half the imaginary one; y, w_i and t are as in CoSENT. A cosine near 1 or -1 has
almost no gradient; this similarity has.

Source: Li and Li 2023, AnglE-optimized Text Embeddings (arXiv:2309.12871), equation 8, without its
other two terms. Equal to sentence-transformers' AnglELoss with scale = 1 / t: tested. A vector of
odd width gets a zero at its end.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from embsearch.data.batch import Batch
from embsearch.objectives.base import Objective
from embsearch.objectives.cosent import in_order


@dataclass(frozen=True)
class AnglE(Objective):
    temperature: float

    def of_unit(self, unit_DE: Tensor, batch: Batch) -> Tensor:
        even_DE = pad(unit_DE, (0, unit_DE.shape[-1] % 2))
        a_BH, b_BH = even_DE[batch.anchor_B].chunk(2, dim=-1)
        c_BH, d_BH = even_DE[batch.positive_B].chunk(2, dim=-1)
        real_B = (a_BH * c_BH + b_BH * d_BH).sum(-1)
        imaginary_B = (b_BH * c_BH - a_BH * d_BH).sum(-1)
        return in_order((real_B + imaginary_B).abs() / self.temperature, batch)
