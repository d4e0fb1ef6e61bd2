"""(query, title) pairs as 64-bit numbers, so that the pairs of two data sets can be compared
without their texts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embsearch.data.dataset import Ids, TaskData
from embsearch.data.keys import query_keys, salted

Keys = NDArray[np.uint64]


def training_pairs(data: TaskData) -> Keys:
    """Return the pairs of the training rows, rising."""
    train, some = data.train, data.train.negative >= 0
    queries = np.concatenate([train.anchor, train.anchor[some]])
    titles = np.concatenate([train.positive, train.negative[some]])
    return np.unique(pair_keys(data, queries, titles))


def pair_keys(data: TaskData, queries: Ids, titles: Ids) -> Keys:
    """Return the number of each pair; ``queries`` and ``titles`` are text ids side by side."""
    ids = np.unique(queries)
    keys = dict(zip(ids.tolist(), query_keys(data.texts[i] for i in ids), strict=True))
    pairs = zip(queries.tolist(), titles.tolist(), strict=True)
    return np.array(
        [salted(0, keys[query], data.texts[title]) for query, title in pairs], dtype=np.uint64
    )
