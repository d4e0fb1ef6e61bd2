"""Dropout whose masks are drawn a byte an element instead of a float: the same noise for less time.

The probability is a multiple of 1/256, the nearest to what is asked for (0.1 becomes 26/256 =
0.1016), and what survives is scaled by exactly that, so expectations are right. For CPUs, where
drawing masks took an eighth of a training step (docs/decisions/0013-attention-by-hand.md).

Masks are made and used as whole numbers: the bits of floating-point numbers that are not below zero
stand in the numbers' order, and torch's operations on whole numbers of 16 bits take a third of the
time of those in bf16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embsearch.kernels.context import Context


def threshold(probability: float) -> int:
    """Return the number below which a byte drops its element."""
    return round(256 * probability)


def keep_scale(probability: float) -> float:
    """Return what survivors are multiplied by: 1 / (share that survives)."""
    return 256 / (256 - threshold(probability))


def random_bytes(count: int, source: torch.Generator | None = None) -> Tensor:
    """Return (count,) uint8, uniform, from torch's own generator or from ``source``."""
    whole = torch.empty(-(-count // 8), dtype=torch.int64)  # eight bytes a number
    return whole.random_(-(2**63), None, generator=source).view(torch.uint8)[:count]


def mask(out: Tensor, probability: float, source: torch.Generator | None = None) -> Tensor:
    """Fill ``out`` with zeros and ``keep_scale``, and return it."""
    whole = _as_integers(
        out
    )  # straight into its dtype: by way of booleans takes five times as long
    drawn = random_bytes(out.numel(), source).view(out.shape)
    torch.ge(drawn, threshold(probability), out=whole)
    whole.mul_(int(_as_integers(out.new_tensor(keep_scale(probability)))))
    return out


def drop(weights: Tensor, noise: Tensor, probability: float, out: Tensor) -> Tensor:
    """Write what dropout leaves of ``weights`` into ``out``, not scaled, and return it.

    ``weights``: none below zero; those that are dropped have a minus afterwards. ``noise``: as many
    random bytes.
    """
    whole = _as_integers(weights)
    dropped = torch.empty_like(whole)
    torch.lt(noise.view(whole.shape), threshold(probability), out=dropped)
    # multiplied instead of compared, so that NaN propagates
    torch.addcmul(whole, whole, dropped, value=-1, out=_as_integers(out))
    whole.add_(dropped, alpha=torch.iinfo(whole.dtype).min)
    return out


def surviving(marked: Tensor) -> Tensor:
    """Return such weights with zeros in the place of those that have a minus."""
    return _as_integers(marked).clamp_min(0).view(marked.dtype)


def mask_gradient(gradient: Tensor, marked: Tensor) -> Tensor:
    """Set ``gradient`` to zero where ``marked`` has no weight left, and return it."""
    whole = _as_integers(gradient)
    torch.ops.aten.threshold_backward(whole, _as_integers(marked), 0, grad_input=whole)
    return gradient


def _as_integers(x: Tensor) -> Tensor:
    """Return a view of the same bytes as whole numbers of the same width."""
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize])


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, probability: float) -> Tensor:
        empty = torch.empty_like(x, memory_format=torch.contiguous_format)
        made = mask(empty, probability)
        ctx.save_for_backward(made)
        return x * made

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, None]:
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


def use_byte_dropout(model: nn.Module) -> None:
    """Put a ByteDropout in the place of every ``nn.Dropout`` of ``model``, in the same mode."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout and not child.inplace:
                setattr(module, name, ByteDropout(child.p).train(child.training))
