"""The process that trains: keeps data, tokens and base weights warm, and runs many trials.

``python -m embsearch.worker`` reads tasks from standard input and writes messages to standard
output, as launch/base.py lists them. The same handler serves ``launcher=inline``.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embsearch import probe
from embsearch.config.build import build
from embsearch.config.schema import Config
from embsearch.data.dataset import Dataset, Judged, subset
from embsearch.data.tokenise import Tokens, cached
from embsearch.evaluate.bootstrap import auc_interval
from embsearch.evaluate.early import readings
from embsearch.evaluate.examine import examine
from embsearch.evaluate.score import by_segment, score, score_pool, similarity
from embsearch.launch.base import Message, Task
from embsearch.model import memory, pretrained
from embsearch.model.device import Compute, choose, failure_of
from embsearch.model.encoder import Encoder, pack
from embsearch.team import Crew, Member
from embsearch.track.environment import here
from embsearch.trial import trial, vectors_of
from embsearch.values import Measurement, Scalar, record

POINTS_EVERY = 1.0  # seconds between messages about the loss, where the task does not say


class Worker:
    """Handles tasks one after another; what the next one may need again is kept."""

    def __init__(self, crew: Crew | Member | None = None) -> None:
        self._data: dict[str, Dataset] = {}
        self._base: tuple[Any, Encoder, dict[str, torch.Tensor], Tokens] | None = None  # and what it was made for
        self._warm: tuple[tuple[int, ...], Iterator[Measurement], list[Any]] | None = None
        self._machine: dict[str, Scalar] = {}  # that the warm trial is computed on
        self.crew = crew or Crew()  # processes that train with this one, where train.devices says so
        self.halting = False  # set from outside: save a checkpoint after this step and end the task

    def __call__(self, task: Task) -> Iterator[Message]:
        """The messages of one task; the last one ends it. Never raises."""
        try:
            yield from getattr(self, f"_{task['do']}")(task)
        except BaseException as error:
            self._warm = None
            self.crew.close()  # somewhere in the middle of a step
            if not isinstance(error, Exception):
                raise
            failure, message = failure_of(error)
            trace = "".join(traceback.format_exception(error))
            yield {"kind": "failed", "failure": failure, "message": message, "traceback": trace}
        finally:
            self.crew.rest()

    def _segment(self, task: Task) -> Iterator[Message]:
        """Train one trial to its next evaluation that is at or after ``until``."""
        segment = task["segment"]
        number = segment["trial"]
        which = (number, segment["attempt"], segment.get("seed", 0))
        warm = self._warm is not None and self._warm[0] == (*which, segment["from_checkpoint"])
        if self.crew.goes_on(task, warm) and self._warm is not None:
            _, run, points = self._warm
        else:
            self._warm = None
            run, points = self._begin(task)
        while True:
            measured = next(run, None)
            yield {"kind": "points", "points": points.copy()}
            points.clear()
            if measured is None and (self.halting or not self.crew.leads):
                self._warm = None
                yield {"kind": "halted"}
                return
            if measured is None:
                raise RuntimeError(f"trial {number} had already ended before evaluation {segment['until']}")
            if measured.rung >= segment["until"] or measured.last:
                break
        self._warm = ((*which, measured.rung), run, points)
        yield {"kind": "measured", "measurement": record(replace(measured, machine=self._machine))}

    def _begin(self, task: Task) -> tuple[Iterator[Measurement], list[Any]]:
        config = build(task["config"])
        compute = choose(config.device, config.train.precision)
        self._machine = here() | compute.words()
        group = self.crew.muster(task, config.train.devices, compute.device)
        data = self.dataset(task["cache"])
        encoder, tokens = self._encoder(config, data, Path(task["cache"]), compute)
        points: list[Any] = []
        outbox = self.outbox

        def report(step: int, at: int, metrics: dict[str, float]) -> None:
            points.append([step, at, metrics])
            if outbox is not None and time.monotonic() - self._sent > self._every:
                self._sent = time.monotonic()
                outbox({"kind": "points", "points": points.copy()})
                points.clear()

        halt = lambda: self.halting  # noqa: E731
        folder, queries = Path(task["folder"]), task.get("queries", [])
        self._every = task.get("points_every", POINTS_EVERY)
        return trial(config, data, tokens, encoder, compute, folder, report, halt, queries, group), points

    _packing = ""  # how texts of the base encoder are encoded, and why
    outbox: Any = None  # set by the process: sends a message while a task runs
    _sent, _every = 0.0, POINTS_EVERY  # seconds between messages about points

    def _evaluate(self, task: Task) -> Iterator[Message]:
        config = build(task["config"])
        full = bool(task.get("full"))
        keep = Path(task["keep"]) if task.get("keep") else None
        yield self.evaluate(config, task["cache"], task["split"], task.get("model"), full, task.get("most"), keep)

    def evaluate(
        self,
        config: Config,
        cache: str,
        split: str,
        model: str | None,
        full: bool,
        most: int | None = None,
        keep: Path | None = None,
    ) -> Message:
        """Metrics of a saved model (None: the untuned encoder) on one split; ``full``: all there are.

        ``most``: about how many rows; None: all with ``full``, else as many as trials are measured on.
        ``keep``: a file for what the model says of every row (``evaluate.examine``).
        """
        compute = choose(config.device, config.train.precision)
        data = self.dataset(cache)
        rows: Judged = getattr(data, split)
        if most is None:
            most = 0 if full else config.evaluate.max_rows
        rows = subset(rows, most)
        started = time.monotonic()
        if model:
            memory.give_back()
            with torch.random.fork_rng([]):  # building layers draws; the trial that is warm must not see it
                encoder = Encoder(pretrained.load(model, str(compute.device)))
            pack(encoder, compute)
            length = encoder.model.max_seq_length
            tokens = cached(data, encoder.model.tokenizer, length, Path(cache) / "tokens")
        else:
            encoder, tokens = self._encoder(config, data, Path(cache), compute)
        found = evaluate(encoder, tokens, rows, compute, config, full, keep)
        why = compute.why if compute.device.type == "cpu" or model else f"{compute.why}; {self._packing}"
        return {"kind": "evaluated", **found, "compute": why, "seconds": time.monotonic() - started}

    def _probe(self, task: Task) -> Iterator[Message]:
        """Measure what ``plan`` wants to know of this machine: a function of probe.py."""
        config = build(task["config"])
        compute = choose(config.device, config.train.precision)
        group = self.crew.muster(task, config.train.devices, compute.device)
        data = self.dataset(task["cache"])
        encoder, tokens = self._encoder(config, data, Path(task["cache"]), compute)
        found = getattr(probe, task["what"])(config, data, tokens, encoder, compute, Path(task["folder"]), group)
        yield {"kind": "probed", **found}

    def close(self) -> None:
        """Train no more; the processes that trained along end."""
        self._warm = None
        self.crew.close()

    def dataset(self, cache: str) -> Dataset:
        """The prepared data in ``cache``, kept for the next task."""
        if cache not in self._data:
            self._data = {cache: Dataset.load(Path(cache))}
        return self._data[cache]

    def _encoder(self, config: Config, data: Dataset, cache: Path, compute: Compute) -> tuple[Encoder, Tokens]:
        """An encoder at its base weights. Rebuilt only when the model's config is another, or what it computes in."""
        memory.keep()
        self._warm = None
        memory.give_back()  # another trial's sizes are others
        drawn = config.train.seed if config.model.projection else 0
        made_for = config.model, drawn, compute.device, compute.autocast
        if self._base is None or self._base[0] != made_for:
            self._base = None
            encoder = Encoder(pretrained.build(config.model, drawn))
            tokens = cached(data, encoder.model.tokenizer, encoder.model.max_seq_length, cache / "tokens")
            encoder.cut_table(np.unique(tokens.ids))
            encoder.to(compute.device)
            self._packing = pack(encoder, compute)
            if compute.device.type == "cpu":
                encoder.remember(tokens)
            base = {n: p.detach().cpu().clone() for n, p in encoder.named_parameters() if p.requires_grad}
            self._base = (made_for, encoder, base, tokens)
        _, encoder, base, tokens = self._base
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                if name in base:
                    parameter.copy_(base[name])
                    parameter.grad = None
        return encoder, tokens


