"""embsearch search: launch a study, or go on with it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from embsearch.cli.launchers import launcher
from embsearch.config.command import same_study
from embsearch.config.schema import Config
from embsearch.folder import StudyFolder
from embsearch.report.live import Watch
from embsearch.report.result import show
from embsearch.study import Study
from embsearch.track import mlflow_check, recorders
from embsearch.track.base import Recorder
from embsearch.values import Clock


def run(config: Config) -> int:
    """Run the study to its end and show what it found."""
    time_of = clock(config)
    made = launcher(config, time_of), recorder(config)
    if notice := mlflow_check.check(config):
        print(notice)
    watch = Watch()
    study = Study(config, *made, watch, time_of, page)
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
    if study.folder.page.exists():
        print(f"page:  {study.folder.page}")
    name = same_study(study.config)
    if config.launcher.name == "replay":
        from embsearch.cli.curves import curves

        print(f"a replay of {curves(config).origin}: nothing was trained, there is no model")
        print(f"next:  embsearch status {name}")
        return 0
    print(f"next:  embsearch ui {name}         compare the trials in MLflow")
    print(f"       embsearch promote {name}    make the best checkpoint champion")
    return 0


def clock(config: Config) -> Clock:
    """What the study's seconds are counted on. A replay goes on from where its logs end, also when
    those hours have not come yet."""
    if config.launcher.name != "replay":
        return time
    from embsearch.launch.replay import VirtualClock

    return VirtualClock(max(time.time(), StudyFolder(config).last_sign()))


def page(folder: StudyFolder) -> None:
    """Write the page of a study that has ended. Whatever is wrong with a page, the study has its result."""
    from embsearch.cli.report import write_page
    from embsearch.report.record import Record

    try:
        write_page(Record(folder), folder.page)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        print(f"the study page could not be written ({what}); 'embsearch report' tries again", file=sys.stderr)


def recorder(config: Config) -> Callable[[Path], Recorder]:
    """The views of the event log that this config asks for. Raises ConfigError where a package is missing for one."""
    recorders.check(config)

    def make(folder: Path) -> Recorder:
        made = recorders.make(config, folder)
        made.start()
        return made

    return make
