"""Jobs run in this process, one after another: for debugging, and where processes may not be."""

from __future__ import annotations

from collections.abc import Iterator

from embsearch.launch.base import Ending, Job, Message
from embsearch.launch.handler import Handler


class Inline:
    """One slot. ``wait`` does the work and returns at each message that others may want to see."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._running: Iterator[Message] | None = None

    @property
    def workers(self) -> int:
        return 1

    @property
    def idle(self) -> list[int]:
        return [0] if self._running is None and not self._handler.halting else []

    def submit(self, slot: int, job: Job) -> None:
        if self._running is not None or slot != 0:
            raise RuntimeError(f"slot {slot} is not idle")
        self._running = self._handler(job)

    def wait(self, timeout: float) -> list[tuple[int, Message]]:
        if self._running is None:
            return []
        message = next(self._running)
        if isinstance(message, Ending):
            self._running = None
        return [(0, message)]

    def halt(self) -> None:
        self._handler.halting = True

    def close(self) -> None:
        self._running = None
        self._handler.close()
