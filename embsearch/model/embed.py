"""Texts to vectors: distinct texts sorted by length, in chunks under a token budget."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import torch

from embsearch.errors import OutOfMemory
from embsearch.model.device import Compute, is_out_of_memory
from embsearch.model.tower import Inputs, Tower

# Tokens of a chunk without padding on a CPU: larger chunks leave the caches, 4,096 was the fastest
# of 1,024 to 16,384.
UNPADDED_ON_CPU = 4096


def chunks(lengths: np.ndarray, budget: int, pieces: int = 1) -> Iterator[np.ndarray]:
    """Yield positions of ``lengths`` in groups of near length, the longest first.

    Each group has at most ``budget`` padded tokens, but at least one text. With ``pieces`` above 1
    there are about so many groups or more, which cuts the padding. With ``pieces`` 0 the tokens are
    not padded and the budget is of real ones. The longest come first so that memory that does not
    suffice shows at once.
    """
    order = np.argsort(-lengths, kind="stable")
    if not pieces:
        yield from _unpadded(order, np.cumsum(lengths[order]), budget)
        return
    share = budget
    if pieces > 1:
        share = max(1, min(budget, -(-int(lengths.sum()) // pieces)))
    start = 0
    while start < len(order):
        count = max(1, share // max(1, int(lengths[order[start]])))
        yield order[start : start + count]
        start += count


def _unpadded(order: np.ndarray, ends: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    start = 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
        yield order[start:stop]
        start = stop


@torch.inference_mode()
def embed(
    encoder: Tower, inputs: Inputs, texts: np.ndarray, compute: Compute, budget: int = 16_384
) -> np.ndarray:
    """Return (len(texts), E) float32, one row for each id of ``texts``, in its order.

    Raises OutOfMemory when not even one text fits.
    """
    was = encoder.training
    encoder.eval()
    distinct, back = np.unique(texts, return_inverse=True)
    try:
        while True:
            try:
                return _embed(encoder, inputs, distinct, compute, budget)[back]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                longest = int(inputs.lengths[distinct].max())
                if budget <= longest:
                    raise OutOfMemory(
                        f"one text of {longest} tokens does not fit on {compute.device}: {error}"
                    ) from error
                budget = max(longest, budget // 2)
            encoder.release()
            gc.collect()  # outside the handler, so that no traceback keeps the chunk's tensors
            if compute.device.type == "cuda":
                torch.cuda.empty_cache()
    finally:
        encoder.train(was)


def _embed(
    encoder: Tower, inputs: Inputs, distinct: np.ndarray, compute: Compute, budget: int
) -> np.ndarray:
    found: np.ndarray | None = None
    if encoder.packs and compute.device.type == "cpu":
        budget = min(budget, UNPADDED_ON_CPU)
    with compute.context():
        for take in chunks(inputs.lengths[distinct], budget, 0 if encoder.packs else 8):
            vectors = encoder.encode(inputs, distinct[take]).float().cpu().numpy()
            if found is None:
                found = np.empty((len(distinct), vectors.shape[1]), dtype=np.float32)
            found[take] = vectors
    assert found is not None, "embed needs at least one text"
    return found
