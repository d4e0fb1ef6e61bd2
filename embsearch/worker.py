"""The process that trains: keeps data, tokens and base weights warm, and runs many trials.

``python -m embsearch.worker`` reads jobs from standard input and writes messages to standard
output, one line of JSON each (launch/base.py). The same handler serves ``launcher=inline``.
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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any, cast

import torch

from embsearch import probe
from embsearch.codec import JsonObject
from embsearch.config.build import build
from embsearch.config.schema import Config
from embsearch.data.dataset import Rows, TaskData
from embsearch.errors import ModelError
from embsearch.kernels.select import select
from embsearch.launch.base import (
    Evaluated,
    EvaluateJob,
    Failed,
    Halted,
    Job,
    Measured,
    Message,
    Note,
    Point,
    Points,
    Probed,
    ProbeJob,
    Ready,
    TrainJob,
    encode,
)
from embsearch.launch.environment import cores
from embsearch.launch.handler import Send, answers
from embsearch.model import pretrained
from embsearch.model.device import Compute, choose, failure_of
from embsearch.model.embed import embed
from embsearch.model.tower import Inputs, Tower
from embsearch.model_costs import CostMeter
from embsearch.soup import average
from embsearch.tasks.base import AnyTask
from embsearch.tasks.catalogue import task_of, tower_class
from embsearch.team import Crew, Member
from embsearch.track.environment import here
from embsearch.train import process_memory
from embsearch.trial import tidy, trial, vectors_of
from embsearch.values import PRIMARY, FailureClass, Measurement, Scalar

TIMED = 256  # texts, by which encoders are compared
PROBES = {"speed": probe.speed, "edge": probe.edge}


class Outbox:
    """Points of the segment at hand: told every so many seconds, the rest with its end."""

    def __init__(self, send: Send | None) -> None:
        self._send = send
        self._points: list[Point] = []
        self._every = 1.0
        self._sent = 0.0

    def clear(self, every: float) -> None:
        """Begin a trial, whose points are told every so many seconds."""
        self._points.clear()
        self._every = every

    def report(self, step: int, at: int, metrics: dict[str, float]) -> None:
        """Take the metrics of a step, and tell those that are there where it is time."""
        self._points.append((step, at, metrics))
        if self._send is not None and time.monotonic() - self._sent > self._every:
            self._sent = time.monotonic()
            self._send(self.take())

    def take(self) -> Points:
        """Return the points that were not told yet."""
        points = Points(tuple(self._points))
        self._points.clear()
        return points


class Worker:
    """Handles jobs one after another; what the next one may need again is kept.

    ``send``: takes what is to be said during a job; None: all is said when the job yields.
    ``crew``: processes that train with this one, where train.devices says so.
    """

    def __init__(self, send: Send | None = None, crew: Crew | Member | None = None) -> None:
        self.crew = crew or Crew()
        self.halting = False  # set from outside: save a checkpoint after this step and end the job
        self._outbox = Outbox(send)
        self._data: dict[str, TaskData] = {}
        # The encoder at its base weights, and what it was made for.
        self._base: tuple[object, Tower, dict[str, torch.Tensor], Inputs] | None = None
        self._packing = ""  # how texts of the base encoder are encoded, and why
        # The trial that can go on at once, and where it is.
        self._warm: tuple[tuple[int, ...], Iterator[Measurement]] | None = None
        self._machine: dict[str, Scalar] = {}  # that the warm trial is computed on
        self._costs = CostMeter()

    def __call__(self, job: Job) -> Iterator[Message]:
        """Yield the messages of one job; the last one ends it. An error becomes ``Failed``."""
        try:
            match job:
                case TrainJob():
                    yield from [averaged(self, job)] if job.members else self._train(job)
                case EvaluateJob():
                    yield from self._evaluate(job)
                case ProbeJob():
                    yield self._probe(job)
                case _:
                    raise TypeError(f"no such job: {job!r}")
        except BaseException as error:
            self._warm = None
            self.crew.close()  # somewhere in the middle of a step
            if not isinstance(error, Exception):
                raise
            failure, message = failure_of(error)
            trace = "".join(traceback.format_exception(error))
            yield Failed(cast(FailureClass, failure), message, trace)
        finally:
            self.crew.idle()

    def _train(self, job: TrainJob) -> Iterator[Message]:
        """Train one trial to its next evaluation that is at or after ``until``."""
        segment = job.segment
        which = (segment.trial, segment.attempt, segment.seed)
        warm = self._warm is not None and self._warm[0] == (*which, segment.from_checkpoint)
        if self.crew.resume(job, warm) and self._warm is not None:
            _, run = self._warm
        else:
            self._warm = None
            run = self._begin(job)
        while True:
            measured = next(run, None)
            yield self._outbox.take()
            if measured is None and (self.halting or not self.crew.leads):
                self._warm = None
                yield Halted()
                return
            if measured is None:
                raise RuntimeError(
                    f"trial {segment.trial} had already ended before evaluation {segment.until}"
                )
            if measured.rung >= segment.until or measured.last:
                break
        self._warm = ((*which, measured.rung), run)
        yield Measured(replace(measured, machine=self._machine))

    def _begin(self, job: TrainJob) -> Iterator[Measurement]:
        config = build(job.config)
        compute = choose(config.device, config.train.precision)
        self._machine = here() | compute.words()
        group = self.crew.start_group(job, config.train.devices, compute.device)
        data = self.dataset(config, job.cache)
        encoder, tokens = self._encoder(config, data, Path(job.cache), compute)
        self._outbox.clear(job.points_every)
        folder, report = Path(job.folder), self._outbox.report
        run = trial(
            config, data, tokens, encoder, compute, folder, report,
            lambda: self.halting, job.queries, group,
        )  # fmt: skip
        begins = not (job.segment.from_checkpoint or job.segment.seed)
        weighed = config.evaluate.costs and begins and self.crew.leads
        return self._costs.added_to(run, config, folder, data, job.cache) if weighed else run

    def _evaluate(self, job: EvaluateJob) -> Iterator[Message]:
        config = build(job.config)
        keep = Path(job.keep) if job.keep else None
        encoders: dict[str, JsonObject] = {}
        if job.model is None and not job.full:  # a study begins with it
            for other in map(build, job.others):
                yield from map(Note, self._try_other(other, job, config, encoders))
            yield from map(Note, self.check(config, job.cache))
        found = self.evaluate(config, job.cache, job.split, job.model, job.full, job.most, keep)
        if encoders:
            first = {config.model.path: self._facts(config, job, found)}
            found = replace(found, encoders=first | encoders)
        yield found

    def _try_other(
        self, other: Config, job: EvaluateJob, config: Config, encoders: dict[str, JsonObject]
    ) -> list[str]:
        """Build what trials may have instead of ``config``; put another encoder into ``encoders``.

        Return the lines of its check. Raises ModelError.
        """
        path = other.model.path
        try:
            if path == config.model.path or path in encoders:
                with torch.random.fork_rng([]):
                    tower_class(task_of(other).kind).build(other.encoder, other.train.seed)
                return []
            lines = [f"{path}: {line}" for line in self.check(other, job.cache)]
        except ModelError as error:
            raise ModelError(f"the space has what an encoder cannot do: {error}") from error
        found = self.evaluate(other, job.cache, job.split, None, False, job.most)
        encoders[path] = self._facts(other, job, found)
        return lines

    def _facts(self, config: Config, job: EvaluateJob, found: Evaluated) -> JsonObject:
        """Return what the encoder at hand is untuned: metrics, parameters, milliseconds a text."""
        assert self._base is not None, "it was just evaluated"
        _, tower, _, inputs = self._base
        task, data = task_of(config), self.dataset(config, job.cache)
        ids = task.items(task.rows(data, job.split, config.evaluate.max_rows))[:TIMED]
        begun = time.monotonic()
        embed(tower, inputs, ids, choose(config.device, config.train.precision))
        each = (time.monotonic() - begun) / len(ids)
        size = sum(p.numel() for p in tower.parameters()) + tower.left_out
        return {"metrics": found.metrics, "parameters": size, "milliseconds": 1000 * each}

    def check(self, config: Config, cache: str) -> list[str]:
        """Return lines that people should read before a study of these data and this encoder.

        Raises ModelError where the encoder cannot serve them.
        """
        compute = choose(config.device, config.train.precision)
        data = self.dataset(config, cache)
        encoder, tokens = self._encoder(config, data, Path(cache), compute)
        with torch.random.fork_rng([]):
            return list(encoder.check(config.encoder, data, tokens, compute))

    def evaluate(
        self,
        config: Config,
        cache: str,
        split: str,
        model: str | None,
        full: bool,
        most: int | None = None,
        keep: Path | None = None,
    ) -> Evaluated:
        """Measure a saved model (None: the untuned encoder) on one split; ``full``: all there is.

        ``most``: about how many rows; None: all with ``full``, else as many as trials are measured
        on. ``keep``: a file for the model's answers by row (``evaluate.examine``).
        """
        compute = choose(config.device, config.train.precision)
        task = task_of(config)
        data = self.dataset(config, cache)
        if most is None:
            most = 0 if full else config.evaluate.max_rows
        rows = task.rows(data, split, most)
        started = time.monotonic()
        if model:
            self._release_freed()
            with torch.random.fork_rng(
                []
            ):  # building layers draws; the trial that is warm must not see it
                encoder = tower_class(task.kind).load(
                    model, str(compute.device), config.model.trust_remote_code
                )
            select(encoder, compute)
            tokens = encoder.prepare(data, Path(cache) / "tokens")
        else:
            encoder, tokens = self._encoder(config, data, Path(cache), compute)
        found = evaluate(task, encoder, tokens, rows, compute, config, full, keep)
        as_usual = compute.device.type == "cpu" and encoder.packs
        why = compute.why if as_usual or model else f"{compute.why}; {self._packing}"
        return Evaluated(**found, compute=why, seconds=time.monotonic() - started)

    def _probe(self, job: ProbeJob) -> Probed:
        """Measure what ``plan`` wants to know of this machine."""
        config = build(job.config)
        compute = choose(config.device, config.train.precision)
        group = self.crew.start_group(job, config.train.devices, compute.device)
        data = self.dataset(config, job.cache)
        encoder, tokens = self._encoder(config, data, Path(job.cache), compute)
        folder = Path(job.folder)
        return Probed(PROBES[job.what](config, data, tokens, encoder, compute, folder, group))

    def close(self) -> None:
        """Train no more; the processes that trained along end."""
        self._warm = None
        self.crew.close()

    def dataset(self, config: Config, cache: str) -> Any:
        """Return the prepared data in ``cache`` as the config's task loads them; kept for the next
        job.
        """
        if cache not in self._data:
            self._data = {cache: task_of(config).load(Path(cache))}
        return self._data[cache]

    def _encoder(
        self, config: Config, data: TaskData, cache: Path, compute: Compute
    ) -> tuple[Tower, Inputs]:
        """Return an encoder at its base weights.

        Rebuilt only when the model's config is another, or what it computes in.
        """
        process_memory.retain_freed()
        self._warm = None
        self._release_freed()  # another trial's sizes are others
        draws = config.model.projection or config.model.adapter == "lora"
        drawn = config.train.seed if draws else 0
        kind = task_of(config).kind
        made_for = kind, config.encoder, drawn, compute.device, compute.autocast
        if self._base is None or self._base[0] != made_for:
            self._base = None
            encoder = tower_class(kind).build(config.encoder, drawn)
            tokens = encoder.prepare(data, cache / "tokens")
            encoder.restrict(tokens)
            if compute.device.type == "cuda" and compute.autocast is torch.bfloat16:
                encoder.hold_frozen_in_bf16()
            encoder.to(compute.device)
            self._packing = select(encoder, compute)
            if compute.device.type == "cpu":
                encoder.remember(tokens)
            base = {
                n: p.detach().cpu().clone()
                for n, p in encoder.named_parameters()
                if p.requires_grad
            }
            self._base = (made_for, encoder, base, tokens)
        _, encoder, base, tokens = self._base
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                if name in base:
                    parameter.copy_(base[name])
                    parameter.grad = None
        return encoder, tokens

    def _release_freed(self) -> None:
        """Give back the memory that steps freed and this process retained."""
        if self._base is not None:
            _, encoder, _, _ = self._base
            encoder.release_unused()
        process_memory.release_freed()


def averaged(worker: Worker, job: TrainJob) -> Measured:
    """Make a soup and measure it as trials are at their end."""
    began, config = time.monotonic(), build(job.config)
    folder = Path(job.folder)
    tidy(folder, 0)
    draft = folder / ".model.soup"
    average([Path(member) for member in job.members], draft)
    found = worker.evaluate(config, job.cache, "valid", str(draft), full=False)
    task, data = task_of(config), worker.dataset(config, job.cache)
    measurement = Measurement(
        rung=len(config.evaluate.at),
        step=task.steps(data, config.train.texts, config.train.batch_size),
        texts_seen=config.train.texts,
        metrics={f"val/{name}": value for name, value in found.metrics.items()},
        seconds=time.monotonic() - began,
        last=True,
        why=f"the mean of {len(job.members)} models",
        rows=len(task.rows(data, "valid", config.evaluate.max_rows)),
        machine=here() | choose(config.device, config.train.precision).words(),
    )
    pretrained.put(draft, folder / "model")
    return Measured(measurement)


def evaluate(
    task: AnyTask,
    encoder: Tower,
    tokens: Inputs,
    rows: Rows,
    compute: Compute,
    config: Config,
    full: bool,
    keep: Path | None,
) -> dict[str, Any]:
    """Return the metrics of an encoder on ``rows`` as the fields of a message.

    With ``full`` these hold the primary metric's interval and the segments, without it what the
    evaluations of trials are to read. ``keep``: a file for the answers by row.
    """
    ids, vectors = vectors_of(task, encoder, tokens, rows, compute)
    answers = task.answers(rows, ids, vectors)
    if full:
        scores = task.score(rows, ids, vectors, answers, config.evaluate, config.seed)
        found: dict[str, Any] = {
            "metrics": dict(scores.metrics),
            PRIMARY: scores.interval,
            "segments": {name: dict(segment) for name, segment in scores.segments.items()},
        }
    else:
        readings = task.readings(rows, ids, vectors, config.evaluate, config.seed)
        found = {
            "metrics": task.measured(rows, ids, vectors, config.evaluate),
            "readings": tuple(readings),
        }
    if keep is not None:
        task.examine(rows, ids, vectors, answers).save(keep)
    return found


def use_all_cores() -> None:
    """Let torch use every core of this process: for commands that work alone."""
    torch.set_num_threads(cores())


def begin(send: Send | None = None, member: Sequence[str] = ()) -> Worker:
    """Return the worker of a process that does nothing else: torch on the threads it was given.

    ``member``: words of ``team.Process``, for one of another worker's crew, which decides for it.
    """
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_num_interop_threads(1)
    return Worker(send, Member(*member) if member else None)


def main() -> None:
    """Serve jobs until standard input ends; SIGTERM halts the job at hand, which is the last.

    With words, as team.Process gives them: a member of another worker's crew, which decides for it.
    """
    member = sys.argv[1:]
    send = _sender()
    orders: SimpleQueue[JsonObject] = SimpleQueue()
    idle = True

    def halt(number: int, frame: FrameType | None) -> None:
        if idle:
            os._exit(0)
        worker.halting = True

    signal.signal(signal.SIGTERM, signal.SIG_IGN if member else halt)
    threading.Thread(target=_read, args=(orders,), daemon=True).start()
    worker = begin(None if member else send, member)
    send(Ready())
    while not worker.halting:
        order = orders.get()
        idle = False
        for message in answers(worker, order, worker.crew.read_order):
            send(message)
            if member and isinstance(message, Failed):
                os._exit(1)  # the others hear of it at once
        idle = True
    os._exit(0)  # the reader holds standard input


def _sender() -> Send:
    """Return what writes a message to standard output. All else that is printed goes to the log."""
    messages = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(message: Message) -> None:
        line = json.dumps(encode(message)).encode() + b"\n"
        with lock:
            messages.write(line)

    return send


def _read(orders: SimpleQueue[JsonObject]) -> None:
    """Read standard input to its end: then the coordinator is gone; the checkpoint is on disk."""
    for line in sys.stdin.buffer:
        orders.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
