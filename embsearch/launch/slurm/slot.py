"""One slot of the Slurm launcher, and where all of them are in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embsearch.launch.base import Task
from embsearch.launch.slurm.mailbox import Letters
from embsearch.launch.slurm.queue import State


@dataclass
class Slot:
    """A job, the process in it that was heard of last, and the task that it has."""

    folder: Path
    job: str = ""
    asked: float = 0.0  # when the job was submitted; what squeue was asked before says nothing about it
    ours: bool = True  # submitted in this session
    state: State | None = None
    token: str = ""
    letters: Letters = field(default_factory=lambda: Letters(Path("/dev/null")))
    looked: float = 0.0
    heard: float = 0.0
    ready: bool = False
    since: float = 0.0  # when its process said so; 0: not yet
    served: bool = False  # some process of its job did
    task: Task | None = None
    hung: bool = False
    failures: int = 0  # jobs, one after another, that ended before that
    retired: bool = False  # its jobs have met their time limit as often as they may


def words(slots: Sequence[Slot], old: Collection[str]) -> str:
    """What a person wants to know who waits; ``old``: jobs of an earlier session. Empty while nothing is known."""
    if old:
        return f"Slurm: jobs of an earlier session save and stop: {', '.join(sorted(old))}"
    if any(slot.state is None and not (slot.ready or slot.retired) for slot in slots):
        return ""
    queued = Counter(s.state.reason for s in slots if s.state and s.state.name == "PENDING" and not s.ready)
    run = sum(slot.ready for slot in slots)
    retired = sum(slot.retired for slot in slots)
    leave = sum(s.since > 0 and not (s.ready or s.retired or s.state.name == "PENDING") for s in slots if s.state)
    left = len(slots) - run - queued.total() - retired - leave
    parts = [f"{run} of {len(slots)} workers run"]
    parts += [f"{left} {'start' if left > 1 else 'starts'}"] if left else []
    parts += [f"{leave} {'stop' if leave > 1 else 'stops'}"] if leave else []
    for reason, n in queued.items():
        why = "" if reason == "None" else f" ({reason})"  # not yet looked at by the scheduler
        parts.append(f"{n} {'wait' if n > 1 else 'waits'}{why}")
    parts += [f"{retired} met launcher.requeues"] if retired else []
    return f"Slurm: {', '.join(parts)}"
