"""One worker of the Slurm launcher, and where all of them are as a line of text."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embsearch.launch.base import Halted, Ready, decode_message
from embsearch.launch.pool import Event, Left
from embsearch.launch.slurm.mailbox import Letters, get, put
from embsearch.launch.slurm.queue import State

CARD_EVERY = 1.0  # seconds between looks at who works for a slot


@dataclass
class WorkerJob:
    """A job of Slurm, and the process in it that was heard of last."""

    index: int  # of its slot
    folder: Path
    job: str = ""  # empty: it has ended
    asked: float = 0.0  # when the job was submitted; an older answer of squeue does not know it
    state: State | None = None
    token: str = ""  # of the process
    letters: Letters = field(default_factory=lambda: Letters(Path("/dev/null")))
    looked: float = 0.0  # when it was last looked who works here
    ready: bool = False  # the process listens
    since: float = 0.0  # when it said so; 0: not yet
    tried: float = 0.0  # which answer of squeue the last try to kill it came after
    why: str = ""  # it was killed
    how: str = ""  # the job has ended so
    retired: bool = False  # its jobs have met their time limit as often as they may

    def look(self, session: str, now: bool = False) -> Iterator[Event]:
        """Yield what the slot's process wrote, and whether another one works for it now.

        The latter is looked at once in a while, or ``now``.
        """
        if not self.job:
            return
        yield from self._read(session)
        at = time.monotonic()
        if not now and at - self.looked < CARD_EVERY:
            return
        self.looked = at
        card = get(self.folder / "worker.json")
        if card is None or card.get("job") != self.job or card["token"] == self.token:
            return
        if self.token:
            yield from self._read(session)  # the last words of the one before
            yield self.left(f"job {self.job} was requeued and runs on {card['node']} now")
        self._follow(card["token"])
        yield from self._read(session)

    def left(self, how: str) -> Left:
        """Take the process for ended, and return what is said of it."""
        self.ready = False
        # Should it live, behind a network that is away: it ends when it sees this.
        put(self.folder / "task.json", {})
        silent = f"{self.why}: " if self.why else ""
        return Left(f"worker {self.index}: {silent}{how}")

    def _follow(self, token: str) -> None:
        """Read another process's messages from now on."""
        for path in self.folder.glob("*.jsonl"):
            if path.stem != token:
                path.unlink(missing_ok=True)
        self.token, self.since = token, 0.0
        self.letters = Letters(self.folder / f"{token}.jsonl")

    def _read(self, session: str) -> Iterator[Event]:
        """Yield what the process wrote for this session."""
        for letter in self.letters.new():
            if letter["session"] != session:
                continue
            if "bye" in letter:
                yield self.left(f"job {self.job}: {letter['bye']}")
                continue
            message = decode_message(letter["message"])
            if isinstance(message, Ready):
                self.ready, self.since = True, time.monotonic()
            elif isinstance(message, Halted):
                self.ready = False
            yield message


def describe(workers: Sequence[WorkerJob], old: Collection[str]) -> str:
    """Return where the workers are, for a person who waits. Empty while nothing is known.

    ``old``: jobs of an earlier session that have not ended.
    """
    if old:
        return f"Slurm: jobs of an earlier session save and stop: {', '.join(sorted(old))}"
    if any(one.state is None and not (one.ready or one.retired) for one in workers):
        return ""
    places = Counter(_place(one) for one in workers)
    reasons = Counter(one.state.reason for one in workers if one.state and _place(one) == "waits")
    parts = [f"{places['runs']} of {len(workers)} workers run"]
    if n := places["starts"]:
        parts.append(f"{n} {'start' if n > 1 else 'starts'}")
    if n := places["stops"]:
        parts.append(f"{n} {'stop' if n > 1 else 'stops'}")
    for reason, n in reasons.items():
        why = "" if reason == "None" else f" ({reason})"  # not yet looked at by the scheduler
        parts.append(f"{n} {'wait' if n > 1 else 'waits'}{why}")
    if n := places["retired"]:
        parts.append(f"{n} met launcher.requeues")
    return f"Slurm: {', '.join(parts)}"


def _place(worker: WorkerJob) -> str:
    """Return where one worker is, as a key for counting."""
    if worker.ready:
        return "runs"
    if worker.retired:
        return "retired"
    if worker.state is not None and worker.state.name == "PENDING":
        return "waits"
    return "stops" if worker.state is not None and worker.since > 0 else "starts"
