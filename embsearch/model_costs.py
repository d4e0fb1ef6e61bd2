"""Costs of the models that trials saved (``evaluate.costs``), measured on their folders.

The trial that trains meanwhile is not touched: no random number is drawn, and its weights and
threads are as they were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from embsearch.config.build import value_at
from embsearch.config.catalogue import COSTS
from embsearch.config.schema import Config
from embsearch.data.dataset import TaskData
from embsearch.kernels.select import select
from embsearch.model.device import choose
from embsearch.model.embed import embed
from embsearch.model.files import ADAPTER
from embsearch.tasks.catalogue import task_of, tower_class
from embsearch.values import Measurement

TIMED = 64  # validation texts, encoded together
ROUNDS, SECONDS = 5, 2.0  # how often at most, and for how long
ENOUGH = 3  # trials; the others have the median of these


class CostMeter:
    """Measures costs: of trials that are alike in all that changes them the first few."""

    def __init__(self) -> None:
        self._known: dict[object, list[dict[str, float]]] = {}

    def added_to(
        self, run: Iterator[Measurement], config: Config, folder: Path, data: TaskData, cache: str
    ) -> Iterator[Measurement]:
        """Yield what a trial measures, at first with the costs of the model that it has saved."""
        for measured in run:
            yield replace(measured, costs=self._of(config, folder / "model", data, cache))
            yield from run

    def _of(self, config: Config, model: Path, data: TaskData, cache: str) -> dict[str, float]:
        names = config.evaluate.costs
        paths = sorted({path for name in names for path in COSTS[name].changed_by})
        key = names, config.device, *(value_at(config, path) for path in paths)
        known = self._known.setdefault(key, [])
        if len(known) < ENOUGH:
            with torch.random.fork_rng([]), one_thread():
                known.append(measure(config, model, data, Path(cache)))
        costs: dict[str, float] = {}
        for name in names:
            costs[name] = median(one[name] for one in known)
        return costs


def measure(config: Config, folder: Path, data: TaskData, cache: Path) -> dict[str, float]:
    """Return the costs of the model in ``folder``, on the device of the study."""
    task, compute = task_of(config), choose(config.device, config.train.precision)
    remote = config.model.trust_remote_code
    tower = tower_class(task.kind).load(folder, str(compute.device), remote)
    select(tower, compute)
    ids = task.items(task.rows(data, "valid", config.evaluate.max_rows))
    count = min(TIMED, len(ids))
    spread = np.linspace(0, len(ids) - 1, count)
    few = ids[spread.astype(int)]
    inputs = tower.prepare(data, cache / "tokens")
    vectors = embed(tower, inputs, few, compute)
    found = {
        "size": megabytes(folder),
        "dimension": float(vectors.shape[1]),
    }
    if "latency" in config.evaluate.costs:
        clock = time.thread_time if compute.device.type == "cpu" else time.perf_counter
        seconds = _seconds(lambda: embed(tower, inputs, few, compute), clock)
        found["latency"] = 1000 * seconds / count
    return {name: found[name] for name in config.evaluate.costs}


def megabytes(folder: Path) -> float:
    """Return the size of a saved model, without what only training it on would need."""
    total = 0
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts
        if not path.is_file() or ADAPTER in inside:
            continue
        file = path.stat()
        total += file.st_size
    return total / 1e6


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the median time of some rounds of ``work``, which was done once before.

    On a CPU the clock is that of the thread: others that use the machine add nothing to it.
    """
    rounds: list[float] = []
    while len(rounds) < ROUNDS and sum(rounds) < SECONDS:
        begun = clock()
        work()
        rounds.append(clock() - begun)
    return median(rounds)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute by one thread: so workers with more and with fewer measure alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
