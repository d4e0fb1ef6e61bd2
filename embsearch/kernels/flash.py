"""A GPU's attention of texts without padding: flash, or a kernel for short texts where most are.

Both take all of a chunk at once, in 16 bits.
"""

from __future__ import annotations

from functools import cache
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from embsearch.kernels.packing import LONG, Packing
from embsearch.model.device import reason

# Tokens, share of texts: as of ``mostly_short``.
SHORT, FEW = 32, 0.125


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    scale: float,
    dropout: float,
    causal: bool,
) -> Tensor:
    """Return (tokens, heads, width) of (1, heads, tokens, width), in autocast's 16 bits."""
    device = query.device.type
    dtype = query.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    q, k, v = (t.squeeze(0).transpose(0, 1).to(dtype).contiguous() for t in (query, key, value))
    if packing.short and v.shape == q.shape and not why_not_short(q.shape[-1], causal, q.device):
        from embsearch.kernels import short_attention

        return short_attention.attention(q, k, v, packing.borders, scale, dropout, causal)
    return varlen(q, k, v, packing.borders, packing.longest, scale, dropout, causal)


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
    """Return flash attention of (tokens, heads, width), texts between ``borders``.

    None has more than ``longest`` tokens. This is the kernel behind
    torch.nn.attention.varlen.varlen_attn, which leaves no choice of dropout.
    """
    around = borders, borders, longest, longest
    mixed, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, *around, dropout, causal, False, scale=scale
    )
    return cast(Tensor, mixed)


def mostly_short(lengths: np.ndarray) -> bool:
    """Return true where the kernel of short texts is faster than flash for such ``lengths``.

    On an H100 a text of up to SHORT tokens takes it about a quarter of flash's time, one of up to
    LONG four times; none may be longer.
    """
    return bool(lengths.max() <= LONG and (lengths > SHORT).mean() <= FEW)


def describe(base: nn.Module) -> str:
    """Return what a packed model's attention is computed by on a GPU, and why."""
    config = base.config
    heads = getattr(config, "num_attention_heads", 0)
    width = getattr(config, "head_dim", None)
    width = width or (getattr(config, "hidden_size", 0) // heads if heads else 0)
    causal = any(getattr(module, "is_causal", False) for module in base.modules())
    why_not = why_not_short(width, causal, next(base.parameters()).device)
    if why_not:
        return f"the flash kernel alone: {why_not}"
    return "the flash kernel, short ones by one for them"


@cache
def why_not_short(width: int, causal: bool, device: torch.device) -> str:
    """Return why short texts go through the flash kernel too; empty where they do not.

    ``width``: of a head. Decided once in a process, by trying.
    """
    if device.type != "cuda":
        return "it is for GPUs"
    try:
        from embsearch.kernels import short_attention

        if width not in short_attention.WIDTHS:
            return f"heads are {width} wide"
        plain = torch.autocast(device.type, enabled=False)
        draws = torch.random.fork_rng([device])
        with torch.inference_mode(False), torch.enable_grad(), plain, draws:
            short_attention.check(width, causal, device)
    except Exception as error:  # no Triton, no compiler, too little shared memory
        return reason(error)
    return ""
