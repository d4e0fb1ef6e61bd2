"""The context that an autograd function's forward and backward share."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.function import FunctionCtx


class Context(FunctionCtx):
    """A context as torch makes it. A subclass names what else its function keeps there."""

    saved_tensors: tuple[Tensor, ...]