def evaluate(
    encoder: Encoder, tokens: Tokens, rows: Judged, compute: Compute, config: Config, full: bool, keep: Path | None
) -> dict[str, Any]:
    """Metrics of an encoder on judged rows; with ``full`` also the interval, the pool and the segments, without it
    what the evaluations of trials are to read."""
    ids, vectors = vectors_of(encoder, tokens, rows, compute)
    scores = similarity(rows, ids, vectors)
    found: dict[str, Any] = {"metrics": score(rows, scores)}
    if not full:
        found["readings"] = [record(one) for one in readings(rows, ids, vectors, config.evaluate, config.seed)]
    else:
        interval = auc_interval(scores, rows.relevant, rows.query, config.evaluate.draws, config.seed)
        found |= {"auc": record(interval), "segments": by_segment(rows, scores)}
        if config.evaluate.pool:
            found["metrics"] |= score_pool(rows, ids, vectors)
    if keep is not None:
        examine(rows, ids, vectors, scores).save(keep)
    return found


def use_all_cores() -> None:
    """For commands that work alone: torch on every core this process may use."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def begin(*member: str) -> Worker:
    """The worker of a process that does nothing else: torch on as many threads as its environment says.

    ``member``: words of ``team.Process``, for one of another worker's crew, which decides for it.
    """
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_num_interop_threads(1)
    return Worker(Member(*member)) if member else Worker()


def main() -> None:
    """Serve tasks until standard input ends; on SIGTERM the task at hand saves a checkpoint and is the last.

    With words, as team.Process gives them: a member of another worker's crew, which decides for it.
    """
    messages = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print goes to the log, not between the messages
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock:
            messages.write(json.dumps(message).encode() + b"\n")

    tasks: list[Task] = []
    arrived = threading.Condition()

    def read() -> None:
        for line in sys.stdin.buffer:
            with arrived:
                tasks.append(json.loads(line))
                arrived.notify()
        os._exit(0)  # the coordinator is gone; the checkpoint is on disk

    leads = len(sys.argv) == 1
    idle = True

    def halt(number: int, frame: Any) -> None:
        if idle:
            os._exit(0)
        worker.halting = True

    signal.signal(signal.SIGTERM, halt if leads else signal.SIG_IGN)
    threading.Thread(target=read, daemon=True).start()
    worker = begin(*sys.argv[1:])
    worker.outbox = send if leads else None
    send({"kind": "ready"})
    while not worker.halting:
        with arrived:
            arrived.wait_for(lambda: tasks)
            task = tasks.pop(0)
        idle = False
        for message in worker(task):
            send(message)
            if message["kind"] == "failed" and not leads:
                os._exit(1)  # the others hear of it at once
        idle = True
    os._exit(0)  # the reader holds standard input


if __name__ == "__main__":
    main()
