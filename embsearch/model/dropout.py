"""Dropout whose masks are drawn a byte an element instead of a float: the same noise for a tenth of the time.

The probability is a multiple of 1/256, the nearest to what is asked for (0.1 becomes 26/256 = 0.1016), and what is
kept is scaled by exactly that, so expectations are right. For CPUs, where drawing masks took an
eighth of a training step (docs/decisions/0013-attention-by-hand.md).

Many bytes at once are AES's, under a key that torch's generator draws: CPUs compute it themselves, five times as
fast as torch draws, and no test of randomness is known to tell it from chance (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"; docs/decisions/0031-masks-from-aes.md).
"""

from __future__ import annotations

from typing import Any

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor, nn

MANY = 2**19  # bytes from which on a cipher pays
UNIT = 2**17  # that it encrypts at a time: as much as stays in the nearest cache
ZEROS = bytes(UNIT)
SPARE = 15  # bytes of room that it asks for beyond


def threshold(probability: float) -> int:
    """Bytes below it are dropped."""
    return round(256 * probability)


def grown(probability: float) -> float:
    """What the kept are multiplied by: 1 / (share that is kept)."""
    return 256 / (256 - threshold(probability))


def drawn(count: int, source: torch.Generator | None = None) -> Tensor:
    """(count,) uint8, uniform; all that is random comes from torch's own generator where no other is named.

    Of many, each unit is the encryption of the one before it, the first that of zeros, each block in it under a tweak
    of its own: AES-XTS, for which OpenSSL has the widest instructions.
    """
    if count < MANY:
        return _by_torch(count, source)
    key = _by_torch(48, source).numpy().tobytes()
    stream = Cipher(algorithms.AES(key[:32]), modes.XTS(key[32:])).encryptor()
    found = torch.empty(-(-count // UNIT) * UNIT + SPARE, dtype=torch.uint8)
    last, room = memoryview(ZEROS), found.numpy().data
    for begin in range(0, count, UNIT):
        stream.update_into(last, room[begin : begin + UNIT + SPARE])
        last = room[begin : begin + UNIT]
    return found[:count]


def _by_torch(count: int, source: torch.Generator | None) -> Tensor:
    """The same in whole numbers of eight."""
    whole = torch.empty(-(-count // 8), dtype=torch.int64)
    return whole.random_(-(2**63), None, generator=source).view(torch.uint8)[:count]


def mask(out: Tensor, probability: float, source: torch.Generator | None = None) -> Tensor:
    """``out`` with zeros and ``grown`` in it."""
    whole = _whole(out)  # straight into its dtype: through booleans it takes five times as long
    torch.ge(drawn(out.numel(), source).view(out.shape), threshold(probability), out=whole)
    whole.mul_(int(_whole(out.new_tensor(grown(probability)))))
    return out


def drop(weights: Tensor, by: Tensor, probability: float, out: Tensor) -> Tensor:
    """What dropout leaves of ``weights``, none of them below zero, by as many bytes, in ``out``, not scaled; what it
    drops has a minus there afterwards."""
    whole = _whole(weights)
    dropped = torch.empty_like(whole)
    torch.lt(by.view(whole.shape), threshold(probability), out=dropped)
    torch.addcmul(whole, whole, dropped, value=-1, out=_whole(out))  # not by comparing: what is no number stays none
    whole.add_(dropped, alpha=torch.iinfo(whole.dtype).min)
    return out


def left(marked: Tensor) -> Tensor:
    """Such weights with zeros for those that have a minus."""
    return _whole(marked).clamp_min(0).view(marked.dtype)


def passed(gradient: Tensor, marked: Tensor) -> Tensor:
    """``gradient``, in its place, with zeros where ``marked`` has none of its weights left."""
    whole = _whole(gradient)
    torch.ops.aten.threshold_backward(whole, _whole(marked), 0, grad_input=whole)
    return gradient


def _whole(x: Tensor) -> Tensor:
    """Its bytes as whole numbers, in the order of the numbers from zero on. In bf16 torch's operations on those take
    a third of the time."""
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize])


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
