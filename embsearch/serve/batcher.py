"""Requests that wait at the same time are encoded together, and a long one lets others between.

One thread owns the model, so nothing in it needs a lock. It never waits for more to come: what
has arrived while the last batch was computed is the next one. An idle server answers at once, a
busy one fills its batches (benchmarks/serve.py has what that is worth). A request of many
characters gives a slice to each batch and stands behind what came meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from embsearch.serve.encoder import Asked, Vectors
from embsearch.serve.requests import Refusal

SLICE = 4096  # characters that a request gives to a batch: about 1,000 tokens
MOST = 16 * SLICE  # characters of a batch

Encode = Callable[[Sequence[Asked]], Vectors]


@dataclass
class Job:
    """A request: slices that wait, and vectors of those before."""

    slices: deque[Sequence[Asked]]
    future: Future[Vectors] = field(default_factory=Future)
    found: list[Vectors] = field(default_factory=list)
    tokens: int = 0


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
        self._jobs: deque[Job] = deque()
        self._change = threading.Condition()
        self._end = float("inf")  # when what waits is no longer answered
        self.batches = self.texts = self.tokens = 0
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    async def __call__(self, texts: Sequence[Asked]) -> Vectors:
        return await asyncio.wrap_future(self.submit(texts))

    def submit(self, texts: Sequence[Asked]) -> Future[Vectors]:
        """Do the same for callers without an event loop.

        A future that is cancelled gives no further slice. Raises Refusal at the end.
        """
        job = Job(deque(slices(texts)))
        with self._change:
            if time.monotonic() >= self._end:
                raise _ending()
            self._jobs.append(job)
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
                self._jobs.extend(job for job in batch if job.slices and not job.future.done())

    def _next(self) -> list[Job]:
        """Return the jobs whose first slices are the next batch; none at the end."""
        with self._change:
            while True:
                batch = self._gather() if time.monotonic() < self._end else []
                if batch or time.monotonic() >= self._end:
                    break
                self._change.wait()
            if not batch:
                while self._jobs:
                    _settle(self._jobs.popleft(), _ending())
            return batch

    def _gather(self) -> list[Job]:
        batch: list[Job] = []
        texts = chars = 0
        while self._jobs:
            job = self._jobs.popleft()
            if job.future.cancelled():
                continue
            texts += len(job.slices[0])
            chars += sum(len(text) for text, _ in job.slices[0])
            if batch and (texts > self._most or chars > MOST):
                self._jobs.appendleft(job)
                break
            batch.append(job)
        return batch

    def _compute(self, batch: list[Job]) -> None:
        """Encode the first slice of each job; jobs that fail together are tried one by one."""
        try:
            found = self._encode([text for job in batch for text in job.slices[0]])
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0], error)
                return
            for job in batch:
                self._compute([job])
            return
        self.batches += 1
        start = 0
        for job in batch:
            take = slice(start, start + len(job.slices.popleft()))
            start = take.stop
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
        elif not job.slices:
            _settle(job, _joined(job.found))


def slices(texts: Sequence[Asked]) -> Iterator[Sequence[Asked]]:
    """Yield the texts in runs of at most SLICE characters, but at least one text."""
    start = chars = 0
    for i, (text, _) in enumerate(texts):
        if i > start and chars + len(text) > SLICE:
            yield texts[start:i]
            start, chars = i, 0
        chars += len(text)
    yield texts[start:]


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
