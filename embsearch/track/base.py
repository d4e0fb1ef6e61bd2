"""The recorder seam: a view of a study's event logs that somebody looks at.

A recorder reads the logs and never the running study, so it can be away for an hour, be
killed, or start over, and lose nothing. The study never waits for one and never fails with one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol


class Recorder(Protocol):
    """Keeps one view up to date."""

    @property
    def view(self) -> str:
        """The name of what it keeps up to date, as "MLflow"."""

    @property
    def problem(self) -> str:
        """Why the view is behind, in one line; empty when all is well."""

    def start(self) -> None:
        """Sync in the background from now on."""

    def sync(self) -> int:
        """Bring the view up to date now; the number of events it still lacks. Never raises."""

    def close(self, timeout: float = 30.0) -> int:
        """Stop the background work after a last sync of at most ``timeout`` seconds; the number
        of events the view still lacks, which the next sync, of any process, brings."""


class Recorders:
    """Several as one, or none: ``track=none``. They do not wait for each other."""

    def __init__(self, *recorders: Recorder) -> None:
        self._recorders = recorders

    @property
    def view(self) -> str:
        behind = [recorder.view for recorder in self._recorders if recorder.problem]
        return ", ".join(behind or [recorder.view for recorder in self._recorders])

    @property
    def problem(self) -> str:
        return "; ".join(recorder.problem for recorder in self._recorders if recorder.problem)

    def start(self) -> None:
        for recorder in self._recorders:
            recorder.start()

    def sync(self) -> int:
        return sum(recorder.sync() for recorder in self._recorders)

    def close(self, timeout: float = 30.0) -> int:
        """All within ``timeout``."""
        with ThreadPoolExecutor(len(self._recorders) or 1) as pool:
            return sum(pool.map(lambda recorder: recorder.close(timeout), self._recorders))
