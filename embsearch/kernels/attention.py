"""Attention of packed texts with its backward pass written out.

The texts of a chunk stand in the order of their length, those of one length side by side (a run).
Once a layer, rows are put into an order in which every run's heads are one batch of matrices
without a copy, and back; in between a run costs two products forward and four backward. Autograd
records some 25 operations for each run.

Long runs are cut so that the squares (L, L) of a piece are still in the cache when the next
operation comes (docs/decisions/0030-attention-in-pieces.md).

Shapes: H heads, W their width, T tokens of the chunk, n texts of L tokens in a run.
Gradients of softmax attention: dV = P' dO; dP = dO V'; dS = P (dP - sum(dP P)); dQ = dS K;
dK = dS' Q, with the dropout mask on P and dP. A weight that dropout drops is kept with a minus: P
is what is kept without its sign, the mask its sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embsearch.kernels import dropout as byte_dropout
from embsearch.kernels.arena import New

Runs = tuple[tuple[int, int], ...]  # (texts, tokens a text)
# Tokens a text up to which attention is written out here while training. Without dropout torch's
# flash kernel for CPUs is faster from 1,024 on, and takes less memory.
WRITTEN_OUT = 512
# Keys of rows whose softmax is computed in fp32 also where the products are in bf16: for rows
# shorter than two of its vectors torch's kernel for bf16 takes up to ten times as long.
EXACT = range(16, 64)
PIECE = 1 << 21  # weights (L, L) of all heads computed at once, unless one text has more


def cut(runs: Runs, heads: int) -> Runs:
    """Return the same texts in runs of at most PIECE weights, or of one text."""
    pieces: list[tuple[int, int]] = []
    for count, length in runs:
        most = max(1, PIECE // max(1, heads * length**2))
        pieces += [(min(most, count - begin), length) for begin in range(0, count, most)]
    return tuple(pieces)


def order(runs: Runs, heads: int) -> Tensor:
    """Return (T * H,) int64: where row (text, head, token) lies among rows (token, head)."""
    parts, start = [], 0
    for count, length in runs:
        tokens = start + np.arange(count * length).reshape(count, 1, length)
        parts.append((tokens * heads + np.arange(heads)[:, None]).reshape(-1))
        start += count * length
    return torch.from_numpy(np.concatenate(parts))


def inverse(order: Tensor) -> Tensor:
    """Return the order that undoes ``order``."""
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return back


def blocks(rows: Tensor, runs: Runs, heads: int) -> Iterator[Tensor]:
    """Yield views (n * H, L, W) of (T * H, W) rows, one for each run."""
    start = 0
    for count, length in runs:
        stop = start + count * length * heads
        yield rows[start:stop].view(count * heads, length, rows.shape[1])
        start = stop


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    runs: Runs,
    heads: int,
    scale: float,
    dropout: float,
    causal: bool = False,
    masks: tuple[Tensor | None, ...] | None = None,
    keep: New | None = Tensor.new_empty,
    keep_scale: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return what is mixed of rows in attention's order (T * H, W), and the weights after softmax.

    Weights that dropout drops have a minus. ``masks``, one a run: (n * H, 1, L), -inf at keys that
    nobody may see, or None. ``keep`` gives the room for the weights: an empty tensor of the type of
    another and a shape; without it there are none. What dropout leaves is multiplied by
    ``keep_scale``, so that means are kept (None), or by whoever gave ``v`` (1).
    """
    mixed, drops = torch.empty_like(v), byte_dropout.threshold(dropout) > 0
    keep_scale = byte_dropout.keep_scale(dropout) if keep_scale is None else keep_scale
    count = sum(n * heads * length**2 for n, length in runs)
    weights = keep(q, count) if keep else None
    rows = (blocks(t, runs, heads) for t in (q, k, v, mixed))
    squares = repeat(None) if weights is None else _squares(weights, runs, heads)
    noises: Iterator[Tensor | None] = repeat(None)
    if drops:
        noises = _squares(byte_dropout.random_bytes(count), runs, heads)  # at once: faster
    runs_of = zip(*rows, masks or repeat(None), squares, noises, strict=False)
    for one, two, three, out, mask, weight, noise in runs_of:
        if mask is None:
            scores = _product(one, two.transpose(1, 2), scale)
        else:
            scores = torch.add(mask, torch.bmm(one, two.transpose(1, 2)), alpha=scale)
        if causal:
            length = scores.shape[-1]
            later = torch.ones(length, length, dtype=torch.bool).triu_(1)
            scores.masked_fill_(later, -torch.inf)
        weight = _softmax(scores, weight)
        if noise is not None:
            left = byte_dropout.drop(weight, noise, dropout, scores)
            _product(left, three, keep_scale, out)
        else:
            torch.bmm(weight, three, out=out)
    return mixed, weights


def backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor,
    runs: Runs,
    heads: int,
    scale: float,
    dropout: float,
    keep_scale: float | None = None,
) -> Tensor:
    """Return (3, T * H, W): the gradients of q, k and v."""
    found, drops = q.new_empty(3, *q.shape), byte_dropout.threshold(dropout) > 0
    keep_scale = byte_dropout.keep_scale(dropout) if keep_scale is None else keep_scale
    rows = (blocks(t, runs, heads) for t in (q, k, v, gradient, *found))
    runs_of = zip(*rows, _squares(weights, runs, heads), strict=True)
    for one, two, three, out, of_one, of_two, of_three, signed in runs_of:
        # each in the place of what is not needed any more: so little is in use at once that it
        # stays in the cache
        used = byte_dropout.surviving(signed) if drops else signed
        of_weight = _product(out, three.transpose(1, 2), keep_scale)
        _product(used.transpose(1, 2), out, keep_scale, of_three)
        weight = torch.abs(signed, out=used) if drops else signed
        if drops:
            of_weight = byte_dropout.mask_gradient(of_weight, signed)
        of_scores = _softmax_back(of_weight, weight)
        _product(of_scores, two, scale, of_one)
        _product(of_scores.transpose(1, 2), one, scale, of_two)
    return found


def _product(one: Tensor, two: Tensor, factor: float, out: Tensor | None = None) -> Tensor:
    """Return (n, A, B): matrices (n, A, C) by (n, C, B) times ``factor``, in one pass."""
    if out is None:
        out = one.new_empty(*one.shape[:2], two.shape[2])
    if factor == 1:
        return torch.bmm(one, two, out=out)
    return torch.baddbmm(out, one, two, beta=0, alpha=factor, out=out)


def _exact(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and x.shape[-1] in EXACT


def _softmax(scores: Tensor, out: Tensor | None) -> Tensor:
    if not _exact(scores):
        return torch.softmax(scores, -1, out=out)
    found = torch.softmax(scores.float(), -1)
    return found.to(scores.dtype) if out is None else out.copy_(found)


def _softmax_back(gradient: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the scores, in the place of ``gradient``."""
    if not _exact(weight):
        return torch._softmax_backward_data(gradient, weight, -1, weight.dtype, grad_input=gradient)
    found = torch._softmax_backward_data(gradient.float(), weight.float(), -1, torch.float32)
    return gradient.copy_(found)


class Attention(torch.autograd.Function):
    """(T, H, W) from three such; ``places`` are ``order`` and its inverse."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        runs: Runs,
        places: tuple[Tensor, Tensor],
        scale: float,
        dropout: float,
        causal: bool,
    ) -> Tensor:
        there, back = places
        heads, width = query.shape[1:]
        q, k, v = (t.reshape(-1, width).index_select(0, there) for t in (query, key, value))
        runs = cut(runs, heads)
        mixed, weights = forward(q, k, v, runs, heads, scale, dropout, causal)
        ctx.save_for_backward(q, k, v, weights, there, back)
        ctx.runs, ctx.heads, ctx.scale, ctx.dropout = runs, heads, scale, dropout
        return mixed.index_select(0, back).view(query.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, there, back = ctx.saved_tensors
        shape = gradient.shape
        arrived = gradient.reshape(-1, shape[-1]).index_select(0, there)
        found = backward(arrived, q, k, v, weights, ctx.runs, ctx.heads, ctx.scale, ctx.dropout)
        grads = (t.index_select(0, back).view(shape) for t in found)
        return (*grads, None, None, None, None, None)


def _squares(weights: Tensor, runs: Runs, heads: int) -> Iterator[Tensor]:
    start = 0
    for count, length in runs:
        stop = start + count * heads * length**2
        yield weights[start:stop].view(count * heads, length, length)
        start = stop
