"""One BERT layer over packed texts, forward and backward, as functions of tensors.

What this saves is not the matrix products but what stands around them: casts between bf16 and
fp32, the bookkeeping of some 60 recorded operations a layer, and the copies that they make. In bf16
the stream between the layers is bf16 too; sums and norms are computed in fp32 inside the kernels.

Shapes: T tokens of the chunk, H heads of width W, D = H * W, F the width inside the feed-forward
part. ``of_x`` is the gradient of x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import gelu

from embsearch.kernels import attention as attend
from embsearch.kernels import dropout as byte_dropout
from embsearch.kernels.arena import New
from embsearch.kernels.layout import LENGTHS, PackedLayout, PickedTexts


@dataclass(frozen=True)
class Shape:
    """Properties of a layer besides its weights."""

    heads: int
    epsilon: float  # of the norms
    dropout: float
    attention_dropout: float

    def factors(self, width: int) -> tuple[float, float]:
        """Return the factors of attention's scores and of what its dropout leaves.

        ``width``: D of the layer.
        """
        return (width // self.heads) ** -0.5, byte_dropout.keep_scale(self.attention_dropout)


@dataclass(frozen=True)
class CastWeights:
    """A layer's weights as its products take them; the norms' stay fp32.

    Those of q and v hold the factors of attention's scores and of what dropout leaves, which its
    products would have to apply to every weight.
    """

    qkv: Tensor  # (3D, D)
    qkv_bias: Tensor
    out: Tensor  # (D, D)
    out_bias: Tensor
    norm: Tensor  # (D,)
    norm_bias: Tensor
    up: Tensor  # (F, D)
    up_bias: Tensor
    down: Tensor  # (D, F)
    down_bias: Tensor
    last: Tensor  # (D,)
    last_bias: Tensor

    @staticmethod
    def of(parameters: list[Tensor], dtype: torch.dtype, shape: Shape) -> CastWeights:
        """Cast the weights and biases of a layer, which come in turns in the order of MODULES."""
        q, k, v, out, norm, up, down, last = (p.detach() for p in parameters[::2])
        biases = [p.detach() for p in parameters[1::2]]
        scale, keep_scale = shape.factors(len(q))
        empty = q.new_empty(0, dtype=dtype)
        qkv = torch.cat([q * scale, k, v * keep_scale], out=empty)
        qb, kb, vb = biases[:3]
        empty = q.new_empty(0, dtype=dtype)
        qkv_bias = torch.cat([qb * scale, kb, vb * keep_scale], out=empty)
        ob, nb, ub, db, lb = biases[3:]
        out, ob, up, ub, down, db = (p.to(dtype) for p in (out, ob, up, ub, down, db))
        return CastWeights(qkv, qkv_bias, out, ob, norm, nb, up, ub, down, db, last, lb)


@dataclass
class Mask:
    """A mask of a layer's dropout, or the random state from which it is drawn again."""

    made: Tensor | None = None  # (T, D)
    state: Tensor | None = None
    rows: int = 0  # that it is drawn again for
    texts: PickedTexts | None = None  # whose rows are wanted; None: all

    def times(self, gradient: Tensor, dropout: float) -> Tensor:
        """Return ``gradient`` times the mask."""
        made = self.made
        if made is None:
            assert self.state is not None, "_add keeps one of them"
            source = torch.Generator().set_state(self.state)
            empty = gradient.new_empty(self.rows, gradient.shape[1])
            made = byte_dropout.mask(empty, dropout, source)
        if self.texts is not None:
            made = self.texts.layout.fill(made, self.texts.token)
        return gradient * made


