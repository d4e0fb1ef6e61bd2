"""Dropout whose masks are drawn a byte an element instead of a float: the same noise for a tenth of the time.

The probability is a multiple of 1/256, the nearest to what is asked for (0.1 becomes 26/256 = 0.1016), and what is
kept is scaled by exactly that, so expectations are right. For CPUs, where drawing masks took an
eighth of a training step (docs/decisions/0013-attention-by-hand.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def threshold(probability: float) -> int:
    """Bytes below it are dropped."""
    return round(256 * probability)


def grown(probability: float) -> float:
    """What the kept are multiplied by: 1 / (share that is kept)."""
    return 256 / (256 - threshold(probability))


def _drawn(count: int, source: torch.Generator | None = None) -> Tensor:
    """(count,) bytes, in whole numbers of eight; from torch's own generator where no other is named."""
    whole = torch.empty(-(-count // 8), dtype=torch.int64)
    return whole.random_(-(2**63), None, generator=source).view(torch.uint8)[:count]


def mask(out: Tensor, probability: float, source: torch.Generator | None = None) -> Tensor:
    """``out`` with zeros and ``grown`` in it."""
    # straight into its dtype: through booleans it takes five times as long
    torch.ge(_drawn(out.numel(), source).view(out.shape), threshold(probability), out=out)
    return out.mul_(grown(probability))


def signs(count: int, probability: float, dtype: torch.dtype) -> Tensor:
    """(count,) numbers, below zero where dropout drops."""
    return _drawn(count).to(dtype).sub_(threshold(probability))


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float) -> Tensor:
        made = mask(torch.empty_like(x, memory_format=torch.contiguous_format), probability)
        ctx.save_for_backward(made)
        return x * made

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (made,) = ctx.saved_tensors
        return gradient * made, None


class ByteDropout(nn.Module):
    """``nn.Dropout`` with such masks."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or threshold(self.p) == 0:
            return x
        dropped: Tensor = _Dropped.apply(x, self.p)  # type: ignore[no-untyped-call]
        return dropped


def replace(model: nn.Module) -> None:
    """Put one in the place of every ``nn.Dropout`` of a model."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout and not child.inplace:
                setattr(module, name, ByteDropout(child.p).train(child.training))
