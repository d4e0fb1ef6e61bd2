"""The answers and costs of models: candidate, champion and untuned encoder, by the same code on the
same rows.

Stored figures are never trusted here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from embsearch.config.schema import Config
from embsearch.data.dataset import TaskData
from embsearch.kernels.select import select
from embsearch.model import pretrained
from embsearch.model.device import Compute, choose
from embsearch.model.embed import embed
from embsearch.model.prompts import Role, prompt_of
from embsearch.model.texts import Texts
from embsearch.model.tower import Inputs, Tower
from embsearch.tasks.base import Answers
from embsearch.tasks.catalogue import task_of, tower_class

TIMED, ROUNDS = 256, 5  # items that are timed, and how often
RELOADED = 32  # items that both loaders encode


@dataclass(frozen=True)
class JudgedModel:
    """One model on the test rows."""

    answers: Answers
    vectors: np.ndarray  # of RELOADED of its items
    width: int
    size: int  # bytes of its weights
    tower: Tower
    inputs: Inputs


class Judge:
    """Has models encode the test rows. ``cache``: of the prepared data."""

    def __init__(self, config: Config, data: TaskData, cache: Path) -> None:
        self.config, self.data, self.cache = config, data, cache
        self.compute: Compute = choose(config.device, config.train.precision)
        self.task = task_of(config)
        self.rows = self.task.rows(data, "test")
        self.ids = self.task.items(self.rows)

    def __call__(self, model: Path | None) -> JudgedModel:
        """Return a saved model's answers; None: the untuned encoder's."""
        kind = tower_class(self.task.kind)
        if model is None:
            whole = replace(
                self.config.encoder, adapter="none"
            )  # a fresh one would cost time alone
            tower: Tower = kind.build(whole, self.config.train.seed)
        else:
            tower = kind.load(model, "cpu")
        tower.to(self.compute.device)
        if self.compute.device.type == "cpu":
            select(tower, self.compute)
        inputs = tower.prepare(self.data, self.cache / "tokens")
        vectors = embed(tower, inputs, self.ids, self.compute)
        answers = self.task.answers(self.rows, self.ids, vectors)
        size = sum(p.numel() * p.element_size() for p in tower.parameters())
        few = vectors[_spread(len(self.ids), RELOADED)]
        return JudgedModel(answers, few, vectors.shape[1], size, tower, inputs)

    def slowdown(self, mine: JudgedModel, theirs: JudgedModel) -> float:
        """Return how many times as long an item takes: the median of ratios of turns."""
        some = self.ids[_spread(len(self.ids), TIMED)]
        turns = [[self._seconds(model, some) for model in (mine, theirs)] for _ in range(ROUNDS)]
        return median(own / other for own, other in turns)

    def _seconds(self, model: JudgedModel, ids: np.ndarray) -> float:
        started = time.perf_counter()
        embed(model.tower, model.inputs, ids, self.compute)
        return time.perf_counter() - started

    def sample(self) -> list[str]:
        """Return a few items of the test rows."""
        return [self.data.texts[i] for i in self.ids[_spread(len(self.ids), RELOADED)]]


def _spread(count: int, most: int) -> np.ndarray:
    """Return at most ``most`` numbers below ``count``, spread evenly."""
    return np.linspace(0, count - 1, min(most, count)).astype(int)


def reload_differences(
    folder: Path, artifacts: Path, texts: Sequence[str], device: str
) -> dict[str, float]:
    """Return, by loader, the largest difference of a component from the vectors of embsearch, all
    in fp32.
    """
    from mlflow.pyfunc import load_model
    from sentence_transformers import SentenceTransformer

    compute = choose(device, "fp32")
    tower = Texts.load(folder, str(compute.device))

    def mine(role: Role | None) -> np.ndarray:
        given = [prompt_of(tower.model, role) + text for text in texts]
        inputs = tower.read(given, [role] * len(given))
        return embed(tower, inputs, np.arange(len(texts)), compute)

    with pretrained.quiet():
        plain = SentenceTransformer(str(folder), device=str(compute.device))
        theirs = [
            mine("query") - plain.encode_query(list(texts), show_progress_bar=False),
            mine("document") - plain.encode_document(list(texts), show_progress_bar=False),
        ]
        served = mine(None) - np.asarray(load_model(str(artifacts)).predict(list(texts)))
    return {
        "sentence-transformers' loader": float(np.abs(theirs).max()),
        "MLflow's": float(np.abs(served).max()),
    }
