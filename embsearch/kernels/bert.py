"""BERT's stack of layers over packed texts, by hand: one autograd function in all.

For encoders whose layers are BERT's (MiniLM, E5, BGE, GTE, RoBERTa, XLM-R: most of what people
fine-tune); others go through their own code and autograd.

A text whose vectors have no gradient (a triplet that already leads by its margin) takes no part in
the backward pass. That is exact: its share of every gradient is zero, dropout or not.
Shapes: T tokens of the chunk, D the width of a layer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import GELUActivation

from embsearch.kernels import dropout as byte_dropout
from embsearch.kernels.arena import Arena
from embsearch.kernels.attention import WRITTEN_OUT, Runs
from embsearch.kernels.bert_layer import CastWeights, Shape, backward, forward, saved_bytes
from embsearch.kernels.layout import PackedLayout
from embsearch.model import lora
from embsearch.model.device import product_dtype

FAMILIES = {"BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel"}
MODULES = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
CLASSES = {  # a module of a layer: its class, after the name of the family
    "": "Layer",
    "attention": "Attention",
    "attention.self": "SelfAttention",
    "attention.output": "SelfOutput",
    "intermediate": "Intermediate",
    "output": "Output",
}


@dataclass
class FrozenWeights:
    """The casts of weights that chunks share while no weight changes, and how they are computed.

    ``recompute_masks``: masks of dropout are drawn again in the backward pass, a seventh less
    memory for 1 % more time.
    """

    recompute_masks: bool = False
    casts: dict[tuple[nn.Module, torch.dtype, Shape], CastWeights] = field(default_factory=dict)


class StackFunction(torch.autograd.Function):
    """(T, D) of the last layer from (T, D) of the embeddings and the parameters that learn.

    Those are the parameters of every layer from ``first`` on.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        casts: list[CastWeights],
        shapes: list[Shape],
        layout: PackedLayout,
        first: int,
        recompute_masks: bool,
        arena: Arena,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.casts, ctx.shapes, ctx.layout, ctx.first, ctx.saved = casts, shapes, layout, first, []
        ctx.lease = arena.lease() if first < len(casts) else None
        x = layout.fill(x)
        for number, (cast, shape) in enumerate(zip(casts, shapes, strict=True)):
            if number == first:
                ctx.x = ctx.lease(x, *x.shape).copy_(x)
            keep = ctx.lease if number >= first else None
            x, saved = forward(x, cast, shape, layout, keep, recompute_masks)
            ctx.saved += [saved] if saved else []
        return x[: layout.tokens]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layout, tokens = ctx.layout, len(gradient)
        picked = layout.active(gradient)
        if picked is not None:
            layout = picked.layout
        gradient = layout.fill(gradient, picked.token if picked else None)
        found: list[Tensor] = []
        while ctx.saved:
            saved = ctx.saved.pop()
            number = ctx.first + len(ctx.saved)
            if ctx.saved:
                x = ctx.saved[-1].output(ctx.casts[number - 1], ctx.shapes[number - 1], picked)
            else:
                x = ctx.x if picked is None else layout.fill(ctx.x, picked.token)
            if picked is not None:
                saved.pick(picked)
            cast, shape = ctx.casts[number], ctx.shapes[number]
            gradient, parts = backward(gradient, x, saved, cast, shape, layout)
            found = [*parts, *found]
        ctx.x = None
        ctx.lease.end()
        gradient = gradient[: layout.tokens]
        if picked is not None:
            whole = gradient.new_zeros(tokens, gradient.shape[1])
            gradient = whole.index_copy_(0, picked.token, gradient)
        return gradient, None, None, None, None, None, None, *found


