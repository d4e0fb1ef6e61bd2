"""Which test rows a model was trained on: (query, title) pairs, as 64-bit numbers.

A version keeps those of its training rows, so that a later candidate, with other data, knows whether the champion
has seen the rows that both are judged by.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embsearch.data.dataset import Dataset
from embsearch.data.keys import query_keys, salted

Pairs = NDArray[np.uint64]


def trained_on(data: Dataset) -> Pairs:
    """The pairs of the training rows, rising."""
    train, some = data.train, data.train.negative >= 0
    queries = np.concatenate([train.anchor, train.anchor[some]])
    titles = np.concatenate([train.positive, train.negative[some]])
    return np.unique(_pairs(data, queries, titles))


def share_seen(data: Dataset, trained: Pairs) -> float:
    """The share of the test rows among the pairs."""
    return float(np.isin(_pairs(data, data.test.text, data.test.title), trained).mean())


def _pairs(data: Dataset, queries: NDArray[np.int32], titles: NDArray[np.int32]) -> Pairs:
    ids = np.unique(queries)
    keys = dict(zip(ids.tolist(), query_keys(data.texts[i] for i in ids), strict=True))
    both = zip(queries.tolist(), titles.tolist(), strict=True)
    return np.array([salted(0, keys[query], data.texts[title]) for query, title in both], dtype=np.uint64)
