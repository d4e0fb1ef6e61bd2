"""A check that an exported graph is still the model: the same texts by both, before anybody gets
it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embsearch.codec import JsonObject
from embsearch.config.schema import ExportConfig
from embsearch.data.dataset import Rows
from embsearch.serve.index import unit_rows
from embsearch.tasks.base import AnyTask, Metric

Encode = Callable[[Sequence[str]], np.ndarray]
SPEED_TEXTS, TURNS = 256, 3


@dataclass(frozen=True)
class Scored:
    """The task's primary metric of the graph and of the fp32 model, on the same rows."""

    metric: Metric
    graph: float
    fp32: float

    @property
    def loss(self) -> float:
        """The part of the metric that the graph loses."""
        return self.fp32 - self.graph


@dataclass(frozen=True)
class Parity:
    """A comparison of graph and model.

    ``scored`` is None without judged rows. Texts a second, in turns.
    """

    texts: int
    min_cosine: float
    scored: Scored | None
    speed: float
    speed_torch: float

    def refusals(self, limits: ExportConfig) -> list[str]:
        """Return the limits that are not met, in words."""
        found = []
        if not self.min_cosine >= limits.min_cosine:  # also NaN
            found.append(
                f"the least similar vector has cosine {self.min_cosine:.4f} with its own in fp32, below "
                f"export.min_cosine={limits.min_cosine:g}"
            )
        if self.scored is not None and not self.scored.loss <= limits.max_auc_loss:
            found.append(
                f"{self.scored.metric.label} {self.scored.graph:.4f} where fp32 has {self.scored.fp32:.4f}: loses "
                f"more than export.max_auc_loss={limits.max_auc_loss:g}"
            )
        return found

    def facts(self, metric: Metric) -> JsonObject:
        """Return the comparison as plain JSON; ``metric`` is the task's primary one."""
        scored = self.scored
        return {
            "texts": self.texts,
            "min_cosine": self.min_cosine,
            metric.name: None if scored is None else scored.graph,
            f"{metric.name}_fp32": None if scored is None else scored.fp32,
            "speed": self.speed,
            "speed_torch": self.speed_torch,
        }


def on_rows(
    task: AnyTask, texts: Sequence[str], rows: Rows, exact: Encode, graph: Encode, plain: Encode
) -> Parity:
    """Compare on every item of judged rows; ``texts`` are the items behind their prompts.

    ``exact`` gives the fp32 vectors, ``plain`` the speed to compare with.
    """
    ids = task.items(rows)
    theirs, ours = graph(texts), exact(texts)
    finite = np.nan_to_num(theirs)  # a vector that is not finite has no cosine, which refuses it

    def metric_of(vectors: np.ndarray) -> float:
        return task.metrics(rows, task.answers(rows, ids, vectors))[task.primary.name]

    scored = Scored(task.primary, metric_of(finite), metric_of(ours))
    return Parity(len(texts), _least_similar(theirs, ours), scored, *speeds(texts, graph, plain))


def on_texts(texts: Sequence[str], exact: Encode, graph: Encode, plain: Encode) -> Parity:
    """Compare on texts that nobody judged."""
    return Parity(
        len(texts), _least_similar(graph(texts), exact(texts)), None, *speeds(texts, graph, plain)
    )


def speeds(texts: Sequence[str], *encoders: Encode) -> list[float]:
    """Return texts a second of each encoder, the median of turns that they take one after another."""
    some = [
        texts[i] for i in np.linspace(0, len(texts) - 1, min(len(texts), SPEED_TEXTS)).astype(int)
    ]
    found: list[list[float]] = [[] for _ in encoders]
    for _ in range(TURNS):
        for encode, times in zip(encoders, found, strict=True):
            began = time.perf_counter()
            encode(some)
            times.append(len(some) / (time.perf_counter() - began))
    return [statistics.median(times) for times in found]


def _least_similar(theirs: np.ndarray, ours: np.ndarray) -> float:
    return float((unit_rows(theirs) * unit_rows(ours)).sum(axis=1).min())
