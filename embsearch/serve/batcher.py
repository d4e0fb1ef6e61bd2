"""Requests that wait at the same time are encoded together.

One thread owns the model, so nothing in it needs a lock. It never waits for more to come: what
has arrived while the last batch was computed is the next one. An idle server answers at once, a
busy one fills its batches (benchmarks/serve.py has what that is worth).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from embsearch.serve.encoder import Asked, Vectors

Encode = Callable[[Sequence[Asked]], Vectors]
Waiting = tuple[Sequence[Asked], "Future[Vectors]"]


class Batcher:
    """``await batcher(texts)`` from any number of requests at once."""

    def __init__(self, encode: Encode, most: int, begin: Callable[[], None] = lambda: None) -> None:
        """Start the thread.

        ``most``: texts of a batch; a request of more is one by itself. ``begin`` runs first in the
        thread.
        """
        self._encode, self._most, self._begin = encode, most, begin
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._closed = False
        self.batches = 0
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    async def __call__(self, texts: Sequence[Asked]) -> Vectors:
        return await asyncio.wrap_future(self.submit(texts))

    def submit(self, texts: Sequence[Asked]) -> Future[Vectors]:
        """Do the same for callers without an event loop. Raises RuntimeError once closed."""
        if self._closed:
            raise RuntimeError("the server is shutting down")
        future: Future[Vectors] = Future()
        self._queue.put((texts, future))
        return future

    def close(self) -> None:
        """End the thread; requests that wait are still answered."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        self._begin()
        left: Waiting | None = None
        while True:
            first = left or self._queue.get()
            if first is None:
                return
            batch, left, ends = self._gather(first)
            self._answer(batch)
            if ends:
                return

    def _gather(self, first: Waiting) -> tuple[list[Waiting], Waiting | None, bool]:
        """Return A batch, what did not fit into it, and whether nothing follows."""
        batch, size = [first], len(first[0])
        while size < self._most:
            try:
                following = self._queue.get_nowait()
            except Empty:
                break
            if following is None:
                return batch, None, True
            if size + len(following[0]) > self._most:
                return batch, following, False
            batch.append(following)
            size += len(following[0])
        return batch, None, False

    def _answer(self, batch: list[Waiting]) -> None:
        """Answer the requests.

        A caller that has gone away is left out; requests that fail together are tried one by one.
        """
        batch = [one for one in batch if one[1].set_running_or_notify_cancel()]
        if not batch:
            return
        self.batches += 1
        try:
            found = self._encode([text for texts, _ in batch for text in texts])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for texts, future in batch:
                self._alone(texts, future)
            return
        start = 0
        for texts, future in batch:
            take = slice(start, start + len(texts))
            future.set_result(Vectors(found.values[take], found.tokens[take]))
            start = take.stop

    def _alone(self, texts: Sequence[Asked], future: Future[Vectors]) -> None:
        try:
            future.set_result(self._encode(texts))
        except Exception as error:
            future.set_exception(error)
