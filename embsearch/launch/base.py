"""The launching seam: slots that take one task at a time and answer with messages.

A task is plain JSON, ``{"do": "segment" | "evaluate" | "probe", "config": {...}, ...}``; so is a message:

    {"kind": "ready"}                                      the slot's worker has begun to listen
    {"kind": "note",      "text": line}                    for whoever watches, as that workers wait in a queue
    {"kind": "points",    "points": [[step, time, {metric: value}], ...]}
    {"kind": "measured",  "measurement": {...}}            ends a segment task
    {"kind": "evaluated", "metrics": {...}, ...}           ends an evaluate task
    {"kind": "halted"}                                     ends a segment task: its checkpoint was saved on request
    {"kind": "probed",    "step": seconds, ...}            ends a probe task
    {"kind": "failed",    "failure": class, "message", "traceback"}   ends any task
    {"kind": "died",      "failure": "killed" | "hung", "message"}    ends any task; the slot has a fresh worker

Only the coordinator decides; a launcher carries. Moving a study to other machines changes
the launcher and nothing else.
"""

from __future__ import annotations

from typing import Any, Protocol

Task = dict[str, Any]
Message = dict[str, Any]
SPEAKERS = 100  # workers that may each tell their points every second: each time a line is brought to the disk
ENDS = ("measured", "evaluated", "probed", "halted", "failed", "died")


class Launcher(Protocol):
    """Where tasks run."""

    @property
    def workers(self) -> int:
        """How many slots there are, or will be once all workers are there."""

    @property
    def idle(self) -> list[int]:
        """Slots that can take a task now: where workers come from a queue, those whose worker is there."""

    def submit(self, slot: int, task: Task) -> None:
        """Start ``task`` in ``slot``, which must be idle."""

    def wait(self, timeout: float) -> list[tuple[int, Message]]:
        """Messages that came, oldest first; after ``timeout`` seconds an empty list."""

    def halt(self) -> None:
        """Ask every running segment to save its checkpoint now and end as ``halted``. No slot takes
        tasks any more. Returns at once; may be called by a signal handler."""

    def close(self) -> None:
        """Stop every worker now. Unfinished tasks are lost; their checkpoints are not."""


def points_every(workers: int) -> float:
    """Seconds between two messages of one of so many workers about its points."""
    return max(1.0, workers / SPEAKERS)
