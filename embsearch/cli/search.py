"""embsearch search: launch a study, or go on with it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

from embsearch.cli.launchers import launcher
from embsearch.config.command import same_study
from embsearch.config.launchers import ReplayConfig
from embsearch.config.options import TellsMore
from embsearch.config.schema import Config
from embsearch.history.folder import StudyFolder
from embsearch.hpo.suggest import first_points
from embsearch.model import lora
from embsearch.model.prompts import say_prompts
from embsearch.report.findings import by_all_rows, by_estimate, other_choice, unconfirmed
from embsearch.report.front import show_front
from embsearch.report.live import Watch
from embsearch.report.record import Record
from embsearch.report.result import show, show_configuration
from embsearch.study.fit_to_data import fit_to_data
from embsearch.study.run import Study
from embsearch.tasks.catalogue import task_of
from embsearch.track import mlflow_check, optuna_follower, recorders
from embsearch.track.base import Recorder
from embsearch.values import Clock


def run(config: Config, options: TellsMore) -> int:
    """Run the study to its end, show what it found, and say what to type next."""
    study = searched(config, options.verbose)
    name = same_study(study.config)
    if isinstance(config.launcher, ReplayConfig):
        from embsearch.cli.curves import curves

        origin = curves(config.launcher, config.seed).origin
        print(f"a replay of {origin}: nothing was trained, there is no model")
        print(f"next:  embsearch status {name}")
        return 0
    print(f"next:  embsearch ui {name}         compare the trials in MLflow")
    print(f"       embsearch promote {name}    make the best checkpoint champion")
    return 0


def searched(config: Config, verbose: bool) -> Study:
    """Run the study to its end, show what it found, and return it.

    Raises UserError, Interrupted.
    """
    lora.check(config)
    time_of = clock(config)
    made = launcher(config, time_of), recorder(config)
    if notice := mlflow_check.check(config):
        print(notice)
    watch = Watch()
    ready = partial(optuna_follower.ready, config)
    records = lru_cache(maxsize=1)(Record)  # the logs of a study that ends are read once
    write = partial(page, records)
    study = Study(config, *made, watch, time_of, write, ready, verbose)
    say_prompts(study.config.encoder, task_of(study.config).one_role)
    try:
        result = study.run()
    finally:
        watch.close()
    show(vars(result), study.config.evaluate.metric, task_of(study.config))
    record = records(study.folder)
    if (winner := record.configuration) is not None:
        show_configuration(winner.trial.params)
    show_front(record)
    chosen = (*by_all_rows(record), *by_estimate(record))
    for found in (*other_choice(record), *chosen, *unconfirmed(record)):
        print(f"note:  {found.text}")
    if not study.trials:
        widen = study.config.stop.trials < config.stop.trials
        more = "a wider space" if widen else f"stop.trials={config.stop.trials * 2}"
        print(
            f"nothing to do: this study had ended before. More trials: {more}; "
            "another study: study.name=..."
        )
        if study.behind:
            print(study.behind)
        tried = [trial.params for trial in record.trials.values()]
        left = sum(point not in tried for point in first_points(study.config, study.space)[1:])
        if left:
            untried = f"{left} points of study.defaults were not tried"
            if left == 1:
                untried = "1 point of study.defaults was not tried"
            print(f"{untried}: stop.trials={len(tried) + left} has room")
    if study.folder.page.exists():
        print(f"page:  {study.folder.page}")
    return study


def clock(config: Config) -> Clock:
    """Return the clock of the study's seconds.

    A replay continues where its logs end, also if that is in the future.
    """
    if not isinstance(config.launcher, ReplayConfig):
        return time
    from embsearch.launch.replay import VirtualClock

    return VirtualClock(max(time.time(), StudyFolder(config).last_sign()))


def page(records: Callable[[StudyFolder], Record], folder: StudyFolder) -> None:
    """Write the page of a study that has ended. A page that fails does not fail the study."""
    from embsearch.cli.report import write_page

    try:
        write_page(records(folder), folder.page)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        print(
            f"the study page could not be written ({what}); 'embsearch report' tries again",
            file=sys.stderr,
        )


def recorder(config: Config) -> Callable[[Path], Recorder]:
    """Return the recorders that this config asks for. Raises ConfigError if a package is missing."""
    recorders.check(config)

    def make(folder: Path) -> Recorder:
        made = recorders.make(fit_to_data(config)[0], folder)  # as the study, which chose by it
        made.start()
        return made

    return make
