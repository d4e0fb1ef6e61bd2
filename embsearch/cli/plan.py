"""embsearch plan: what a study will cost here, and whether it fits, before anything is spent."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil

from embsearch.cli import launchers
from embsearch.cli.probes import Probes, memory_available
from embsearch.config.command import same_study
from embsearch.config.schema import Config
from embsearch.data.dataset import Dataset, steps_of
from embsearch.data.files import find_files
from embsearch.data.load import build_dataset, prepare_dataset
from embsearch.errors import UserError
from embsearch.folder import StudyFolder
from embsearch.objectives.preflight import preflight_space
from embsearch.report.plan import lines
from embsearch.search import plan, sampler, scheduler
from embsearch.search.space import Space, parse

T = TypeVar("T")


def run(config: Config) -> int:
    """Print the plan. Raises UserError with every fault of settings, space and data."""
    command = time.time() - psutil.Process().create_time()
    config, space, cache = check(config)
    started = time.monotonic()
    data = Dataset.load(cache)
    command += time.monotonic() - started
    points, unprobed = plan.points(space, config)
    available = memory_available()
    with scratch(config) as folder:
        started = time.monotonic()
        launcher = launchers.launcher(config)(folder)
        command += time.monotonic() - started
        try:
            costs, machine = Probes(config, data, cache, folder, launcher).run(points, available, command)
        finally:
            launcher.close()
    steps = partial(steps_of, config.train.texts, data.train)
    epoch = len(data.train), 2 * len(data.train) + int((data.train.negative >= 0).sum())
    made = plan.make(config, space, costs, steps, epoch, machine.workers, unprobed)
    print("\n".join(lines(config, made, machine)))
    if StudyFolder(config).begun:
        print("this study has begun; the plan is of the whole, 'embsearch status' says what is done")
    print(f"next:  embsearch search {same_study(config)}")
    return 0


def check(config: Config) -> tuple[Config, Space, Path]:
    """The config, with no more trials than its sampler has points; the space; the folder of the data.

    Raises UserError with all faults; where the settings have some, the data are looked at and not kept.
    """
    faults: list[str] = []

    def attempt(step: Callable[[], T]) -> T | None:
        try:
            return step()
        except UserError as error:
            faults.extend(error.faults)
            return None

    space = attempt(lambda: parse(config.space, config))
    folder = attempt(lambda: StudyFolder(config))
    attempt(lambda: scheduler.make(config))
    if space is not None and (most := attempt(lambda: trials_of(config, space))) is not None:
        config = replace(config, stop=replace(config.stop, trials=min(most, config.stop.trials)))
    if space is None or folder is None or faults:
        attempt(lambda: build_dataset(config.data, *find_files(config.data)))
        raise UserError(faults)
    cache = prepare_dataset(config.data, folder.home / "cache")
    searched = {d.path: d.values for d in space.dimensions}
    preflight_space(config.objective, config.train.batch_size, searched, Dataset.load(cache).train)
    return config, space, cache


def trials_of(config: Config, space: Space) -> int | None:
    return sampler.trials_of(config.sampler, space, 1 + len(config.study.defaults))


@contextmanager
def scratch(config: Config) -> Iterator[Path]:
    """A folder on the disk of the studies, while the context runs."""
    home = Path(config.home).expanduser().resolve()
    folder = Path(tempfile.mkdtemp(prefix=".plan-", dir=home))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
