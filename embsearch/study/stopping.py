"""Requests to a running study to stop.

Ctrl-C: the running segments are finished. SIGTERM (pre-emption), or a terminal that is closed: they
save a checkpoint where they are, within ``grace`` seconds. Ctrl-C after either: at once.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from embsearch.errors import EmbsearchError

STOPPED = "stopped; the same command goes on with this study"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(EmbsearchError):
    """Ctrl-C: the study stopped cleanly and the same command goes on with it."""

    exit_code = 130


class Stopping:
    """``asked`` is set by a signal while ``heard`` runs."""

    def __init__(self, grace: float) -> None:
        self.asked = False
        self._grace, self._deadline, self._said = grace, math.inf, False

    @property
    def halting(self) -> bool:
        """True once segments were told to halt where they are."""
        return self._deadline < math.inf

    @property
    def late(self) -> bool:
        """True once the time that segments got for their checkpoint is over."""
        return time.monotonic() > self._deadline

    def line(self) -> str:
        """Return what to say about it, once. Not said by the signal handler, which may cut off a
        print.
        """
        if not self.asked or self._said:
            return ""
        self._said = True
        if self.halting:
            return (
                "stopping when the running segments have saved a checkpoint; Ctrl-C stops at once"
            )
        return "stopping when the running segments are done; once more stops at once"

    @contextmanager
    def heard(self, halt: Callable[[], None]) -> Iterator[None]:
        """Signals are minded while the context runs; ``halt`` tells the segments to."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = True
            if number != signal.SIGINT and not self.halting:
                self._deadline = time.monotonic() + self._grace
                halt()

        before = {}
        with suppress(ValueError):  # not the main thread: whoever runs us handles signals
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # as nohup asks for
                    before[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
