"""Attention of short texts that lie end to end on a GPU, by Triton: a text and head a program.

Flash kernels are made for long texts. They take a text in tiles of 128 tokens, its backward pass in
three kernels; of texts of 17 tokens, as product titles are, such a tile is 2 % full, and attention
was half of the GPU's time. Here all tokens of a text fit into a tile: 32 rows of its weights at a
time lie in registers, whole, and are computed again in the backward pass, which needs no atomic
sums, so it gives the same gradients every time. Formulas: Dao et al. 2022 (arXiv:2205.14135,
appendix B). When it is used: flash.mostly_short.

Shapes: (T, H, W) for T tokens of all texts, H heads, W the width of a head; B + 1 borders between B
texts.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from embsearch.kernels.context import Context
from embsearch.kernels.packing import LONG

WIDTHS = (16, 32, 64, 128)
APART = 0.02  # relative, in bf16, from the formula in fp32
TILES = {32: 1, LONG: 8}  # tokens: warps; each is a launch, whose programs leave other texts alone


def attention(
    q: Tensor, k: Tensor, v: Tensor, borders: Tensor, scale: float, dropout: float, causal: bool
) -> Tensor:
    """Return (T, H, W) of such tensors in 16 bits, contiguous, W of WIDTHS.

    ``borders``: int32; no text above LONG tokens. Draws its dropout from a number of torch's
    generator, so it may be recorded.
    """
    assert q.shape == k.shape == v.shape
    seed = torch.randint(2**31 - 1, (1,), device=q.device) if dropout else borders
    mixed: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        q, k, v, borders, seed, scale, dropout, causal
    )
    return mixed


def check(
    width: int, causal: bool, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Try the kernels on texts of all tiles, which compiles them: seconds, the first time.

    Raises RuntimeError where they give other vectors or gradients than the formula, and whatever
    the compiler raises.
    """
    counts, draw = [3, 20, 50, LONG], torch.Generator().manual_seed(0)
    shape = sum(counts), 2, width
    q, k, v, gradient = (torch.randn(shape, generator=draw).to(device, dtype) for _ in range(4))
    borders = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    given = [t.requires_grad_() for t in (q, k, v)]
    # as with dropout, which then drops nothing
    mixed = attention(q, k, v, borders, width**-0.5, 1e-9, causal)
    found = [mixed, *torch.autograd.grad(mixed, given, gradient)]
    precise = [t.detach().float().requires_grad_() for t in given]
    parts = zip(*(torch.split(t, counts) for t in precise), strict=True)
    whole = torch.cat([_plain(q, k, v, causal) for q, k, v in parts])
    expected = [whole, *torch.autograd.grad(whole, precise, gradient.float())]
    for one, other in zip(found, expected, strict=True):
        if not (one.float() - other).norm() <= APART * other.norm():
            raise RuntimeError("the kernel of short texts gives other vectors or gradients")


def _plain(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    scores = torch.einsum("qhw,khw->hqk", q, k) * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(
            torch.ones_like(scores[0], dtype=torch.bool).triu(1), -torch.inf
        )
    return torch.einsum("hqk,khw->qhw", scores.softmax(-1), v)


How = tuple[float, float, bool]  # scale, dropout, causal


class _Computed(Context):
    how: How


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Computed, q: Tensor, k: Tensor, v: Tensor, borders: Tensor, seed: Tensor, *how: *How
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, borders, seed)
        ctx.how = how
        mixed = torch.empty_like(q)
        _launch(_ahead, (q, k, v, mixed), q, borders, seed, how)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: _Computed, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, borders, seed = ctx.saved_tensors
        found = [torch.empty_like(q) for _ in range(3)]
        _launch(_back, (q, k, v, gradient.contiguous(), *found), q, borders, seed, ctx.how)
        return *found, None, None, None, None, None


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], q: Tensor, borders: Tensor, seed: Tensor, how: How
) -> None:
    scale, dropout, causal = how
    _, heads, width = q.shape
    above = 0
    for tile, warps in TILES.items():
        kernel[(len(borders) - 1, heads)](
            *tensors,
            borders,
            seed,
            scale,
            dropout,
            heads,
            W=width,
            ABOVE=above,
            TILE=tile,
            MOST=LONG,
            DROPS=dropout > 0,
            CAUSAL=causal,
            num_warps=warps,
            num_stages=1,
        )
        above = tile


