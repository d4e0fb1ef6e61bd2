"""The overrides that name this study again, for the commands a verb proposes next."""

from __future__ import annotations

import os
from pathlib import Path

from embsearch.config.schema import Config, StudyConfig


def same_study(config: Config) -> str:
    """Return ``study=product_search``, with name, task and home where these are not its own."""
    words, study = [], config.study
    folder = Path(study.folder).name if study.folder else None
    if folder is not None:
        words.append(f"study={folder}")
    if folder != study.name:
        words.append(f"study.name={study.name}")
    if folder is None and study.task != StudyConfig().task:
        # names the registered model and MLflow's experiment
        words.append(f"study.task={study.task}")
    if config.home != os.environ.get("EMBSEARCH_HOME", ".embsearch"):
        words.append(f"home={config.home}")
    return " ".join(words)
