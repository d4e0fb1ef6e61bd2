"""The place where an encoder's position table begins."""

from __future__ import annotations

import sys

from torch import nn


def positions(base: nn.Module) -> tuple[int, int]:
    """Return the number of a text's first position, and how many positions follow from it on.

    RoBERTa and its kin count from the padding id. Others count from 0, to where the encoder's config
    says; where that says nothing, how far is for the tokenizer to say.
    """
    config = getattr(base, "config", None)
    said = getattr(config, "max_position_embeddings", None)
    most = said if isinstance(said, int) and said > 0 else sys.maxsize
    for module in base.modules():
        table = getattr(module, "position_embeddings", None)
        if not isinstance(table, nn.Embedding):
            continue
        padding = getattr(module, "padding_idx", None)
        if isinstance(padding, int):
            return padding + 1, table.num_embeddings - padding - 1
        most = min(most, table.num_embeddings)
    return 0, most
