"""Counts of the server, as Prometheus reads them."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
GONE = 499  # as nginx says it: the client went away before the answer


class Metrics:
    """Counts of answers by path and status, and of their seconds; of the paths that exist."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = paths
        self._answers: Counter[tuple[str, int]] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._buckets = {path: [0] * (len(SECONDS) + 1) for path in (*paths, "other")}

    def count(self, path: str, status: int, seconds: float) -> None:
        """Note an answer."""
        path = path if path in self._paths else "other"
        self._answers[path, status] += 1
        self._seconds[path] += seconds
        self._buckets[path][bisect_left(SECONDS, seconds)] += 1

    def text(self, now: Mapping[str, tuple[str, str, float]]) -> str:
        """Return every metric; ``now``: kind, words and value of those that others hold."""
        return "\n".join([*self._lines(), *_plain(now), ""])

    def _lines(self) -> Iterator[str]:
        yield from _head("embsearch_requests_total", "counter", "Answers by path and status.")
        for (path, status), count in sorted(self._answers.items()):
            yield f'embsearch_requests_total{{path="{path}",status="{status}"}} {count}'
        name = "embsearch_request_seconds"
        yield from _head(name, "histogram", "Seconds from a request's header to its answer.")
        for path, seconds in sorted(self._seconds.items()):
            total = 0
            for most, count in zip((*SECONDS, "+Inf"), self._buckets[path], strict=True):
                total += count
                yield f'{name}_bucket{{path="{path}",le="{most}"}} {total}'
            yield f'{name}_sum{{path="{path}"}} {seconds:.6f}'
            yield f'{name}_count{{path="{path}"}} {total}'


class Counted:
    """An app whose answers are counted."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status = time.monotonic(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            self.metrics.count(scope["path"], status, time.monotonic() - began)


def _plain(now: Mapping[str, tuple[str, str, float]]) -> Iterator[str]:
    for name, (kind, words, value) in now.items():
        yield from _head(f"embsearch_{name}", kind, words)
        yield f"embsearch_{name} {value}"


def _head(name: str, kind: str, words: str) -> tuple[str, str]:
    return f"# HELP {name} {words}", f"# TYPE {name} {kind}"
