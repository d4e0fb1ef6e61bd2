"""Ask the workers that a study would use what it would cost: every slot does a little of everything at once."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from embsearch.codec import Json
from embsearch.config.build import to_dict, value_at, with_values
from embsearch.config.schema import Config
from embsearch.data.dataset import TaskData
from embsearch.errors import EmbsearchError, UserError
from embsearch.evaluate.early import reckoned
from embsearch.history.trial import MENDED_BY_USER
from embsearch.hpo.plan import BATCH, Costs, Machine, Params, Speed
from embsearch.launch.base import (
    Died,
    Evaluated,
    EvaluateJob,
    Failed,
    Job,
    Launcher,
    Message,
    Note,
    Probed,
    ProbeJob,
)
from embsearch.study.answers import check_objective
from embsearch.study.dispatch import Dispatch
from embsearch.tasks.catalogue import task_of
from embsearch.values import Reading

QUEUE = 600.0  # seconds that workers may wait for room on a cluster
FEW, MORE = (
    200,
    1000,
)  # rows on which evaluations are timed; what all rows take is reckoned from them


class Probes:
    """One launcher's slots, and a folder in which their trials may write."""

    def __init__(
        self, config: Config, data: TaskData, cache: Path, folder: Path, launcher: Launcher
    ) -> None:
        self.config, self.data = config, data
        self.desk: Dispatch[str] = Dispatch(launcher, say=say)
        self.cache, self.folder = str(cache), folder
        self.slots = all_up(launcher)
        self.task = task_of(config)
        self.few, self.more = (self._texts("valid", rows) for rows in (FEW, MORE))

    def run(
        self, points: Sequence[tuple[str, Params]], available: int, command: float
    ) -> tuple[Costs, Machine]:
        """Every probe. Raises UserError for what the user can mend, EmbsearchError for what is a
        bug.
        """
        load, untuned, compute, few = self._evaluate()
        speeds, begin, warming = self._speeds(points)
        sizes = [with_values(self.config, params) for path, params in points if path == BATCH]
        largest = max(sizes, key=lambda config: config.train.batch_size)
        say(f"timing evaluations and checkpoints; the memory of batch {largest.train.batch_size}")
        edges = self._probe("edge", _limited(largest), "edge")
        edge = {key: max(one[key] for one in edges) for key in edges[0]}
        valid = self._texts("valid", self.config.evaluate.max_rows) / self.more
        costs = Costs(
            command=command,
            load=load + warming,
            begin=begin,
            resume=mean(edges, "resume"),
            baseline=untuned * valid,
            measure=untuned * valid + max(0.0, mean(edges, "measure") - untuned),
            test=self._test(untuned),
            speeds=speeds,
            readings=self._readings(few),
        )
        sizes_of = (
            "texts",
            "distinct",
            "tokens",
            "chunks",
            "cached",
            "halved",
            "peak",
            "checkpoint",
            "model",
        )
        if self.config.launcher.name in ("ray", "slurm"):
            available = 0  # of this machine: nothing is known of the others'
        machine = Machine(
            compute=compute, workers=len(self.slots), batch=largest.train.batch_size, available=available,
            free=shutil.disk_usage(self.folder).free, gpu=edge.get("gpu", 0), gpu_total=edge.get("gpu_total", 0),
            per_gpu=self.config.launcher.per_gpu, **{key: edge[key] for key in sizes_of},
        )  # fmt: skip
        return costs, machine

    def _evaluate(self) -> tuple[float, float, str, Reading | None]:
        """Seconds until a worker can compute, of the untuned encoder on MORE rows, what it computes in, and the error
        of AUC there."""
        say(f"starting {len(self.slots)} worker{'s' * (len(self.slots) > 1)}, loading the encoder")
        job = EvaluateJob("valid", to_dict(self.config), self.cache, most=MORE)
        started = time.monotonic()
        first = self._evaluations(dict.fromkeys(self.slots, job))
        loaded = time.monotonic() - started
        check_objective(self.config.evaluate.metric, first[0].metrics)
        untuned = _seconds(self._evaluations(dict.fromkeys(self.slots, job)))
        last = None
        if first[0].readings:
            last = first[0].readings[-1]
        return max(0.0, loaded - untuned), untuned, first[0].compute, last

    def _readings(self, few: Reading | None) -> tuple[Reading, ...]:
        """Return what evaluations will read, by the error on ``few`` rows."""
        if few is None:
            return ()
        rows = self.task.rows(self.data, "valid", self.config.evaluate.max_rows)
        queries = self.task.groups(rows).count
        every = Reading(queries, len(rows), few.error * math.sqrt(few.queries / queries))
        return tuple(reckoned(every, self.config.evaluate))

    def _speeds(
        self, points: Sequence[tuple[str, Params]]
    ) -> tuple[tuple[Speed, ...], float, float]:
        """Seconds a step of every point; before a trial's first step; and what the first trial of a fresh
        process takes longer."""
        speeds, begins = [], []
        for number, (path, params) in enumerate(points):
            config = with_values(self.config, params)
            say(f"timing steps with {path}={value_at(config, path)}")
            probes = self._probe("speed", config, f"speed-{number}")
            speeds.append(Speed(params, mean(probes, "step"), path))
            begins.append(mean(probes, "begin"))
        begin = min(begins)
        return tuple(speeds), begin, begins[0] - begin

    def _test(self, untuned: float) -> float:
        """Return the seconds of a saved model on the test rows: loading it and a few rows, then the
        other texts at the pace of ``untuned`` (the bootstrap of 5,000 rows takes 0.1 s).
        """
        split = "test" if len(self.task.rows(self.data, "test")) else "valid"
        config = to_dict(self.config)
        jobs = {
            slot: EvaluateJob(
                "valid",
                config,
                self.cache,
                f"{self._place(slot, 'edge')}/model",
                full=True,
                most=FEW,
            )
            for slot in self.slots
        }
        few = _seconds(self._evaluations(jobs))
        return few + max(0, self._texts(split, 0) - self.few) * untuned / self.more

    def _texts(self, split: str, most: int) -> int:
        """Return how many texts must be encoded to judge by so many rows of a split."""
        return len(self.task.items(self.task.rows(self.data, split, most)))

    def _place(self, slot: int, name: str) -> Path:
        """Return a folder of the slot's own."""
        return self.folder / f"slot-{slot}" / name

    def _probe(self, what: str, config: Config, place: str) -> list[Json]:
        """Run the same probe in every slot, in its own folder; return what each found."""
        content = to_dict(config)
        jobs = {
            slot: ProbeJob(what, content, str(self._place(slot, place)), self.cache)
            for slot in self.slots
        }
        return [end.values for end in self._ask(jobs) if isinstance(end, Probed)]

    def _evaluations(self, jobs: Mapping[int, EvaluateJob]) -> list[Evaluated]:
        """Run an evaluation in every slot; return what each found."""
        return [end for end in self._ask(jobs) if isinstance(end, Evaluated)]

    def _ask(self, jobs: Mapping[int, Job]) -> list[Message]:
        """Run each slot's job; return their ends. A worker that dies is replaced, as in a search."""
        named = {slot: (f"probe in slot {slot}", job) for slot, job in jobs.items()}
        ends = self.desk.ask(named)
        for slot, end in ends.items():
            _check(end, jobs[slot])
        return list(ends.values())


