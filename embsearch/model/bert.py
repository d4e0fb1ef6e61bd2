"""BERT's stack of layers over packed texts, forward and backward by hand: one autograd function in all.

For encoders whose layers are BERT's (MiniLM, E5, BGE, GTE, RoBERTa, XLM-R: most of what people fine-tune); others go
through their own code and autograd. What it saves is not the matrix products but what stands around them: casts
between bf16 and fp32, the bookkeeping of some 60 recorded operations a layer, and the copies that they make. In bf16
the stream between the layers is bf16 too; sums and norms are computed in fp32 inside the kernels.

A text whose vectors have no gradient (a triplet that already leads by its margin) takes no part in the backward
pass. That is exact: its share of every gradient is zero, dropout or not.

Shapes: T tokens of the chunk, H heads of width W, D = H * W, F the width inside the feed-forward part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from embsearch.model import attention as attend
from embsearch.model import dropout as cheap
from embsearch.model.arena import ARENA, New
from embsearch.model.places import LENGTHS, Picked, Places

FAMILIES = ("Bert", "Roberta", "XLMRoberta", "Camembert")
STACKS, EMBEDDINGS = ([family + part for family in FAMILIES] for part in ("Encoder", "Embeddings"))
MODULES = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What a layer is besides its weights."""

    heads: int
    epsilon: float  # of the norms
    dropout: float
    attention_dropout: float

    def factors(self, width: int) -> tuple[float, float]:
        """Of attention's scores, and of what its dropout leaves, in a layer of that width."""
        return (width // self.heads) ** -0.5, cheap.grown(self.attention_dropout)


@dataclass(frozen=True)
class Cast:
    """A layer's weights as its products take them; the norms' stay fp32. Those of q and v hold the factors of
    attention's scores and of what dropout leaves, which its products would have to apply to every weight."""

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
    def of(parameters: list[Tensor], dtype: torch.dtype, shape: Shape) -> Cast:
        weights, biases = parameters[::2], parameters[1::2]
        (q, k, v, out, norm, up, down, last), (qb, kb, vb, ob, nb, ub, db, lb) = weights, biases
        out, ob, up, ub, down, db = (p.detach().to(dtype) for p in (out, ob, up, ub, down, db))
        scale, grown = shape.factors(len(q))
        qkv, qkv_bias = (
            torch.cat([one.detach() * scale, two.detach(), three.detach() * grown], out=one.new_empty(0, dtype=dtype))
            for one, two, three in ((q, k, v), (qb, kb, vb))
        )
        return Cast(qkv, qkv_bias, out, ob, norm.detach(), nb.detach(), up, ub, down, db, last.detach(), lb.detach())


@dataclass
class Mask:
    """Of a layer's dropout: itself, or the random state from which it is drawn again."""

    made: Tensor | None = None  # (T, D)
    state: Tensor | None = None
    rows: int = 0  # that it is drawn again for
    texts: Picked | None = None  # whose rows are wanted; None: all

    def times(self, gradient: Tensor, dropout: float) -> Tensor:
        made = self.made
        if made is None:
            assert self.state is not None, "_add keeps one of them"
            source = torch.Generator().set_state(self.state)
            made = cheap.mask(gradient.new_empty(self.rows, gradient.shape[1]), dropout, source)
        return gradient * (made if self.texts is None else self.texts.places.filled(made, self.texts.token))


@dataclass
class Saved:
    """A layer's state for its backward pass, a row a token. What it put out is computed again: a norm costs less than
    the memory."""

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

    def pick(self, texts: Picked) -> None:
        """Keep the rows of some texts only."""
        self.qkv = self.qkv.index_select(1, texts.row)
        self.weights = torch.cat([self.weights[part] for part in texts.squares])
        for name in ("mixed", "sum", "mean", "scale", "up", "sum_2", "mean_2", "scale_2"):
            setattr(self, name, texts.places.filled(getattr(self, name), texts.token))
        for mask in (self.mask, self.mask_2):
            if mask is not None:
                mask.texts = texts

    def output(self, w: Cast, shape: Shape, texts: Picked | None) -> Tensor:
        """(T, D), what the layer put out, of some texts only."""
        rows = self.sum_2 if texts is None else texts.places.filled(self.sum_2, texts.token)
        return torch.native_layer_norm(rows, rows.shape[1:], w.last, w.last_bias, shape.epsilon)[0]


def saved_bytes(lengths: np.ndarray, shape: tuple[int, int, int], itemsize: int, masks: int) -> int:
    """Of ``Saved`` over texts of such lengths, in a layer of ``shape`` (D, F, H) with so many masks a token."""
    width, inner, heads = shape
    padded = -(-lengths // LENGTHS) * LENGTHS
    tokens, rows, squares = (int(n.sum()) for n in (lengths, padded, padded**2))
    return itemsize * (tokens * ((3 + masks) * width + inner) + rows * 3 * width + squares * heads)


def _add(x: Tensor, change: Tensor, dropout: float, new: New | None) -> tuple[Tensor, Mask | None]:
    """Their sum in the place of ``change``; the mask, which lies in what ``new`` gives, or without it how to draw it
    again."""
    if not cheap.threshold(dropout):
        return change.add_(x), None
    if new is None:
        mask = Mask(state=torch.get_rng_state(), rows=len(x))
        made = cheap.mask(torch.empty_like(change), dropout)
    else:
        made = cheap.mask(new(change, *change.shape), dropout)
        mask = Mask(made=made)
    return torch.addcmul(x, change, made, out=change), mask


def forward(
    x: Tensor, w: Cast, shape: Shape, places: Places, keep: New | None, sparing: bool = False
) -> tuple[Tensor, Saved | None]:
    """(T, D) of one layer, and its state, which lies in what ``keep`` gives; ``sparing``: without masks."""
    width = x.shape[1] // shape.heads
    new = Tensor.new_empty if keep is None else keep
    qkv = new(x, len(places.there_3), width)
    torch.index_select(_linear(x, w.qkv, w.qkv_bias).view(-1, width), 0, places.there_3, out=qkv)
    qkv = qkv.view(3, -1, width)
    masks, for_masks = places.masks(x.dtype), None if sparing and keep else new
    rows, weights = attend.forward(
        qkv[0], qkv[1], qkv[2], places.runs, shape.heads, 1, shape.attention_dropout, masks=masks, keep=keep, grown=1
    )
    mixed = places.returned(rows, places.back, new)
    total, mask = _add(x, _linear(mixed, w.out, w.out_bias, new), shape.dropout, for_masks)
    y, mean, scale = torch.native_layer_norm(total, x.shape[1:], w.norm, w.norm_bias, shape.epsilon)
    up = _linear(y, w.up, w.up_bias, new)
    total_2, mask_2 = _add(y, _linear(gelu(up), w.down, w.down_bias, new), shape.dropout, for_masks)
    z, mean_2, scale_2 = torch.native_layer_norm(total_2, x.shape[1:], w.last, w.last_bias, shape.epsilon)
    if weights is None:
        return z, None
    return z, Saved(qkv, weights, mixed, mask, total, mean, scale, up, mask_2, total_2, mean_2, scale_2)


def backward(dz: Tensor, x: Tensor, s: Saved, w: Cast, shape: Shape, places: Places) -> tuple[Tensor, list[Tensor]]:
    """The gradient of a layer's input ``x``, and those of its weights in the order of MODULES."""
    width, (scale, grown) = dz.shape[1] // shape.heads, shape.factors(dz.shape[1])
    dsum_2, dlast, dlast_bias = _norm_back(dz, s.sum_2, s.mean_2, s.scale_2, w.last, w.last_bias)
    ddown = s.mask_2.times(dsum_2, shape.dropout) if s.mask_2 else dsum_2
    of_down = _weight(ddown, gelu(s.up))
    dup = torch.ops.aten.gelu_backward(ddown @ w.down, s.up)
    of_up = _weight(dup, torch.native_layer_norm(s.sum, x.shape[1:], w.norm, w.norm_bias, shape.epsilon)[0])
    dy = (dup @ w.up).add_(dsum_2)
    del ddown, dup, dsum_2  # the largest are not kept through attention
    dsum, dnorm, dnorm_bias = _norm_back(dy, s.sum, s.mean, s.scale, w.norm, w.norm_bias)
    dout = s.mask.times(dsum, shape.dropout) if s.mask else dsum
    of_out = _weight(dout, s.mixed)
    drows = (dout @ w.out).view(-1, width).index_select(0, places.there)
    del dy, dout
    q, k, v = s.qkv
    dqkv = attend.backward(drows, q, k, v, s.weights, places.runs, shape.heads, 1, shape.attention_dropout, grown=1)
    dqkv = places.returned(dqkv.view(-1, width), places.back_3)
    dx = (dqkv @ w.qkv).add_(dsum)
    of_qkv, of_bias = _weight(dqkv, x)
    thirds = [part for pair in zip(of_qkv.chunk(3), of_bias.chunk(3), strict=True) for part in pair]
    for part, factor in zip(thirds, (f for f in (scale, 1, grown) for _ in range(2)), strict=True):
        part.mul_(factor)
    return dx, [*thirds, *of_out, dnorm, dnorm_bias, *of_up, *of_down, dlast, dlast_bias]


def _linear(x: Tensor, weight: Tensor, bias: Tensor, new: New = Tensor.new_empty) -> Tensor:
    """As torch's, which first spreads the bias over the result: a third slower for such shapes."""
    return torch.mm(x, weight.t(), out=new(x, len(x), len(weight))).add_(bias)


def _weight(gradient: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of a linear layer's weight and bias, in fp32 or finer."""
    exact = torch.promote_types(gradient.dtype, torch.float32)
    return (gradient.t() @ of).to(exact), gradient.sum(0).to(exact)


def _norm_back(gradient: Tensor, of: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Any:
    return torch.ops.aten.native_layer_norm_backward(
        gradient, of, of.shape[1:], mean, scale, weight, bias, [True, True, True]
    )


class Stack(torch.autograd.Function):
    """(T, D) of the last layer from (T, D) of the embeddings and the parameters of every layer from ``first`` on."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, casts: list[Cast], shapes: list[Shape], places: Places, first: int, sparing: bool,
        *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.casts, ctx.shapes, ctx.places, ctx.first, ctx.saved = casts, shapes, places, first, []
        ctx.lease = ARENA.lease() if first < len(casts) else None
        x = places.filled(x)
        for number, (cast, shape) in enumerate(zip(casts, shapes, strict=True)):
            if number == first:
                ctx.x = ctx.lease(x, *x.shape).copy_(x)
            x, saved = forward(x, cast, shape, places, ctx.lease if number >= first else None, sparing)
            ctx.saved += [saved] if saved else []
        return x[: places.tokens]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        places, tokens = ctx.places, len(gradient)
        picked = places.active(gradient)
        if picked is not None:
            places = picked.places
        gradient = places.filled(gradient, picked.token if picked else None)
        found: list[Tensor] = []
        while ctx.saved:
            saved = ctx.saved.pop()
            number = ctx.first + len(ctx.saved)
            if ctx.saved:
                x = ctx.saved[-1].output(ctx.casts[number - 1], ctx.shapes[number - 1], picked)
            else:
                x = ctx.x if picked is None else places.filled(ctx.x, picked.token)
            if picked is not None:
                saved.pick(picked)
            gradient, parts = backward(gradient, x, saved, ctx.casts[number], ctx.shapes[number], places)
            found = [*parts, *found]
        ctx.x = None
        ctx.lease.end()
        gradient = gradient[: places.tokens]
        if picked is not None:
            gradient = gradient.new_zeros(tokens, gradient.shape[1]).index_copy_(0, picked.token, gradient)
        return gradient, None, None, None, None, None, *found


class ByHand:
    """Mixed into the class of a stack of BERT layers: packed texts go through the functions above."""

    casts: dict[Any, Cast] | None = None  # by layer, dtype and shape, while no weight changes
    embeddings: tuple[nn.Module, ...] = ()  # below it
    sparing = False  # as of ``steady``

    def forward(self: Any, hidden_states: Tensor, *args: Any, packing: Any = None, **more: Any) -> Any:
        """What the class itself would give for (1, T, D)."""
        if packing is None or packing.longest > attend.WRITTEN_OUT:
            return super().forward(hidden_states, *args, packing=packing, **more)  # type: ignore[misc]
        if packing.below is None:
            found = self._through(self.layer, hidden_states[0], packing)
        else:
            found = self._through(self.layer[frozen(self) :], packing.below, packing)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=found.to(hidden_states.dtype)[None])

    def lower(self: Any, hidden: Tensor, packing: Any, count: int) -> Tensor:
        """(T, D) after the lowest ``count`` layers, as the next one takes it."""
        return self._through(self.layer[:count], hidden, packing)  # type: ignore[no-any-return]

    def held_bytes(self: Any, lengths: np.ndarray, itemsize: int, sparing: bool) -> int | None:
        """What a chunk of such texts keeps for its backward pass; None where it would not go through the functions
        above."""
        if lengths.max() > attend.WRITTEN_OUT:
            return None
        config = self.config
        masks = 2 if cheap.threshold(_shape(self.layer[-1]).dropout) and not sparing else 0
        shape = config.hidden_size, config.intermediate_size, config.num_attention_heads
        given: int = itemsize * config.hidden_size * int(lengths.sum())  # to the lowest layer
        return given + len(self.layer) * saved_bytes(lengths, shape, itemsize, masks)

    def _through(self: Any, modules: nn.ModuleList, x: Tensor, packing: Any) -> Tensor:
        if not len(modules):
            return x
        dtype = attend.dtype_of(next(modules.parameters()))
        layers = [[p for name in MODULES for p in _both(module, name)] for module in modules]
        # at every call unless all is steady: the fused optimizer changes weights without raising their version
        known: dict[Any, Cast] = {} if self.casts is None else self.casts
        shapes = [_shape(module) for module in modules]
        keys = [(module, dtype, shape) for module, shape in zip(modules, shapes, strict=True)]  # dropout may be off
        for key, layer in zip(keys, layers, strict=True):
            if key not in known:
                known[key] = Cast.of(layer, dtype, key[2])
        casts = [known[key] for key in keys]
        learns = [x.requires_grad or any(p.requires_grad for p in layer) for layer in layers]
        first = learns.index(True) if torch.is_grad_enabled() and any(learns) else len(layers)
        with torch.autocast("cpu", enabled=False):
            found: Tensor = Stack.apply(  # type: ignore[no-untyped-call]
                x.to(dtype), casts, shapes, Places(packing.runs, shapes[0].heads), first, self.sparing,
                *(p for layer in layers[first:] for p in layer),
            )  # fmt: skip
        return found


class ComputedAgain:
    """Mixed into the class of the embeddings below such a stack: autograd keeps two rows of D in fp32 a token there,
    two fifths of a layer by hand."""

    again = False  # as of ``steady``

    def forward(self: Any, *args: Any, **more: Any) -> Any:
        compute = super().forward  # type: ignore[misc]
        if not (self.again and torch.is_grad_enabled()):
            return compute(*args, **more)
        return checkpoint(compute, *args, use_reentrant=False, **more)


def _shape(layer: Any) -> Shape:
    attention = layer.attention
    rates = (attention.output.dropout.p, attention.self.dropout.p) if layer.training else (0.0, 0.0)
    return Shape(attention.self.num_attention_heads, attention.output.LayerNorm.eps, *rates)


def stack(model: nn.Module) -> Any:
    """The stack of layers in ``model`` that computes by hand; None where there is none."""
    return next((module for module in model.modules() if isinstance(module, ByHand)), None)


@contextmanager
def steady(stack: Any, sparing: bool = False, again: bool = False) -> Iterator[None]:
    """While no weight of ``stack`` (None: of no stack) changes: chunks share the casts of weights. ``sparing``: masks
    of dropout are drawn again, a seventh less memory; ``again``: embeddings are computed again, a sixteenth less.
    Either takes 1 % more time."""
    if stack is None or stack.casts is not None:
        yield
        return

    def be(casts: dict[Any, Cast] | None, sparing: bool, again: bool) -> None:
        stack.casts, stack.sparing = casts, sparing
        for module in stack.embeddings:
            module.again = again

    be({}, sparing, again)
    try:
        yield
    finally:
        be(None, False, False)


def frozen(stack: Any) -> int:
    """How many of its lowest layers learn nothing."""
    learns = [any(p.requires_grad for p in layer.parameters()) for layer in stack.layer]
    return learns.index(True) if any(learns) else len(learns)


def _both(layer: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    module = layer.get_submodule(name)
    return module.weight, module.bias  # type: ignore[return-value]


def replace(model: nn.Module) -> bool:
    """Let every stack of BERT layers in ``model`` compute by hand; whether there was one."""
    modules = [*model.modules()]
    stacks = [m for m in modules if type(m).__name__ in STACKS and _suits(m.config)]
    below = tuple(m for m in modules if stacks and type(m).__name__ in EMBEDDINGS)
    for module, mixin in [*((m, ByHand) for m in stacks), *((m, ComputedAgain) for m in below)]:
        module.__class__ = type(type(module).__name__, (mixin, type(module)), {})
    for module in stacks:
        vars(module)["embeddings"] = below  # not as parts of it
    return bool(stacks)


def restore(model: nn.Module) -> None:
    """Undo ``replace``."""
    for module in model.modules():
        if isinstance(module, ByHand | ComputedAgain):
            module.__class__ = type(module).__mro__[2]
            for name in ("casts", "embeddings", "sparing", "again"):
                vars(module).pop(name, None)


def _suits(config: Any) -> bool:
    return (
        config.hidden_act == "gelu" and not config.is_decoder and not config.add_cross_attention
        and not config.chunk_size_feed_forward
    )  # fmt: skip
