"""The place where an encoder's position table begins."""

from __future__ import annotations

import sys

from torch import nn


def positions(base: nn.Module) -> tuple[int, int]:
    """Return the number of a text's first position, and how many positions follow from it on.

    RoBERTa and its kin count from the padding id. Others count from 0, and how far is then for
    the tokenizer to say.
    """
    for module in base.modules():
        table = getattr(module, "position_embeddings", None)
        padding = getattr(module, "padding_idx", None)
        if isinstance(table, nn.Embedding) and isinstance(padding, int):
            return padding + 1, table.num_embeddings - padding - 1
    return 0, sys.maxsize