def all_up(launcher: Launcher) -> list[int]:
    """Every slot, once its worker is there. Raises UserError where some wait too long."""
    until = time.monotonic() + QUEUE
    while len(launcher.idle) < launcher.workers:
        for _, message in launcher.wait(1.0):
            if isinstance(message, Note):
                say(message.text)
        if time.monotonic() > until:
            raise UserError(
                f"launcher.workers={launcher.workers}: {len(launcher.idle)} came up in {QUEUE / 60:.0f} min; a plan "
                "is made with all of them: ask for fewer, or wait until the cluster has room"
            )
    return launcher.idle


def _check(end: Message, job: Job) -> None:
    """Raise what a probe that failed means."""
    if not isinstance(end, (Failed, Died)):
        return
    if end.failure in ("out_of_memory", "killed"):
        size = job.config["train"]["batch_size"]
        raise UserError(
            f"train.batch_size={size}: a worker ran out of memory or was killed: {end.message}\n"
            "have fewer workers (launcher.workers), smaller chunks (train.chunk_tokens, "
            "train.cache_gradients=always), or smaller batches"
        )
    if end.failure in MENDED_BY_USER:
        raise UserError(end.message)
    traceback = end.traceback if isinstance(end, Failed) else ""
    raise EmbsearchError(traceback or end.message)


def _limited(config: Config) -> Config:
    most = min(config.evaluate.max_rows or MORE, MORE)
    return replace(config, evaluate=replace(config.evaluate, max_rows=most))


def mean(probes: Sequence[Json], key: str) -> float:
    """Return the mean of what all slots found."""
    return float(np.mean([one[key] for one in probes]))


def _seconds(ends: Sequence[Evaluated]) -> float:
    return float(np.mean([end.seconds for end in ends]))


def memory_available() -> int:
    """Bytes that may still be taken, also by the limit of a container."""
    found = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no such limit
        found = min(
            found,
            int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()),
        )
    return found


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