@triton.jit
def _weights(q, k, rows, first, count, head, seed_at, scale, dropout, heads, TILE: tl.constexpr,
             MOST: tl.constexpr, DROPS: tl.constexpr, CAUSAL: tl.constexpr):  # fmt: skip
    """Return the weights of some of a text's tokens on all, and what dropout multiplies them by."""
    columns = tl.arange(0, TILE)[None, :]
    scores = tl.dot(q, tl.trans(k)) * scale
    seen = columns < count
    if CAUSAL:
        seen = seen & (columns <= rows)
    scores = tl.where(seen, scores, -float("inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    kept = tl.full(weights.shape, 1.0, tl.float32)
    if DROPS:  # each weight has its own place in the random stream; 7 rounds: Salmon et al. 2011, section 5.2
        place = ((first + rows) * heads + head) * MOST + columns
        kept = tl.where(tl.rand(tl.load(seed_at), place, 7) >= dropout, 1 / (1 - dropout), 0.0)
    return weights, kept


@triton.jit(do_not_specialize=["heads"], do_not_specialize_on_alignment=["borders_at", "seed_at"])
def _ahead(q_at, k_at, v_at, mixed_at, borders_at, seed_at, scale, dropout, heads, W: tl.constexpr,
           ABOVE: tl.constexpr, TILE: tl.constexpr, MOST: tl.constexpr, DROPS: tl.constexpr,
           CAUSAL: tl.constexpr):  # fmt: skip
    text, head = tl.program_id(0), tl.program_id(1)
    first = tl.load(borders_at + text)
    count = tl.load(borders_at + text + 1) - first
    if (count > ABOVE) & (count <= TILE):
        within, width = tl.arange(0, TILE)[:, None], tl.arange(0, W)[None, :]
        whole = ((first + within) * heads + head) * W + width
        k = tl.load(k_at + whole, mask=within < count, other=0.0)
        v = tl.load(v_at + whole, mask=within < count, other=0.0)
        for begin in range(0, count, 32):
            rows = begin + tl.arange(0, 32)[:, None]
            part = ((first + rows) * heads + head) * W + width
            q = tl.load(q_at + part, mask=rows < count, other=0.0)
            weights, kept = _weights(
                q,
                k,
                rows,
                first,
                count,
                head,
                seed_at,
                scale,
                dropout,
                heads,
                TILE,
                MOST,
                DROPS,
                CAUSAL,
            )
            mixed = tl.dot((weights * kept).to(v.dtype), v)
            tl.store(mixed_at + part, mixed.to(v.dtype), mask=rows < count)


@triton.jit(do_not_specialize=["heads"], do_not_specialize_on_alignment=["borders_at", "seed_at"])
def _back(q_at, k_at, v_at, gradient_at, of_q_at, of_k_at, of_v_at, borders_at, seed_at, scale, dropout,
          heads, W: tl.constexpr, ABOVE: tl.constexpr, TILE: tl.constexpr, MOST: tl.constexpr, DROPS: tl.constexpr,
          CAUSAL: tl.constexpr):  # fmt: skip
    text, head = tl.program_id(0), tl.program_id(1)
    first = tl.load(borders_at + text)
    count = tl.load(borders_at + text + 1) - first
    if (count > ABOVE) & (count <= TILE):
        within, width = tl.arange(0, TILE)[:, None], tl.arange(0, W)[None, :]
        whole = ((first + within) * heads + head) * W + width
        k = tl.load(k_at + whole, mask=within < count, other=0.0)
        v = tl.load(v_at + whole, mask=within < count, other=0.0)
        of_k = tl.zeros((TILE, W), tl.float32)
        of_v = tl.zeros((TILE, W), tl.float32)
        for begin in range(0, count, 32):
            rows = begin + tl.arange(0, 32)[:, None]
            part = ((first + rows) * heads + head) * W + width
            q = tl.load(q_at + part, mask=rows < count, other=0.0)
            gradient = tl.load(gradient_at + part, mask=rows < count, other=0.0)
            weights, kept = _weights(
                q,
                k,
                rows,
                first,
                count,
                head,
                seed_at,
                scale,
                dropout,
                heads,
                TILE,
                MOST,
                DROPS,
                CAUSAL,
            )
            of_v += tl.dot(tl.trans((weights * kept).to(v.dtype)), gradient)
            of_weights = tl.dot(gradient, tl.trans(v)) * kept
            of_scores = weights * (of_weights - tl.sum(weights * of_weights, 1)[:, None]) * scale
            of_scores = of_scores.to(v.dtype)
            tl.store(of_q_at + part, tl.dot(of_scores, k).to(v.dtype), mask=rows < count)
            of_k += tl.dot(tl.trans(of_scores), q)
        tl.store(of_k_at + whole, of_k.to(v.dtype), mask=within < count)
        tl.store(of_v_at + whole, of_v.to(v.dtype), mask=within < count)
