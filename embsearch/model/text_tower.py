"""A tower of texts: a SentenceTransformer, whole or a route of one.

Shapes: N texts, B texts of a chunk, E the width of the vectors.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embsearch.config.schema import ModelConfig
from embsearch.data.dataset import TaskData
from embsearch.model import folder_check
from embsearch.model.device import Compute
from embsearch.model.folder_check import Part
from embsearch.model.prompts import Role, take_one_role
from embsearch.model.tower import Inputs, Tower

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class TextTower(Tower):
    """The common part of the towers of texts."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def take_roles(self, data: TaskData) -> None:
        """Treat every text as a query where the data have no other texts."""
        if getattr(data, "symmetric", False):
            take_one_role(self.model)

    @abstractmethod
    def read(self, texts: Sequence[str], roles: Sequence[Role | None]) -> Inputs:
        """Return inputs of ``texts`` as they are, by their place; prompts are a part of them."""

    @abstractmethod
    def parts(self, inputs: Inputs) -> Iterator[Part]:
        """Yield each reader, the tokens of those of ``inputs`` that it reads, and their ids."""

    def check(
        self, config: ModelConfig, data: TaskData, inputs: Inputs, compute: Compute
    ) -> Iterator[str]:
        parts = list(self.parts(inputs))
        yield from folder_check.check(self, self.model, parts, config, data, inputs, compute)

    def check_saved(self, folder: Path, data: TaskData, inputs: Inputs, compute: Compute) -> None:
        parts = list(self.parts(inputs))
        sample = folder_check.Sample.of(self.model, parts, data)
        folder_check.check_saved(self, self.model, folder, sample, inputs, compute)
