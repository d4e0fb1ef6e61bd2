"""Texts to vectors: distinct texts sorted by length, in chunks under a token budget."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from embsearch.data.tokenise import Tokens
from embsearch.errors import OutOfMemory
from embsearch.model.device import Compute, is_out_of_memory
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

    Raises OutOfMemory when not even one text fits.
    """
    was = encoder.training
    encoder.eval()
    distinct, back = np.unique(texts, return_inverse=True)
    try:
        while True:
            try:
                return _embed(encoder, tokens, distinct, compute, budget)[back]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                longest = int(tokens.lengths[distinct].max())
                if budget <= longest:
                    raise OutOfMemory(
                        f"one text of {longest} tokens does not fit on {compute.device}: {error}"
                    ) from error
                budget = max(longest, budget // 2)
            gc.collect()  # outside the handler, so that no traceback keeps the failed chunk's tensors
            if compute.device.type == "cuda":
                torch.cuda.empty_cache()
    finally:
        encoder.train(was)


def _embed(encoder: Encoder, tokens: Tokens, distinct: np.ndarray, compute: Compute, budget: int) -> np.ndarray:
    found: np.ndarray | None = None
    pad = encoder.model.tokenizer.pad_token_id or 0
    with compute.context():
        for take in chunks(tokens.lengths[distinct], budget, pieces=8):
            vectors = encoder(*inputs(encoder, tokens, distinct[take], pad)).float().cpu().numpy()
            if found is None:
                found = np.empty((len(distinct), vectors.shape[1]), dtype=np.float32)
            found[take] = vectors
    assert found is not None, "embed needs at least one text"
    return found
