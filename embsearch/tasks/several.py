"""Several sets of data, each with a task of its own: one model is trained on and judged by all.

A batch is of one set, whose turn is a function of its number (data/several.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from embsearch import checksums, disk
from embsearch.config.catalogue import LOSS
from embsearch.config.schema import Config, DataConfig
from embsearch.config.sets import faults_of, of_set
from embsearch.data.several import SeveralData, turns
from embsearch.errors import ConfigError
from embsearch.tasks.base import AnyTask
from embsearch.tasks.judged_sets import JudgedBySets


class Several(JudgedBySets):
    """The tasks of a study's sets of data, as one."""

    name = "several"
    purpose = "its vectors serve every set of its data"
    checker = "embsearch.data.check_sets:describe"

    # files to rows

    def prepare(self, config: DataConfig, cache: Path) -> Path:
        """Return a folder that holds the data of every set, so that it travels as one."""
        folders: dict[str, Path] = {}
        for name, task in self.tasks.items():
            with faults_of(name):
                folders[name] = task.prepare(config.sets[name].files, cache)
        words = json.dumps([[name, folder.name] for name, folder in folders.items()])
        whole = cache / hashlib.sha256(words.encode()).hexdigest()[:32]
        if not all(checksums.keep_if_whole(whole / name) for name in folders):
            shutil.rmtree(whole, ignore_errors=True)
            with disk.draft_of(whole) as draft:
                for name, folder in folders.items():
                    shutil.copytree(folder, draft / name, ignore=shutil.ignore_patterns("tokens"))
                disk.put(draft, whole)
        return whole

    def load(self, folder: Path) -> SeveralData:
        return _loaded(folder, tuple(self.tasks.items()))

    def preflight(
        self, config: Config, searched: Mapping[str, Sequence[object]], data: SeveralData
    ) -> None:
        faults: list[str] = []
        for name, task in self.tasks.items():
            one, values = of_set(config, name), dict(searched)
            if config.data.sets[name].objective.name is not None:
                values.pop(LOSS, None)
            if own := searched.get(f"data.sets.{name}.{LOSS}"):
                values[LOSS] = own
            try:
                task.preflight(one, values, data.sets[name])
            except ConfigError as error:
                faults += [f"data.sets.{name}.{fault}" for fault in error.faults]
        tested = [name for name, rows in data.test.sets.items() if len(rows)]
        for name in [name for name in self.tasks if tested and name not in tested]:
            faults.append(
                f"data.sets.{name}: has no test rows, and {tested[0]} has some: a model is judged "
                f"by all sets or by none; set data.sets.{name}.split.test above 0"
            )
        if faults:
            raise ConfigError(faults)

    def trained_on(self, data: SeveralData, config: Config) -> SeveralData:
        return replace(
            data,
            sets={n: self.tasks[n].trained_on(d, of_set(config, n)) for n, d in data.sets.items()},
        )

    def batches(self, data: SeveralData, config: Config, start: int = 0) -> Iterator[object]:
        seed = config.train.seed
        done = turns(self.shares, seed, np.arange(start))
        count = np.bincount(done, minlength=len(self.shares)).tolist()
        drawn = [
            task.batches(data.sets[name], of_set(config, name), begin)
            for (name, task), begin in zip(self.tasks.items(), count, strict=True)
        ]
        names, number = list(self.tasks), start
        while True:
            turn = int(turns(self.shares, seed, np.array([number]))[0])
            batch = next(drawn[turn])
            first = batch.text_D.dtype.type(data.first[names[turn]])
            yield replace(batch, text_D=batch.text_D + first, of=names[turn])
            number += 1

    def steps(self, data: SeveralData, texts: int, batch_size: int) -> int:
        """Return the number of batches that show about ``texts`` items, by the sets' shares."""
        alone = [t.steps(data.sets[name], texts, batch_size) for name, t in self.tasks.items()]
        rates = [share / steps for share, steps in zip(self.shares, alone, strict=True)]
        return max(1, math.ceil(sum(self.shares) / sum(rates)))

    def epoch(self, data: SeveralData) -> tuple[int, int]:
        """Return the training rows, and the items that as many rows show by the sets' shares."""
        every = [task.epoch(data.sets[name]) for name, task in self.tasks.items()]
        rows = sum(count for count, _ in every)
        each = [items / count for count, items in every]
        return rows, round(rows * float(np.average(each, weights=self.shares)))

    def plan_lines(self, data: SeveralData, config: Config) -> Iterator[str]:
        """Yield the share of the batches that each set has, in items and epochs of its own."""
        texts, size = config.train.texts, config.train.batch_size
        steps = self.steps(data, texts, size) / sum(self.shares)
        for (name, task), share in zip(self.tasks.items(), self.shares, strict=True):
            own = data.sets[name]
            shown = texts * steps * share / task.steps(own, texts, size)
            yield (
                f"set {name}: {share / sum(self.shares):.0%} of the batches, about {shown:,.0f} "
                f"texts of a trial, {shown / task.epoch(own)[1]:.2g} times its training rows"
            )


@lru_cache(maxsize=1)
def _loaded(folder: Path, tasks: tuple[tuple[str, AnyTask], ...]) -> SeveralData:
    return SeveralData({name: task.load(folder / name) for name, task in tasks})