@dataclass
class SavedLayer:
    """A layer's state for its backward pass, a row a token.

    What it put out is computed again: a norm costs less than the memory.
    """

    qkv: Tensor  # (3, T * H, W) in attention's order
    weights: Tensor  # (sum of H * L^2) after softmax, dropped ones negative
    mixed: Tensor  # (T, D)
    mask: Mask | None
    sum: Tensor
    mean: Tensor
    scale: Tensor
    up: Tensor  # (T, F) before GELU
    mask_2: Mask | None
    sum_2: Tensor
    mean_2: Tensor
    scale_2: Tensor

    def pick(self, texts: PickedTexts) -> None:
        """Keep the rows of some texts only."""
        self.qkv = self.qkv.index_select(1, texts.row)
        self.weights = torch.cat([self.weights[part] for part in texts.squares])
        for name in ("mixed", "sum", "mean", "scale", "up", "sum_2", "mean_2", "scale_2"):
            setattr(self, name, texts.layout.fill(getattr(self, name), texts.token))
        for mask in (self.mask, self.mask_2):
            if mask is not None:
                mask.texts = texts

    def output(self, w: CastWeights, shape: Shape, texts: PickedTexts | None) -> Tensor:
        """Return (T, D), what the layer put out, of ``texts`` only where there are some."""
        rows = self.sum_2 if texts is None else texts.layout.fill(self.sum_2, texts.token)
        return _norm(rows, w.last, w.last_bias, shape)[0]


