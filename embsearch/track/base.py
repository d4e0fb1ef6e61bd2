"""The recorder seam: a view of a study's event logs that somebody looks at.

A recorder reads the logs and never the running study, so it can be away for an hour, be
killed, or start over, and lose nothing. The study never waits for one and never fails with one.
"""

from __future__ import annotations

from typing import Protocol


class Recorder(Protocol):
    """Keeps one view up to date."""

    problem: str  # why the view is behind, in one line; empty when all is well

    def start(self) -> None:
        """Sync in the background from now on."""

    def sync(self) -> int:
        """Bring the view up to date now; the number of events it still lacks. Never raises."""

    def close(self, timeout: float = 30.0) -> int:
        """Stop the background work after a last sync of at most ``timeout`` seconds; the number
        of events the view still lacks, which the next sync, of any process, brings."""


class NoRecorder:
    """Records nothing: ``track.mlflow=false``."""

    problem = ""

    def start(self) -> None:
        pass

    def sync(self) -> int:
        return 0

    def close(self, timeout: float = 30.0) -> int:
        return 0
