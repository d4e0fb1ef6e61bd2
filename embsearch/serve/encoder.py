"""A saved model that answers: texts in, vectors out, in fp32 as ``SentenceTransformer.encode``
gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embsearch.errors import ConfigError, did_you_mean
from embsearch.kernels.select import select
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.embed import embed
from embsearch.model.prompts import Role, prompt_of
from embsearch.model.texts import tower_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from embsearch.serve.requests import Rows


@dataclass(frozen=True)
class Vectors:
    """(B, E) float32, one row a text; ``tokens`` is how many each text has, what was cut off not
    counted.
    """

    values: np.ndarray
    tokens: np.ndarray


Asked = tuple[str, Role | None]  # a text behind its prompt, and what it is: some models ask


class TextEncoder:
    """One model in memory. Not for several threads at once: see batcher.py."""

    def __init__(self, model: SentenceTransformer, device: str = "auto") -> None:
        self._compute = choose(device, "fp32")
        self._tower = tower_of(model.to(self._compute.device))
        select(self._tower, self._compute)

    @staticmethod
    def open(folder: Path, device: str = "auto") -> TextEncoder:
        """Return a saved model. Raises ModelError."""
        return TextEncoder(pretrained.load(folder), device)

    @property
    def prompts(self) -> Mapping[str, str | None]:
        """The model's prompts by name."""
        return self._tower.model.prompts

    def prompted(self, texts: Sequence[str], role: Role | None) -> list[Asked]:
        """Return the texts behind the prompt of a role.

        None: that of ``SentenceTransformer.encode``, which goes by ``default_prompt_name``.
        """
        prompt = prompt_of(self._tower.model, role)
        return [(prompt + text, role) for text in texts]

    def named(self, texts: Sequence[str], name: str, role: Role | None) -> list[Asked]:
        """Return the texts behind the prompt of this name. Raises ConfigError."""
        if name not in self.prompts:
            known = ", ".join(self.prompts)
            hint = did_you_mean(name, list(self.prompts))
            raise ConfigError(f"prompt_name={name}: no such prompt.{hint} Known: {known}")
        return [((self.prompts[name] or "") + text, role) for text in texts]

    def __call__(
        self, texts: Sequence[str], role: Role | None = None, name: str | None = None
    ) -> Vectors:
        """Return the vectors of ``texts`` as queries or documents, or behind the prompt ``name``.

        Raises OutOfMemory where not even one fits, ConfigError where there is no such prompt.
        """
        asked = self.prompted(texts, role) if name is None else self.named(texts, name, role)
        return self.as_they_are(asked)

    def as_they_are(self, texts: Sequence[Asked]) -> Vectors:
        """Return the vectors of texts behind their prompts, of each distinct one once."""
        place = {one: i for i, one in enumerate(dict.fromkeys(texts))}
        inputs = self._tower.read([text for text, _ in place], [role for _, role in place])
        back = np.fromiter((place[one] for one in texts), dtype=np.int64, count=len(texts))
        vectors = embed(self._tower, inputs, np.arange(len(place)), self._compute)
        return Vectors(vectors[back], inputs.lengths[back])


def pairs(encoder: TextEncoder, rows: Rows) -> list[Asked]:
    """Return the queries of ``rows``, then their titles, each behind its prompt."""
    titles = encoder.prompted(rows.titles or (), "document")
    return [*encoder.prompted(rows.texts, "query"), *titles]


def cosines(values: np.ndarray) -> np.ndarray:
    """Return (M,) cosine of each of the first M rows with its fellow in the second M."""
    queries, titles = np.split(values, 2)
    lengths = np.linalg.norm(queries, axis=1) * np.linalg.norm(titles, axis=1)
    found: np.ndarray = np.einsum("me,me->m", queries, titles) / np.maximum(lengths, 1e-12)
    return found