def saved_bytes(lengths: np.ndarray, shape: tuple[int, int, int], itemsize: int, masks: int) -> int:
    """Return the bytes of ``SavedLayer`` over texts of such lengths.

    ``shape``: D, F and H of the layer; ``masks``: so many of D elements a token.
    """
    width, inner, heads = shape
    padded = -(-lengths // LENGTHS) * LENGTHS
    tokens, rows, squares = (int(n.sum()) for n in (lengths, padded, padded**2))
    elements = tokens * ((3 + masks) * width + inner) + rows * 3 * width + squares * heads
    return itemsize * elements


def forward(
    x: Tensor,
    w: CastWeights,
    shape: Shape,
    layout: PackedLayout,
    keep: New | None,
    recompute_masks: bool = False,
) -> tuple[Tensor, SavedLayer | None]:
    """Return (T, D) of one layer, and its state, which lies in what ``keep`` gives.

    ``recompute_masks``: the state has no masks; they are drawn again. Without ``keep`` there is no
    state.
    """
    width = x.shape[1] // shape.heads
    new = Tensor.new_empty if keep is None else keep
    qkv = new(x, len(layout.to_attention_qkv), width)
    rows = _linear(x, w.qkv, w.qkv_bias).view(-1, width)
    torch.index_select(rows, 0, layout.to_attention_qkv, out=qkv)
    qkv = qkv.view(3, -1, width)
    masks = layout.masks(x.dtype)
    for_masks = None if recompute_masks and keep else new
    rows, weights = attend.forward(
        qkv[0], qkv[1], qkv[2], layout.runs, shape.heads, 1, shape.attention_dropout,
        masks=masks, keep=keep, keep_scale=1,
    )  # fmt: skip
    mixed = layout.by_token(rows, layout.from_attention, new)
    change = _linear(mixed, w.out, w.out_bias, new)
    total, mask = _add(x, change, shape.dropout, for_masks)
    y, mean, scale = _norm(total, w.norm, w.norm_bias, shape)
    up = _linear(y, w.up, w.up_bias, new)
    change = _linear(gelu(up), w.down, w.down_bias, new)
    total_2, mask_2 = _add(y, change, shape.dropout, for_masks)
    z, mean_2, scale_2 = _norm(total_2, w.last, w.last_bias, shape)
    if weights is None:
        return z, None
    saved = SavedLayer(
        qkv, weights, mixed, mask, total, mean, scale, up, mask_2, total_2, mean_2, scale_2
    )
    return z, saved


def backward(
    of_z: Tensor, x: Tensor, s: SavedLayer, w: CastWeights, shape: Shape, layout: PackedLayout
) -> tuple[Tensor, list[Tensor]]:
    """Return the gradient of a layer's input ``x``, and those of its weights, as MODULES has them.

    ``of_z``: (T, D), the gradient of what the layer put out.
    """
    width = of_z.shape[1] // shape.heads
    of_sum_2, of_last, of_last_bias = _norm_back(
        of_z, s.sum_2, s.mean_2, s.scale_2, w.last, w.last_bias
    )
    of_change = s.mask_2.times(of_sum_2, shape.dropout) if s.mask_2 else of_sum_2
    of_down = _of_weight(of_change, gelu(s.up))
    of_up_rows = torch.ops.aten.gelu_backward(of_change @ w.down, s.up)
    of_up = _of_weight(of_up_rows, _norm(s.sum, w.norm, w.norm_bias, shape)[0])
    of_y = (of_up_rows @ w.up).add_(of_sum_2)
    del of_change, of_up_rows, of_sum_2  # the largest are not kept through attention
    of_sum, of_norm, of_norm_bias = _norm_back(of_y, s.sum, s.mean, s.scale, w.norm, w.norm_bias)
    of_change = s.mask.times(of_sum, shape.dropout) if s.mask else of_sum
    of_out = _of_weight(of_change, s.mixed)
    of_rows = (of_change @ w.out).view(-1, width).index_select(0, layout.to_attention)
    del of_y, of_change
    q, k, v = s.qkv
    of_qkv_rows = attend.backward(
        of_rows, q, k, v, s.weights, layout.runs, shape.heads, 1, shape.attention_dropout,
        keep_scale=1,
    )  # fmt: skip
    of_qkv_rows = layout.by_token(of_qkv_rows.view(-1, width), layout.from_attention_qkv)
    of_x = (of_qkv_rows @ w.qkv).add_(of_sum)
    of_qkv = _of_qkv(of_qkv_rows, x, shape)
    norms = of_norm, of_norm_bias, *of_up, *of_down, of_last, of_last_bias
    return of_x, [*of_qkv, *of_out, *norms]


def _of_qkv(of_rows: Tensor, x: Tensor, shape: Shape) -> list[Tensor]:
    """Return the gradients of the weights and biases of q, k and v, in turns."""
    of_weight, of_bias = _of_weight(of_rows, x)
    scale, keep_scale = shape.factors(x.shape[1])
    found: list[Tensor] = []
    thirds = zip(of_weight.chunk(3), of_bias.chunk(3), (scale, 1, keep_scale), strict=True)
    for weight, bias, factor in thirds:
        found += [weight.mul_(factor), bias.mul_(factor)]
    return found


def _add(x: Tensor, change: Tensor, dropout: float, new: New | None) -> tuple[Tensor, Mask | None]:
    """Return the sum, in the place of ``change``, and the mask.

    The mask lies in what ``new`` gives; without it, it is how to draw the mask again.
    """
    if not byte_dropout.threshold(dropout):
        return change.add_(x), None
    if new is None:
        mask = Mask(state=torch.get_rng_state(), rows=len(x))
        made = byte_dropout.mask(torch.empty_like(change), dropout)
    else:
        made = byte_dropout.mask(new(change, *change.shape), dropout)
        mask = Mask(made=made)
    return torch.addcmul(x, change, made, out=change), mask


def _linear(x: Tensor, weight: Tensor, bias: Tensor, new: New = Tensor.new_empty) -> Tensor:
    """Return the linear layer of ``x``.

    torch's own first spreads the bias over the result: a third slower for such shapes.
    """
    return torch.mm(x, weight.t(), out=new(x, len(x), len(weight))).add_(bias)


def _of_weight(gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a linear layer's weight and bias, in fp32 or finer."""
    exact = torch.promote_types(gradient.dtype, torch.float32)
    return (gradient.t() @ x).to(exact), gradient.sum(0).to(exact)


def _norm(x: Tensor, weight: Tensor, bias: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norm of the rows of ``x``, their means and one over their deviations."""
    return torch.native_layer_norm(x, x.shape[1:], weight, bias, shape.epsilon)


def _norm_back(
    gradient: Tensor, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_layer_norm_backward(
        gradient, x, x.shape[1:], mean, scale, weight, bias, [True, True, True]
    )
    return found
