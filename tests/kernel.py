"""Stands in, on a CPU, for torch's flash kernel of texts of different lengths (kernels/flash.py, varlen)."""

from __future__ import annotations

import torch
from torch import Tensor


def varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    borders: Tensor,
    longest: int,
    scale: float,
    dropout: float,
    causal: bool,
) -> Tensor:
    """A text at a time, in any precision; (tokens, heads, width)."""
    assert borders.dtype == torch.int32
    assert q.is_contiguous()
    assert longest >= int(borders.diff().max())
    sizes, mixed = borders.diff().tolist(), []
    for query, key, value in zip(*(torch.split(t, sizes) for t in (q, k, v)), strict=True):
        scores = torch.einsum("qhw,khw->hqk", query, key) * scale
        if causal:
            scores = scores.masked_fill(
                torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf
            )
        mixed.append(
            torch.einsum("hqk,khw->qhw", torch.dropout(scores.softmax(-1), dropout, True), value)
        )
    return torch.cat(mixed)
