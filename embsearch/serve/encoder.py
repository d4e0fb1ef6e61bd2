"""A saved model that answers: texts in, vectors out, in fp32 as ``SentenceTransformer.encode``
gives them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embsearch.data.tokenise import tokenise
from embsearch.kernels.select import select
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.embed import embed
from embsearch.model.encoder import Encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class Vectors:
    """(B, E) float32, one row a text; ``tokens`` is how many each text has, what was cut off not
    counted.
    """

    values: np.ndarray
    tokens: np.ndarray


class TextEncoder:
    """One model in memory. Not for several threads at once: see batcher.py."""

    def __init__(self, model: SentenceTransformer, device: str = "auto", prompt: str = "") -> None:
        """Take the model. ``prompt`` is put before every text."""
        self._compute = choose(device, "fp32")
        self._encoder = Encoder(model.to(self._compute.device))
        select(self._encoder, self._compute)
        self._prompt = prompt

    @staticmethod
    def open(folder: Path, device: str = "auto") -> TextEncoder:
        """Return A saved model. Raises ModelError."""
        return TextEncoder(pretrained.load(folder), device, _prompt(folder))

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of ``texts``; each distinct text is computed once.

        Raises OutOfMemory where not even one fits.
        """
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        model = self._encoder.model
        given = [self._prompt + text for text in place] if self._prompt else list(place)
        tokens = tokenise(given, model.tokenizer, model.max_seq_length)
        back = np.fromiter((place[text] for text in texts), dtype=np.int64, count=len(texts))
        vectors = embed(self._encoder, tokens, np.arange(len(place)), self._compute)
        return Vectors(vectors[back], tokens.lengths[back])


def cosines(values: np.ndarray) -> np.ndarray:
    """Return (M,) cosine of each of the first M rows with its fellow in the second M."""
    queries, titles = np.split(values, 2)
    lengths = np.linalg.norm(queries, axis=1) * np.linalg.norm(titles, axis=1)
    found: np.ndarray = np.einsum("me,me->m", queries, titles) / np.maximum(lengths, 1e-12)
    return found


def _prompt(folder: Path) -> str:
    """Return the prompt that sentence-transformers puts before every text of this model; empty
    without one.
    """
    try:
        config = json.loads(
            (folder / "config_sentence_transformers.json").read_text(encoding="utf-8")
        )
        return str((config.get("prompts") or {}).get(config.get("default_prompt_name")) or "")
    except (OSError, ValueError):
        return ""
