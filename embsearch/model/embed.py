"""Texts to vectors: distinct texts sorted by length, in chunks under a token budget."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from embsearch.data.tokenise import Tokens
from embsearch.model.device import Compute
from embsearch.model.encoder import Encoder


def chunks(lengths: np.ndarray, budget: int, pieces: int = 1) -> Iterator[np.ndarray]:
    """Positions of ``lengths`` in groups of near length, each at most ``budget`` padded tokens
    (but at least one text), and at least about ``pieces`` groups, which cuts the padding.

    Longest first, so that memory that does not suffice shows at once.
    """
    order = np.argsort(-lengths, kind="stable")
    share = max(1, min(budget, -(-int(lengths.sum()) // pieces)))
    start = 0
    while start < len(order):
        count = max(1, share // max(1, int(lengths[order[start]])))
        yield order[start : start + count]
        start += count


def inputs(encoder: Encoder, tokens: Tokens, texts: np.ndarray, pad: int) -> tuple[Tensor, Tensor]:
    """(B, T) ids and mask of ``texts`` on the encoder's device; pinned and asynchronous on CUDA."""
    ids, mask = tokens.padded(texts, pad)
    pair = torch.from_numpy(encoder.rows(ids)), torch.from_numpy(mask)
    device = encoder.device
    if device.type == "cuda":
        return tuple(t.pin_memory().to(device, non_blocking=True) for t in pair)  # type: ignore[return-value]
    return pair


@torch.inference_mode()
def embed(encoder: Encoder, tokens: Tokens, texts: np.ndarray, compute: Compute, budget: int = 16_384) -> np.ndarray:
    """(len(texts), E) float32, one row for each id of ``texts``, in its order.

    Raises torch's out-of-memory error; the caller may halve ``budget``.
    """
    was = encoder.training
    encoder.eval()
    distinct, back = np.unique(texts, return_inverse=True)
    lengths = tokens.lengths[distinct]
    pad = encoder.model.tokenizer.pad_token_id or 0
    found: np.ndarray | None = None
    with compute.context():
        for take in chunks(lengths, budget, pieces=8):
            vectors = encoder(*inputs(encoder, tokens, distinct[take], pad)).float().cpu().numpy()
            if found is None:
                found = np.empty((len(distinct), vectors.shape[1]), dtype=np.float32)
            found[take] = vectors
    encoder.train(was)
    assert found is not None, "embed needs at least one text"
    return found[back]
