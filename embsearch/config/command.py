"""The words of commands: those that were typed, and those that name this study again."""

from __future__ import annotations

import re
import shlex
from contextvars import ContextVar
from pathlib import Path

from embsearch.config.folders import default_home
from embsearch.config.schema import Config

typed: ContextVar[tuple[str, ...]] = ContextVar("typed", default=())
"""The settings of the command that is running, as they were typed."""


def same_study(config: Config) -> str:
    """Return the words that name a study of the home: ``study=product_search``, or its name."""
    study, words = config.study, [f"study.name={config.study.name}"]
    if study.folder and Path(study.folder).name == study.name:
        words = [f"study={study.name}"]
    if config.home != default_home():
        words.append(f"home={config.home}")
    return shlex.join(words)


def same_words(config: Config) -> str:
    """Return the settings as they were typed: what begins the study that they describe."""
    return shlex.join(typed.get()) or same_study(config)


def quoted(text: str) -> str:
    """Return a text in Hydra's quotes. Backslashes before a quote, and at the end, are doubled."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"
