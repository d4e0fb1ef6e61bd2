"""embsearch search: launch a study, or go on with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from embsearch.cli.hints import same_study
from embsearch.config.schema import Config
from embsearch.launch.base import Launcher
from embsearch.report.live import Watch
from embsearch.report.result import show
from embsearch.study import Study
from embsearch.track.base import NoRecorder, Recorder


def run(config: Config) -> int:
    """Run the study to its end and show what it found."""
    watch = Watch()
    study = Study(config, launcher(config), recorder(config), watch)
    try:
        result = study.run()
    finally:
        watch.close()
    show(result, config.evaluate.objective)
    if not study.trials:
        print(
            f"nothing to do: this study had ended before. More trials: stop.trials={config.stop.trials * 2}; "
            "another study: study.name=..."
        )
        if study.behind:
            print(study.behind)
    name = same_study(study.config)
    print(f"next:  embsearch ui {name}         compare the trials in MLflow")
    print(f"       embsearch promote {name}    make the best checkpoint champion")
    return 0


def launcher(config: Config) -> Callable[[Path], Launcher]:
    """How this config runs tasks: made when the study is ready to give some out."""

    def make(folder: Path) -> Launcher:
        if config.launcher.name == "inline":
            from embsearch.launch.inline import Inline
            from embsearch.worker import Worker

            return Inline(Worker())
        from embsearch.launch.local import Local, python_module, visible_gpus

        gpus = [] if config.device == "cpu" else visible_gpus()
        alone = config.device.startswith("cuda:")  # one GPU by its number, which only holds where all are visible
        gpus = gpus[:1] if alone else gpus
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = config.launcher.workers or (len(gpus) * config.launcher.per_gpu if gpus else min(cores, 4))
        threads = config.launcher.threads or max(1, cores // workers)
        return Local(
            python_module("embsearch.worker"), workers, threads, folder / "workers", None if alone else gpus or None,
            config.launcher.segment_timeout,
        )  # fmt: skip

    return make


def recorder(config: Config) -> Callable[[Path], Recorder]:
    """The views of the event log that this config asks for."""

    def make(folder: Path) -> Recorder:
        if not config.track.mlflow:
            return NoRecorder()
        from embsearch.track.mlflow import MlflowRecorder

        made = MlflowRecorder(config, folder)
        made.start()
        return made

    return make
