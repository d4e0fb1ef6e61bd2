"""embsearch train: one configuration, no search. A study of one trial, recorded and resumable as any."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from embsearch.cli import search
from embsearch.config.load import digest
from embsearch.config.schema import Config
from embsearch.errors import ConfigError, EmbsearchError
from embsearch.report.live import Watch
from embsearch.report.result import show
from embsearch.study import Study


def run(config: Config) -> int:
    """Train to the end of the budget; with ``output=`` the model is also copied there."""
    output = Path(config.output).expanduser() if config.output else None
    if output is not None and output.exists():
        raise ConfigError(f"output={output}: already there; name a new folder")
    config = single(config)
    watch = Watch()
    study = Study(config, search.launcher(config), search.recorder(config), watch)
    try:
        result = study.run()
    finally:
        watch.close()
    show(result, config.evaluate.objective)
    model = study.folder.trial(0) / "model"
    if not model.exists():
        raise EmbsearchError(
            f"no model came of it; 'embsearch status study.name={config.study.name} verbose=true' says why"
        )
    if output is not None:
        draft = output.with_name(f".{output.name}.{os.getpid()}")
        shutil.copytree(model, draft)
        os.rename(draft, output)
        model = output
    print(f"model:  {model}")
    print(f"next:   embsearch evaluate checkpoint={model}")
    return 0


def single(config: Config) -> Config:
    """The study of one trial that trains ``config`` as it stands."""
    one = replace(
        config,
        space={},
        stop=replace(config.stop, trials=1, target=None),
        scheduler=replace(config.scheduler, name="none"),
        launcher=replace(config.launcher, workers=1),
        study=replace(config.study, defaults=()),
    )
    return replace(one, study=replace(one.study, name=f"{config.study.name}-train-{digest(one)[:8]}"))
