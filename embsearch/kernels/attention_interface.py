"""Packed attention through transformers' own interface: the model's code stays as it is.

On a GPU a call per distinct length would wait for launches; there flash.py takes all of a chunk at
once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as dropout_of
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from embsearch.kernels import attention as attend
from embsearch.kernels import flash
from embsearch.kernels.packing import Packing
from embsearch.model.device import product_dtype
from embsearch.model.encoder import PLAIN

if TYPE_CHECKING:
    pass

NAME = "embsearch_packed"


class Windowed(RuntimeError):
    """A layer looks only near by, which packed attention does not know of."""


def register() -> None:
    """Make packed attention known to transformers under NAME."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _mask)


def switch_to_packed(transformer: Any) -> Callable[[], None]:
    """Let the attention of sentence-transformers' ``transformer`` take packed texts.

    Padded texts go on as before. Returns what undoes it.
    """
    register()
    base = transformer.auto_model
    before, known = base.config._attn_implementation, transformer.model_forward_params

    def undo() -> None:
        base.set_attn_implementation(before)
        transformer.model_forward_params = known

    base.set_attn_implementation(NAME)
    if known is not None:
        transformer.model_forward_params = known | {"packing", "position_ids"}
    return undo


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Return block-diagonal attention of (1, heads, tokens, width).

    Padded input goes to transformers' sdpa. Raises Windowed.
    """
    if packing is None:
        padded: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return padded
    if more.get("sliding_window"):
        raise Windowed("attention that looks only near by")
    if key.shape[1] != query.shape[1]:  # grouped heads
        groups = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    causal = bool(getattr(module, "is_causal", False))
    if packing.flash:
        return flash.attention(query, key, value, packing, scale, dropout, causal)[None], None
    if module.training and packing.longest <= attend.WRITTEN_OUT:
        return _written_out(query, key, value, packing, scale, dropout, causal)[None], None
    sizes = [count * length for count, length in packing.runs]
    parts = (torch.split(t.squeeze(0), sizes, dim=1) for t in (query, key, value))
    mixed = []
    for run, q, k, v in zip(packing.runs, *parts, strict=True):
        plain = module.training and run[1] <= PLAIN
        q, k, v = (t.view(len(t), *run, -1) for t in (q, k, v))
        found = _dense(q, k, v, scale, dropout, causal and run[1] > 1, plain)
        mixed.append(found.flatten(1, 2))
    return torch.cat(mixed, dim=1).transpose(0, 1)[None], None


def _written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    scale: float,
    dropout: float,
    causal: bool,
) -> Tensor:
    dtype = product_dtype(query)
    # rotated queries and keys may be fp32
    rows = (t.squeeze(0).transpose(0, 1).to(dtype) for t in (query, key, value))
    orders = packing.orders(query.shape[1])
    with torch.autocast("cpu", enabled=False):
        found: Tensor = attend.Attention.apply(  # type: ignore[no-untyped-call]
            *rows, packing.runs, orders, scale, dropout, causal
        )
    return found


def _dense(
    q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float, causal: bool, plain: bool
) -> Tensor:
    """Return attention of (heads, texts, tokens, width)."""
    if not plain:
        return scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, scale=scale, is_causal=causal
        )
    scores = (q @ k.transpose(-1, -2)) * scale
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return dropout_of(scores.softmax(-1), dropout) @ v


def _mask(*args: Any, attention_mask: Tensor | None = None, **more: Any) -> Tensor | None:
    """Return no mask for packed texts, transformers' own for padded ones."""
    if attention_mask is None:
        return None
    more["attention_mask"] = attention_mask
    made: Tensor | None = sdpa_mask(*args, **more)
    return made
