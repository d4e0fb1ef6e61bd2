"""Whether an exported graph is still the model: the same texts by both, before anybody gets it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embsearch.config.schema import ExportConfig
from embsearch.data.dataset import Dataset, Judged, texts_of
from embsearch.evaluate.auc import roc_auc
from embsearch.evaluate.score import similarity
from embsearch.serve.index import unit

Encode = Callable[[Sequence[str]], np.ndarray]
SPEED_TEXTS, TURNS = 256, 3


@dataclass(frozen=True)
class Parity:
    """``auc`` of graph and model on the judged rows, None where there are none. Texts a second, in turns."""

    texts: int
    min_cosine: float
    auc: float | None
    auc_fp32: float | None
    speed: float
    speed_torch: float

    def refusals(self, limits: ExportConfig) -> list[str]:
        """What is not met."""
        found = []
        if not self.min_cosine >= limits.min_cosine:  # also NaN
            found.append(
                f"the least similar vector has cosine {self.min_cosine:.4f} with its own in fp32, below "
                f"export.min_cosine={limits.min_cosine:g}"
            )
        if self.auc is not None and self.auc_fp32 is not None and not self.auc_fp32 - self.auc <= limits.max_auc_loss:
            found.append(
                f"AUC {self.auc:.4f} where fp32 has {self.auc_fp32:.4f}: loses more than "
                f"export.max_auc_loss={limits.max_auc_loss:g}"
            )
        return found


def on_rows(data: Dataset, rows: Judged, exact: Encode, graph: Encode, plain: Encode) -> Parity:
    """On every text of judged rows. ``exact`` gives the fp32 vectors, ``plain`` the speed to compare with."""
    ids = texts_of(rows)
    texts = [data.texts[i] for i in ids]
    theirs, ours = graph(texts), exact(texts)
    finite = np.nan_to_num(theirs)  # what is not has no cosine, which refuses it
    auc, auc_fp32 = (roc_auc(similarity(rows, ids, v), rows.relevant) for v in (finite, ours))
    return Parity(len(texts), _least(theirs, ours), auc, auc_fp32, *speeds(texts, graph, plain))


def on_texts(texts: Sequence[str], exact: Encode, graph: Encode, plain: Encode) -> Parity:
    """On texts that nobody judged."""
    return Parity(len(texts), _least(graph(texts), exact(texts)), None, None, *speeds(texts, graph, plain))


def speeds(texts: Sequence[str], *encoders: Encode) -> list[float]:
    """Texts a second of each, the median of turns that they take one after another."""
    some = [texts[i] for i in np.linspace(0, len(texts) - 1, min(len(texts), SPEED_TEXTS)).astype(int)]
    found: list[list[float]] = [[] for _ in encoders]
    for _ in range(TURNS):
        for encode, times in zip(encoders, found, strict=True):
            began = time.perf_counter()
            encode(some)
            times.append(len(some) / (time.perf_counter() - began))
    return [statistics.median(times) for times in found]


def _least(theirs: np.ndarray, ours: np.ndarray) -> float:
    return float((unit(theirs) * unit(ours)).sum(axis=1).min())
