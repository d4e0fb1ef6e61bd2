"""What the models say and cost: candidate, champion and untuned encoder, by the same code on the same rows.

Stored figures are never trusted here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from embsearch.config.schema import Config
from embsearch.data.dataset import Dataset, texts_of
from embsearch.data.tokenise import Tokens, cached, tokenise
from embsearch.evaluate.score import similarity
from embsearch.model import pretrained
from embsearch.model.device import Compute, choose
from embsearch.model.embed import embed
from embsearch.model.encoder import Encoder
from embsearch.registry.gates import Scores

SAMPLE, ROUNDS = 256, 5  # texts that are timed, and how often
TEXTS = 32  # that both loaders encode


@dataclass(frozen=True)
class Judged:
    """One model on the test rows."""

    scores: Scores
    width: int
    size: int  # bytes of its weights
    encoder: Encoder
    tokens: Tokens


class Judge:
    """Has models encode the test rows. ``cache``: of the prepared data."""

    def __init__(self, config: Config, data: Dataset, cache: Path) -> None:
        self.config, self.data, self.cache = config, data, cache
        self.compute: Compute = choose(config.device, config.train.precision)
        self.ids = texts_of(data.test)

    def __call__(self, model: Path | None) -> Judged:
        """A saved model's scores; None: the untuned encoder's."""
        built = (
            pretrained.build(self.config.model, self.config.train.seed) if model is None else pretrained.load(model)
        )
        encoder = Encoder(built.to(self.compute.device))
        if self.compute.device.type == "cpu":
            encoder.pack()
        length = built.max_seq_length or pretrained.LONGEST
        tokens = cached(self.data, built.tokenizer, length, self.cache / "tokens")
        vectors = embed(encoder, tokens, self.ids, self.compute)
        size = sum(p.numel() * p.element_size() for p in built.parameters())
        return Judged(similarity(self.data.test, self.ids, vectors), vectors.shape[1], size, encoder, tokens)

    def slowdown(self, mine: Judged, theirs: Judged) -> float:
        """How many times as long a text takes: the median of ratios of turns."""
        some = self.ids[np.linspace(0, len(self.ids) - 1, min(SAMPLE, len(self.ids))).astype(int)]
        turns = [[self._seconds(model, some) for model in (mine, theirs)] for _ in range(ROUNDS)]
        return median(own / other for own, other in turns)

    def _seconds(self, model: Judged, ids: np.ndarray) -> float:
        started = time.perf_counter()
        embed(model.encoder, model.tokens, ids, self.compute)
        return time.perf_counter() - started

    def sample(self) -> list[str]:
        """A few texts of the test rows."""
        at = np.linspace(0, len(self.ids) - 1, min(TEXTS, len(self.ids))).astype(int)
        return [self.data.texts[i] for i in self.ids[at]]


def reloaded(folder: Path, artifacts: Path, texts: Sequence[str], device: str) -> dict[str, float]:
    """By loader, how far a component of a text's vector lies at most from what embsearch computes, all in fp32."""
    from mlflow.pyfunc import load_model
    from sentence_transformers import SentenceTransformer

    compute = choose(device, "fp32")
    encoder = Encoder(pretrained.load(folder, str(compute.device)))
    tokens = tokenise(list(texts), encoder.model.tokenizer, encoder.model.max_seq_length)
    mine = embed(encoder, tokens, np.arange(len(texts)), compute)
    with pretrained.quiet():
        plain = SentenceTransformer(str(folder), device=str(compute.device))
        theirs = plain.encode(list(texts), show_progress_bar=False)
        served = np.asarray(load_model(str(artifacts)).predict(list(texts)))
    return {
        "sentence-transformers' loader": float(np.abs(mine - theirs).max()),
        "MLflow's": float(np.abs(mine - served).max()),
    }
