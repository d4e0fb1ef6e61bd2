"""embsearch plan: the cost of a study on this machine, before anything is spent."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil

from embsearch.cli import launchers
from embsearch.cli.probes import Probes, memory_available
from embsearch.config.command import same_words
from embsearch.config.folders import home_folder
from embsearch.config.options import TellsMore
from embsearch.config.schema import Config
from embsearch.data.load import build_dataset
from embsearch.data.source_files import find_files
from embsearch.disk import is_read_only
from embsearch.errors import UserError
from embsearch.history.folder import StudyFolder, as_begun
from embsearch.hpo import plan, scheduler
from embsearch.hpo.space import Space, parse
from embsearch.hpo.suggest import limited
from embsearch.hpo.warmup import Warmups
from embsearch.model.prompts import say_prompts
from embsearch.report.plan import lines
from embsearch.study import play
from embsearch.study.fit_to_data import fit_to_data
from embsearch.tasks.catalogue import task_of

T = TypeVar("T")


def run(config: Config, options: TellsMore) -> int:
    """Print the plan. Raises UserError with every fault of settings, space and data."""
    command = time.time() - psutil.Process().create_time()
    config, space, cache = check(config)
    started = time.monotonic()
    data = task_of(config).load(cache)
    command += time.monotonic() - started
    begun = StudyFolder(config).begun
    task = task_of(config)
    steps = partial(task.steps, data, config.train.texts)
    warmups = Warmups(config, space, steps)
    if not begun:
        warmups.check()
    points, unprobed = plan.points(space, config)
    available = memory_available()
    with scratch(config) as folder:
        started = time.monotonic()
        launcher = launchers.launcher(config)(folder)
        command += time.monotonic() - started
        try:
            costs, machine = Probes(config, data, cache, folder, launcher).run(
                points, available, command
            )
        finally:
            launcher.close()
    made = play.make(
        config, play.Work(space, costs, steps, task.epoch(data)), machine.workers, unprobed
    )
    say_prompts(config.encoder, task.one_role)
    for line in task.plan_lines(data, config):
        print(line)
    print("\n".join(lines(config, made, machine, options.verbose, warmups.line())))
    if begun:
        print(
            "this study has begun; the plan is of the whole, 'embsearch status' says what is done"
        )
    print(f"next:  embsearch search {same_words(config)}")
    return 0


def check(config: Config) -> tuple[Config, Space, Path]:
    """Return the config, with no more trials than its sampler has points, the space, and the data's folder.

    Raises UserError with all faults. If the settings have some, the data are checked but not kept.
    """
    faults: list[str] = []

    def attempt(step: Callable[[], T]) -> T | None:
        try:
            return step()
        except UserError as error:
            faults.extend(error.faults)
            return None

    folder = attempt(lambda: StudyFolder(config))
    config = config if folder is None else as_begun(config)
    space = attempt(lambda: parse(config.space, config, fitted=False))
    attempt(lambda: scheduler.make(config))
    if space is None or folder is None or faults:
        kept = home_folder(config.home) / "cache"
        attempt(lambda: build_dataset(config.data, *find_files(config.data, kept)))
        raise UserError(faults)
    config, notes = fit_to_data(config)
    for note in notes:
        print(note)
    fitted = parse(config.space, config)
    config, few = limited(config, fitted, folder)
    for note in few:
        print(note)
    task = task_of(config)
    cache = task.prepare(config.data, folder.home / "cache")
    task.preflight(config, {d.path: d.values for d in fitted.dimensions}, task.load(cache))
    return config, fitted, cache


@contextmanager
def scratch(config: Config) -> Iterator[Path]:
    """Yield a folder on the disk of the studies; remove it afterwards."""
    home = home_folder(config.home)
    place = None if is_read_only(home) else home
    folder = Path(tempfile.mkdtemp(prefix=".plan-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
