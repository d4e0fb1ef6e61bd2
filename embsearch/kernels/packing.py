"""Texts without padding: end to end in one sequence, each attending only to itself.

The texts of a chunk stand in the order of their length, so those of one length lie side by side,
and attention over such a run is one dense call on a view: no padding, no mask, no copy. Everything
else in a transformer works token by token and never sees a border
(docs/decisions/0009-packed-texts.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from embsearch.kernels import attention as attend
from embsearch.model.positions import positions

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LONG = 128  # tokens of a text up to which the kernel of short texts may be used


@dataclass(frozen=True)
class Packing:
    """The places of texts in a packed chunk.

    ``runs`` are (texts, tokens a text) of one length; ``flash``: attention is by a GPU's kernels.
    """

    runs: attend.Runs
    borders: Tensor  # (texts + 1,) cumulative lengths, int32
    positions: Tensor  # (1, tokens), from 0 in every text
    longest: int  # tokens of a text, at most
    flash: bool = False
    short: bool = False  # as ``flash.mostly_short`` says
    _orders: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def orders(self, heads: int) -> tuple[Tensor, Tensor]:
        """Return the order of rows in attention that is written out, and the way back."""
        if heads not in self._orders:
            there = attend.order(self.runs, heads)
            self._orders[heads] = there, attend.inverse(there)
        return self._orders[heads]

    @staticmethod
    def of(lengths: np.ndarray) -> Packing:
        """Pack texts of ``lengths`` in their order, equal ones side by side."""
        starts = np.flatnonzero(np.diff(lengths, prepend=-1))
        counts = np.diff(np.append(starts, len(lengths)))
        borders = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.concatenate([np.arange(n) for n in lengths])
        runs = tuple(
            (int(count), int(lengths[start])) for start, count in zip(starts, counts, strict=True)
        )
        borders_tensor = torch.from_numpy(borders.astype(np.int32))
        longest = int(lengths.max())
        return Packing(runs, borders_tensor, torch.from_numpy(positions)[None], longest)


def features(model: SentenceTransformer, ids: np.ndarray, packing: Packing) -> dict[str, Any]:
    """Return the model's input: ``ids`` are the token rows of all texts end to end."""
    base: Any = model[0]
    device = next(base.parameters()).device
    first, _ = positions(base.auto_model)
    return {
        "input_ids": torch.from_numpy(ids)[None].to(device),
        "position_ids": (packing.positions + first).to(device),
        "packing": packing,
        "cu_seq_lens_q": packing.borders.to(device),
    }


def flat_features(
    chunk: Tensor, tokens: int, longest: int, short: bool, first: int
) -> dict[str, Any]:
    """Return the model's input for a GPU's kernels, from what lies there: nothing is asked back.

    ``chunk``: as ``joined`` makes it, with ``tokens`` ids. ``first``: a text's first position.
    """
    ids_T, borders = chunk[:tokens], chunk[tokens:]
    at_T = torch.arange(len(ids_T), device=ids_T.device, dtype=torch.int32)
    text_T = torch.searchsorted(borders[1:], at_T, right=True)
    positions_1T = (at_T - borders[text_T] + first)[None].long()
    return {
        "input_ids": ids_T[None],
        "position_ids": positions_1T,
        "packing": Packing((), borders, positions_1T, longest, flash=True, short=short),
        "cu_seq_lens_q": borders,
        "seq_idx": text_T[None],
    }


def joined(ids: np.ndarray, lengths: np.ndarray) -> Tensor:
    """Return (tokens + texts + 1,) int32: the ids of a chunk's texts, after them their borders."""
    return torch.from_numpy(np.concatenate([ids, [0], np.cumsum(lengths)]).astype(np.int32))