class BertStack:
    """The layers of a transformer's ``encoder``, computed by hand from their parameters."""

    def __init__(self, encoder: Any) -> None:
        self.layers, self.config, self.arena = encoder.layer, encoder.config, Arena()

    def __call__(
        self,
        x: Tensor,
        runs: Runs,
        layers: slice = slice(None),
        shared: FrozenWeights | None = None,
    ) -> Tensor:
        """Return (T, D) after ``layers``, in the dtype of products, from (T, D) before them.

        Without ``shared`` weights are cast at every call: the fused optimizer changes them without
        raising their version.
        """
        modules = list(self.layers)[layers]
        if not modules:
            return x
        shared = shared or FrozenWeights()
        parameters = [_parameters(module) for module in modules]
        dtype = product_dtype(parameters[0][0])
        shapes = [shape_of(module) for module in modules]
        casts = [
            _cast(shared, module, own, dtype, shape)
            for module, own, shape in zip(modules, parameters, shapes, strict=True)
        ]
        first = len(modules)
        if torch.is_grad_enabled():
            first = _first_learning(x, parameters)
        learning = [p for own in parameters[first:] for p in own]
        layout = PackedLayout(runs, shapes[0].heads)
        with torch.autocast("cpu", enabled=False):
            found: Tensor = StackFunction.apply(  # type: ignore[no-untyped-call]
                x.to(dtype), casts, shapes, layout, first, shared.recompute_masks, self.arena,
                *learning,
            )  # fmt: skip
        return found

    def frozen(self) -> int:
        """Return how many of the lowest layers learn nothing."""
        learns = [any(p.requires_grad for p in layer.parameters()) for layer in self.layers]
        return learns.index(True) if any(learns) else len(learns)

    def held_bytes(self, lengths: np.ndarray, itemsize: int, recompute_masks: bool) -> int | None:
        """Return the bytes that a chunk of such texts keeps for its backward pass.

        None where a text is too long for attention that is written out.
        """
        if lengths.max() > WRITTEN_OUT:
            return None
        config = self.config
        drops = byte_dropout.threshold(shape_of(self.layers[-1]).dropout) > 0
        masks = 2 if drops and not recompute_masks else 0
        shape = config.hidden_size, config.intermediate_size, config.num_attention_heads
        given: int = itemsize * config.hidden_size * int(lengths.sum())  # to the lowest layer
        return given + len(self.layers) * saved_bytes(lengths, shape, itemsize, masks)


def unsuited(base: Any) -> str:
    """Return why ``base`` is not one of BERT's family with nothing exchanged; empty: it is."""
    family = type(base).__name__
    home = type(base).__module__
    if family not in FAMILIES or not home.startswith("transformers.models."):
        return f"{family} is not of BERT's family"
    config = base.config
    if config.hidden_act != "gelu" or config.is_decoder or config.add_cross_attention:
        return "its layers are not plain BERT's"
    if config.chunk_size_feed_forward:
        return "its feed-forward part goes in chunks"
    classes = vars(sys.modules[home])
    family = family.removesuffix("Model")
    if type(base.encoder) is not classes[f"{family}Encoder"]:
        return f"its encoder is a {type(base.encoder).__name__}"
    for number, layer in enumerate(base.encoder.layer):
        for name, module, expected in _expected(layer, classes, family):
            if type(module) is not expected:
                return f"{name or 'it'} of layer {number} is a {type(module).__name__}"
    return ""


def _expected(
    layer: nn.Module, classes: dict[str, type], family: str
) -> Iterator[tuple[str, nn.Module, type]]:
    """Yield the modules of a layer that are read by hand: name, module, exact class."""
    for name, suffix in CLASSES.items():
        yield name, layer.get_submodule(name), classes[family + suffix]
    for name in MODULES:
        yield (
            name,
            lora.plain(layer.get_submodule(name)),
            nn.LayerNorm if "Norm" in name else nn.Linear,
        )
    activation = "intermediate.intermediate_act_fn"
    yield activation, layer.get_submodule(activation), GELUActivation


def shape_of(layer: Any) -> Shape:
    """Return the shape of a layer as it is now: dropout is 0 while it does not train."""
    attention = layer.attention
    heads, epsilon = attention.self.num_attention_heads, attention.output.LayerNorm.eps
    if not layer.training:
        return Shape(heads, epsilon, 0.0, 0.0)
    return Shape(heads, epsilon, attention.output.dropout.p, attention.self.dropout.p)


def _parameters(layer: nn.Module) -> list[Tensor]:
    found: list[Tensor] = []
    for name in MODULES:
        module: Any = layer.get_submodule(name)
        found += [lora.weight(module), module.bias]
    return found


def _cast(
    shared: FrozenWeights, layer: nn.Module, own: list[Tensor], dtype: torch.dtype, shape: Shape
) -> CastWeights:
    key = layer, dtype, shape  # the shape too: dropout may be off
    if key not in shared.casts:
        shared.casts[key] = CastWeights.of(own, dtype, shape)
    return shared.casts[key]


def _first_learning(x: Tensor, parameters: Sequence[list[Tensor]]) -> int:
    """Return the lowest layer that needs a backward pass; their number where none does."""
    if x.requires_grad:
        return 0
    for number, own in enumerate(parameters):
        if any(p.requires_grad for p in own):
            return number
    return len(parameters)
