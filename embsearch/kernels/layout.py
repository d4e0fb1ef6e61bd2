"""Places of the rows of packed texts while layers compute by hand.

There are two orders: that of tokens, for linear parts, and that of attention. Both are filled up,
because products of a size that oneDNN has not met cost it about 1.2 ms each for the code that it
writes then: for every step's own number of tokens that was a fifth of the step.
Shapes: T tokens of a chunk, H heads, L tokens of a text, W the width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from embsearch.kernels import attention as attend
from embsearch.kernels.arena import New

ROWS = 64  # a chunk's rows are filled up to a multiple
LENGTHS = 8  # and a text's tokens inside attention
# The backward pass goes through the active texts alone where they hold less than this share of the
# tokens: picking their rows costs about as much as a tenth of it.
WORTH_PICKING = 0.9


class PackedLayout:
    """The places of the rows of packed texts, as the layers of one chunk share them.

    In attention texts of near length are padded to one: a fourth of the products, a few per cent
    more work in them. ``rows`` is the number of tokens and, up to a multiple of ROWS, of rows
    without meaning at the end. Attention reads the last of them where a text has no token, so then
    there is one; their gradient is zero.
    """

    def __init__(self, texts: attend.Runs, heads: int) -> None:
        counts, lengths = (np.array(part) for part in zip(*texts, strict=True))
        self.each, self.heads = np.repeat(lengths, counts), heads
        self.tokens = int(self.each.sum())
        self.padded = -(-self.each // LENGTHS) * LENGTHS
        spare = int(self.padded.sum() > self.tokens)
        self.rows = -(-(self.tokens + spare) // ROWS) * ROWS
        found, at = np.unique(-self.padded, return_counts=True)
        runs = tuple((int(n), -int(length)) for n, length in zip(at, found, strict=True))
        self.runs = attend.cut(runs, heads)
        begins = np.cumsum(self.each) - self.each
        offsets = np.cumsum(self.padded) - self.padded
        place = np.arange(self.padded.sum()) - np.repeat(offsets, self.padded)  # in its text
        real = place < np.repeat(self.each, self.padded)
        own = np.repeat(begins, self.padded) + place
        token = torch.from_numpy(np.where(real, own, self.rows - 1))
        order = attend.order(self.runs, heads)
        token, head = token[order // heads], order % heads
        # rows of heads in attention's order, of one part and of q, k and v in one product
        self.to_attention = token * heads + head
        parts = [(token * 3 + part) * heads + head for part in range(3)]
        self.to_attention_qkv = torch.cat(parts)
        self.from_attention = self._inverse(self.to_attention)
        self.from_attention_qkv = self._inverse(self.to_attention_qkv)
        self._real = torch.from_numpy(real)
        self._masks: tuple[Tensor | None, ...] | None = None

    def _inverse(self, there: Tensor) -> Tensor:
        per_token = len(there) // len(self.to_attention) * self.heads
        back = torch.empty(self.rows * per_token, dtype=torch.int64)
        back[there] = torch.arange(len(there))
        return back[: self.tokens * per_token]

    def masks(self, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        """Return for each run (n * H, 1, L): -inf where a text has no token; None where all do."""
        if self._masks is None:
            made: list[Tensor | None] = []
            start = 0
            for count, length in self.runs:
                real = self._real[start : start + count * length].view(count, 1, 1, length)
                start += count * length
                made.append(None if bool(real.all()) else self._mask(real, dtype))
            self._masks = tuple(made)
        return self._masks

    def _mask(self, real: Tensor, dtype: torch.dtype) -> Tensor:
        mask = torch.zeros(real.shape, dtype=dtype).masked_fill_(~real, -torch.inf)
        return mask.expand(-1, self.heads, -1, -1).reshape(-1, 1, real.shape[-1])

    def fill(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return (T, ...) ``x``, or the ``rows`` of it, with zeros up to the number of rows."""
        found = x.new_empty(self.rows, *x.shape[1:])
        if rows is None:
            found[: self.tokens] = x
        else:
            torch.index_select(x, 0, rows, out=found[: self.tokens])
        found[self.tokens :].zero_()
        return found

    def by_token(self, x: Tensor, order: Tensor, new: New = Tensor.new_empty) -> Tensor:
        """Return rows in attention's order (.., W) as those of tokens (T, ..), zeros at the end.

        They lie in what ``new`` gives. ``order``: ``from_attention`` or ``from_attention_qkv``.
        """
        per_token = len(order) // self.tokens
        found = new(x, self.rows * per_token, x.shape[1])
        torch.index_select(x, 0, order, out=found[: len(order)])
        found[len(order) :].zero_()
        return found.view(self.rows, -1)

    def active(self, gradient: Tensor) -> PickedTexts | None:
        """Return the texts whose rows of ``gradient`` are not all zero.

        None where leaving out the others is not worth it.
        """
        starts = np.cumsum(self.each) - self.each
        kept = np.logical_or.reduceat((gradient != 0).any(1).numpy(), starts)
        if not kept.any():
            kept[-1] = True
        if self.each[kept].sum() > WORTH_PICKING * self.tokens:
            return None
        token = torch.from_numpy(np.flatnonzero(np.repeat(kept, self.each)))
        row = torch.from_numpy(np.flatnonzero(np.repeat(kept, self.padded * self.heads)))
        # first text that is kept, one after the last, ...
        edges = np.flatnonzero(np.diff(kept, prepend=False, append=False))
        squares = np.cumsum([0, *(self.padded**2 * self.heads)])[edges].reshape(-1, 2)
        runs = tuple((1, int(length)) for length in self.each[kept])
        layout = PackedLayout(runs, self.heads)
        return PickedTexts(layout, token, row, [slice(*ends) for ends in squares.tolist()])


@dataclass(frozen=True)
class PickedTexts:
    """Some texts of a chunk: their own layout, and which rows of the chunk they are."""

    layout: PackedLayout
    token: Tensor
    row: Tensor  # in attention's order
    squares: list[slice]  # of the weights
