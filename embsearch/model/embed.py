"""Texts to vectors: distinct texts sorted by length, in chunks under a token budget."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from embsearch.data.batch import onto
from embsearch.data.tokenise import Tokens
from embsearch.errors import OutOfMemory
from embsearch.model.attention import PLAIN
from embsearch.model.device import Compute, is_out_of_memory
from embsearch.model.encoder import Encoder

# Not cuDNN's, which torch takes first on a Hopper GPU: it makes a plan for every new shape, and batches of texts have
# one each. A step in three buckets took 136 ms by it, and 43 without.
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def chunks(lengths: np.ndarray, budget: int, pieces: int = 1) -> Iterator[np.ndarray]:
    """Positions of ``lengths`` in groups of near length, each at most ``budget`` padded tokens
    (but at least one text), and at least about ``pieces`` groups, which cuts the padding, where that is more than 1;
    with ``pieces`` 0 the tokens are not padded and the budget is of real ones.

    Longest first, so that memory that does not suffice shows at once.
    """
    order = np.argsort(-lengths, kind="stable")
    if not pieces:
        ends = np.cumsum(lengths[order])
        start = 0
        while start < len(order):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
            yield order[start:stop]
            start = stop
        return
    share = budget if pieces == 1 else max(1, min(budget, -(-int(lengths.sum()) // pieces)))
    start = 0
    while start < len(order):
        count = max(1, share // max(1, int(lengths[order[start]])))
        yield order[start : start + count]
        start += count


def encode(encoder: Encoder, tokens: Tokens, texts: np.ndarray, alone: bool = False) -> Tensor:
    """(B, E) embeddings of one chunk, on the encoder's device; inputs are pinned and asynchronous on CUDA.
    ``alone``: as of ``Encoder.packed``."""
    if encoder.packs:
        ids = np.concatenate([tokens.row(i) for i in texts])
        return encoder.packed(encoder.rows(ids), tokens.lengths[texts], encoder.below(tokens, texts), alone)
    ids, mask = tokens.padded(texts, encoder.pad)
    device = encoder.device
    pair = (onto(device, torch.from_numpy(array)) for array in (encoder.rows(ids), mask))
    plain = device.type == "cpu" and encoder.training and ids.shape[1] <= PLAIN
    kernels = [SDPBackend.MATH] if plain else KERNELS
    with sdpa_kernel(kernels):
        embeddings_BE: Tensor = encoder(*pair)
    return embeddings_BE


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
            encoder.release()
            gc.collect()  # outside the handler, so that no traceback keeps the failed chunk's tensors
            if compute.device.type == "cuda":
                torch.cuda.empty_cache()
    finally:
        encoder.train(was)


def _embed(encoder: Encoder, tokens: Tokens, distinct: np.ndarray, compute: Compute, budget: int) -> np.ndarray:
    found: np.ndarray | None = None
    if (
        encoder.packs and compute.device.type == "cpu"
    ):  # larger chunks leave the caches: 4,096 was the fastest of 1,024 to 16,384
        budget = min(budget, 4096)
    with compute.context():
        for take in chunks(tokens.lengths[distinct], budget, 0 if encoder.packs else 8):
            vectors = encode(encoder, tokens, distinct[take]).float().cpu().numpy()
            if found is None:
                found = np.empty((len(distinct), vectors.shape[1]), dtype=np.float32)
            found[take] = vectors
    assert found is not None, "embed needs at least one text"
    return found
