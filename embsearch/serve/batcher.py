"""Requests that wait at the same time are encoded together, and a long one lets others between.

One thread owns the model, so nothing in it needs a lock. It never waits for more to come: what
has arrived while the last batch was computed is the next one. An idle server answers at once, a
busy one fills its batches (benchmarks/serve.py has what that is worth). A request of many
characters is cut into slices of SLICE seconds: a batch holds what is new, and one slice of one
request that has had one before. So no number of long requests doubles the time of short ones.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from embsearch.serve.encoder import Asked, Vectors
from embsearch.serve.requests import Refusal

WHOLE = 4096  # characters of a request that is not cut
SLICE = 0.05  # seconds of a batch that a slice may take, at the speed of those before
LEAST = 2048  # characters of a slice; on one core half as much costs a fifth of the speed
MOST = 65_536  # characters of a batch
A_TEXT = 10  # characters that a text counts for more than it has: its first and last token

Encode = Callable[[Sequence[Asked]], Vectors]


@dataclass
class Job:
    """A request: its texts, those of the batch at hand, and the vectors of those before."""

    texts: Sequence[Asked]
    start: int = 0
    stop: int = 0
    future: Future[Vectors] = field(default_factory=Future)
    found: list[Vectors] = field(default_factory=list)
    tokens: int = 0

    def __post_init__(self) -> None:
        self.length = sum(map(_length, self.texts))

    @property
    def slice(self) -> Sequence[Asked]:
        """Texts of the batch at hand."""
        return self.texts[self.start : self.stop]

    def cut(self, most: int) -> int:
        """Take the next texts, at most so long together, but at least one; return how long."""
        self.stop, taken = self.start, 0
        most = WHOLE if self.length <= WHOLE else most
        while self.stop < len(self.texts):
            length = _length(self.texts[self.stop])
            if taken and taken + length > most:
                break
            taken += length
            self.stop += 1
        return taken


class Batcher:
    """``await batcher(texts)`` from any number of requests at once."""

    def __init__(
        self,
        encode: Encode,
        most: int,
        max_tokens: int,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the thread.

        ``most``: texts of a batch; a slice of more is one by itself. ``max_tokens``: of a request.
        ``begin`` runs first in the thread.
        """
        self._encode, self._most, self._max_tokens = encode, most, max_tokens
        self._begin = begin
        self._new: deque[Job] = deque()
        self._begun: deque[Job] = deque()
        self._change = threading.Condition()
        self._speed = 0.0  # characters a second
        self._end = float("inf")  # when what waits is no longer answered
        self.batches = self.texts = self.tokens = 0
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    async def __call__(self, texts: Sequence[Asked]) -> Vectors:
        return await asyncio.wrap_future(self.submit(texts))

    def submit(self, texts: Sequence[Asked]) -> Future[Vectors]:
        """Do the same for callers without an event loop.

        A future that is cancelled gives no further slice. Raises Refusal at the end.
        """
        job = Job(texts)
        with self._change:
            if time.monotonic() >= self._end:
                raise _ending()
            self._new.append(job)
            self._change.notify()
        return job.future

    def end(self, seconds: float) -> None:
        """Answer for so many seconds more; what waits then is refused."""
        with self._change:
            self._end = time.monotonic() + seconds
            self._change.notify()

    def close(self) -> None:
        """End now, and wait for the batch at hand."""
        self.end(0)
        self._thread.join()

    def _run(self) -> None:
        self._begin()
        while batch := self._next():
            self._compute(batch)
            with self._change:
                left = [job for job in batch if not job.future.done()]
                if self._end == float("inf"):
                    self._begun.extend(left)
                else:  # then rather all of one than half of each
                    self._begun.extendleft(reversed(left))

    def _next(self) -> list[Job]:
        """Return the jobs whose slices are the next batch; none at the end."""
        with self._change:
            while True:
                batch = self._gather() if time.monotonic() < self._end else []
                if batch or time.monotonic() >= self._end:
                    break
                self._change.wait()
            if not batch:
                for job in (*self._begun, *self._new):
                    _settle(job, _ending())
            return batch

    def _gather(self) -> list[Job]:
        batch: list[Job] = []
        texts = chars = 0
        while queue := self._begun if self._begun and not batch else self._new:
            job = queue.popleft()
            if job.future.cancelled():
                continue
            chars += job.cut(max(LEAST, min(MOST, int(SLICE * self._speed))))
            texts += job.stop - job.start
            if batch and (texts > self._most or chars > MOST):
                queue.appendleft(job)
                break
            batch.append(job)
        return batch

    def _compute(self, batch: list[Job]) -> None:
        """Encode a slice of each job; jobs that fail together are tried one by one."""
        began = time.monotonic()
        texts = [text for job in batch for text in job.slice]
        try:
            found = self._encode(texts)
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0], error)
                return
            for job in batch:
                self._compute([job])
            return
        speed = sum(map(_length, texts)) / max(1e-9, time.monotonic() - began)
        self._speed = (self._speed + speed) / 2
        self.batches += 1
        start = 0
        for job in batch:
            take = slice(start, start + job.stop - job.start)
            start, job.start = take.stop, job.stop
            self._add(job, Vectors(found.values[take].copy(), found.tokens[take].copy()))

    def _add(self, job: Job, found: Vectors) -> None:
        """Keep the vectors of a slice; after the last one the job is answered."""
        tokens = int(found.tokens.sum())
        self.texts += len(found.tokens)
        self.tokens += tokens
        job.tokens += tokens
        job.found.append(found)
        if job.tokens > self._max_tokens:
            _settle(
                job,
                Refusal(
                    f"the texts have more than {self._max_tokens} tokens, as the model reads them "
                    "(serve.max_tokens); send fewer rows a request",
                    413,
                ),
            )
        elif job.start == len(job.texts):
            _settle(job, _joined(job.found))


def _length(asked: Asked) -> int:
    return len(asked[0]) + A_TEXT


def _joined(found: Sequence[Vectors]) -> Vectors:
    if len(found) == 1:
        return found[0]
    return Vectors(
        np.concatenate([one.values for one in found]), np.concatenate([one.tokens for one in found])
    )


def _settle(job: Job, outcome: Vectors | Exception) -> None:
    """Give a job its outcome, unless its caller has gone away."""
    if not job.future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)


def _ending() -> Refusal:
    return Refusal("the server is ending; ask another one, or again later", 503)
