"""Attention of packed texts with its backward pass written by hand.

The texts of a chunk stand in the order of their length, those of one length side by side (a run). Once a layer
rows are put into an order in which every run's heads are one batch of matrices without a copy, and back; in
between a run costs two products forward and four backward. Autograd records some 25 operations for each run.

Shapes: H heads, W their width, T tokens of the chunk, n texts of L tokens in a run.
Gradients of softmax attention: dV = P' dO; dP = dO V'; dS = P (dP - sum(dP P)); dQ = dS K; dK = dS' Q, with
the dropout mask on P and dP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embsearch.model import dropout as cheap

Runs = tuple[tuple[int, int], ...]  # (texts, tokens a text)
# Tokens a text up to which attention is written out while training: the backward pass of torch's flash
# kernel for CPUs takes 2 to 10 times longer below, and less above (MiniLM's shape, bf16, 1 thread).
WRITTEN_OUT = 256


def dtype_of(given: Tensor) -> torch.dtype:
    """In which products are computed here: autocast's, or that of what is given."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else given.dtype


def order(runs: Runs, heads: int) -> Tensor:
    """(T * H,) int64: where row (text, head, token) lies among rows (token, head)."""
    parts, start = [], 0
    for count, length in runs:
        tokens = start + np.arange(count * length).reshape(count, 1, length)
        parts.append((tokens * heads + np.arange(heads)[:, None]).reshape(-1))
        start += count * length
    return torch.from_numpy(np.concatenate(parts))


def inverse(order: Tensor) -> Tensor:
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return back


def blocks(rows: Tensor, runs: Runs, heads: int) -> Iterator[Tensor]:
    """Views (n * H, L, W) of (T * H, W) rows, a run each."""
    start = 0
    for count, length in runs:
        stop = start + count * length * heads
        yield rows[start:stop].view(count * heads, length, rows.shape[1])
        start = stop


def forward(
    q: Tensor, k: Tensor, v: Tensor, runs: Runs, heads: int, scale: float, dropout: float, causal: bool = False,
    masks: tuple[Tensor | None, ...] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """What is mixed of rows in attention's order (T * H, W), the weights after softmax, the dropout mask.

    ``masks``, one a run: (n * H, 1, L), -inf at keys that nobody may see, or None.
    """
    mixed = torch.empty_like(v)
    weights = torch.empty(sum(n * heads * length**2 for n, length in runs), dtype=q.dtype)
    kept = cheap.mask(len(weights), dropout, q.dtype) if cheap.threshold(dropout) else None
    parts = zip(*(blocks(t, runs, heads) for t in (q, k, v, mixed)), _squares(weights, runs, heads), strict=True)
    start = 0
    for number, (one, two, three, out, weight) in enumerate(parts):
        mask = None if masks is None else masks[number]
        if mask is None:
            scores = torch.bmm(one, two.transpose(1, 2)).mul_(scale)
        else:
            scores = torch.add(mask, torch.bmm(one, two.transpose(1, 2)), alpha=scale)
        if causal:
            length = scores.shape[-1]
            scores.masked_fill_(torch.ones(length, length, dtype=torch.bool).triu_(1), -torch.inf)
        torch.softmax(scores, -1, out=weight)
        used = weight
        if kept is not None:
            used = weight * kept[start : start + weight.numel()].view_as(weight)
        torch.bmm(used, three, out=out)
        start += weight.numel()
    return mixed, weights, kept


def backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, weights: Tensor, kept: Tensor | None,
    runs: Runs, heads: int, scale: float,
) -> Tensor:  # fmt: skip
    """(3, T * H, W): the gradients of q, k and v."""
    found = torch.empty(3, *q.shape, dtype=q.dtype)
    rows = (blocks(t, runs, heads) for t in (q, k, v, gradient, *found))
    start = 0
    for one, two, three, out, done, dtwo, dthree, weight in zip(*rows, _squares(weights, runs, heads), strict=True):
        dweight = torch.bmm(out, three.transpose(1, 2))
        used = weight
        if kept is not None:
            drawn = kept[start : start + weight.numel()].view_as(weight)
            used = weight * drawn
            dweight.mul_(drawn)
        torch.bmm(used.transpose(1, 2), out, out=dthree)
        dscores = torch._softmax_backward_data(dweight, weight, -1, weight.dtype).mul_(scale)
        torch.bmm(dscores, two, out=done)
        torch.bmm(dscores.transpose(1, 2), one, out=dtwo)
        start += weight.numel()
    return found


class Attention(torch.autograd.Function):
    """(T, H, W) from three such; ``places`` are ``order`` and its inverse."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, runs: Runs, places: tuple[Tensor, Tensor],
        scale: float, dropout: float, causal: bool,
    ) -> Tensor:  # fmt: skip
        there, back = places
        heads, width = query.shape[1:]
        q, k, v = (t.reshape(-1, width).index_select(0, there) for t in (query, key, value))
        mixed, weights, kept = forward(q, k, v, runs, heads, scale, dropout, causal)
        ctx.save_for_backward(q, k, v, weights, kept, there, back)
        ctx.runs, ctx.heads, ctx.scale = runs, heads, scale
        return mixed.index_select(0, back).view(query.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, kept, there, back = ctx.saved_tensors
        shape = gradient.shape
        arrived = gradient.reshape(-1, shape[-1]).index_select(0, there)
        found = backward(arrived, q, k, v, weights, kept, ctx.runs, ctx.heads, ctx.scale)
        grads = (t.index_select(0, back).view(shape) for t in found)
        return (*grads, None, None, None, None, None)


def _squares(weights: Tensor, runs: Runs, heads: int) -> Iterator[Tensor]:
    start = 0
    for count, length in runs:
        stop = start + count * heads * length**2
        yield weights[start:stop].view(count * heads, length, length)
        start = stop
