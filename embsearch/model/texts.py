"""The towers of texts: which one a model folder gets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embsearch.config.schema import ModelConfig
from embsearch.errors import ModelError
from embsearch.model import pretrained
from embsearch.model.encoder import Encoder
from embsearch.model.routes import RoutedEncoder, router_of
from embsearch.model.text_tower import TextTower

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def tower_of(model: SentenceTransformer) -> TextTower:
    """Return the tower of a model: of one route, or of several. Raises ModelError."""
    return Encoder(model) if router_of(model) is None else RoutedEncoder(model)


class Texts:
    """The kind ``text`` of towers (tasks/catalogue.py)."""

    @staticmethod
    def build(config: ModelConfig, seed: int) -> TextTower:
        """Return the tower at its base weights, as of ``TowerKind``."""
        model = pretrained.build(config, seed)
        try:
            return tower_of(model)
        except ModelError as error:
            raise ModelError(f"model.path={config.path}: {error}") from None

    @staticmethod
    def load(folder: str | Path, device: str = "cpu", trust_remote_code: bool = False) -> TextTower:
        """Return a saved tower, as of ``TowerKind``."""
        return tower_of(pretrained.load(folder, device, trust_remote_code))
