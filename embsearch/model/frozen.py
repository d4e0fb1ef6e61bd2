"""States after the frozen layers: those layers give a text the same ones at every step.

They are kept in the worker's memory for all trials with that many frozen layers. They are computed
a block of texts of near length at a time, so that a text's states are the same bits whoever asks
first (docs/decisions/0016-below-the-cut.md).
Shapes: T tokens of a chunk, D the width of a layer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from embsearch.data.tokenise import Tokens

BLOCK = 128  # texts
LIMIT = 2**30  # bytes; where all texts need more, frozen layers are computed at every step


class FrozenLayerCache:
    """The states of the texts of ``tokens``.

    ``compute`` gives (T, D) of some texts, which come longest first.
    """

    def __init__(self, tokens: Tokens, compute: Callable[[np.ndarray], Tensor]) -> None:
        self._compute = compute
        self._order = np.argsort(-tokens.lengths, kind="stable")
        self._rank = np.empty_like(self._order)
        self._rank[self._order] = np.arange(len(self._order))
        self._ends = np.cumsum(tokens.lengths[self._order])
        self._lengths = tokens.lengths
        self._known = np.zeros(-(-len(self._order) // BLOCK), dtype=bool)
        self._states: Tensor | None = None

    def __call__(self, texts: np.ndarray) -> Tensor:
        """Return (T, D) states of ``texts``, end to end."""
        rank, lengths = self._rank[texts], self._lengths[texts]
        for block in np.unique(rank // BLOCK):
            if not self._known[block]:
                self._fill(block)
        assert self._states is not None, "there is at least one text"
        starts = self._ends[rank] - lengths
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows = torch.from_numpy(np.repeat(starts, lengths) + within)
        return self._states.index_select(0, rows)

    def _fill(self, block: int) -> None:
        take = self._order[block * BLOCK : (block + 1) * BLOCK]
        found = self._compute(take)
        if self._states is None:  # the system gives pages only as blocks come
            with torch.inference_mode(False):  # who trains may fill it too
                rows = int(self._ends[-1])
                self._states = torch.empty(rows, found.shape[1], dtype=found.dtype)
        stop = self._ends[block * BLOCK + len(take) - 1]
        self._states[stop - len(found) : stop] = found
        self._known[block] = True
