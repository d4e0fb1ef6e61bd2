"""The overrides that name this study again, for the commands a verb proposes next."""

from __future__ import annotations

import os
from pathlib import Path

from embsearch.config.schema import Config, StudyConfig


def same_study(config: Config) -> str:
    """Return ``study=product_search``, with name, task and home where these are not its own."""
    words = []
    if config.study.folder:
        words.append(f"study={Path(config.study.folder).name}")
    if not config.study.folder or Path(config.study.folder).name != config.study.name:
        words.append(f"study.name={config.study.name}")
    if not config.study.folder and config.study.task != StudyConfig().task:
        words.append(
            f"study.task={config.study.task}"
        )  # names the registered model and MLflow's experiment
    if config.home != os.environ.get("EMBSEARCH_HOME", ".embsearch"):
        words.append(f"home={config.home}")
    return " ".join(words)
