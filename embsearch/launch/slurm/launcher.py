"""Workers that are Slurm jobs: a slot is a job, asked for once and kept warm for many tasks.

The coordinator, on a login node, and the jobs share a folder. A slot's folder in it has ``task.json``, written here;
``worker.json``, which names the process that works for the slot now; and one file of messages a process. Pre-emption
gives a slot another process, a death gives it another job. The coordinator after one that was killed finds its jobs
by their name: those that it can use halt and answer to its new session, the others are cancelled, and until every
process of the session before has answered or is gone no slot is idle.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from embsearch.errors import UserError
from embsearch.launch.base import ENDS, Message, Task
from embsearch.launch.slurm.job import Job
from embsearch.launch.slurm.mailbox import Letters, get, put
from embsearch.launch.slurm.queue import OVER, NotAnswering, Queue, State
from embsearch.launch.slurm.slot import Slot, words
from embsearch.launch.slurm.tender import LOOK_EVERY, Tender

CARD_EVERY = 1.0  # seconds between looks at who works for a slot
SQUEUE_EVERY = 5.0  # seconds between questions to Slurm's controller, which all users share

# Jobs without a coordinator end after so many seconds. A login node that swaps, or a file server that moves, is back
# within minutes; what a coordinator that never comes back costs is this much of every job's allocation.
ALONE = 300.0
TRIES = 3  # jobs of a slot that may end before their worker has said that it is ready

USABLE = ("CONFIGURING", "COMPLETING", "PENDING", "RUNNING")  # states of an earlier session's jobs; not SUSPENDED

TIMED_OUT = "timed-out too many times"  # submitit's words in the log of a job that it does not requeue

Found = list[tuple[int, Message]]


class Slurm:
    """``workers`` jobs with the name of ``queue``, whose workers call what ``handler`` makes ("module:function")."""

    def __init__(
        self,
        folder: Path,
        queue: Queue,
        workers: int,
        handler: str = "embsearch.worker:begin",
        timeout: float = 3600.0,
        alone: float = ALONE,
        squeue_every: float = SQUEUE_EVERY,
    ) -> None:
        self._folder, self._queue, self._handler = folder, queue, handler
        self._timeout, self._alone = timeout, alone
        self._number, self._noted, self._refusals, self._submitted = 0, "", 0, 0.0
        self._slots = [Slot(folder / str(i)) for i in range(workers)]
        for slot in self._slots:
            slot.folder.mkdir(parents=True, exist_ok=True)
            for path in (slot.folder / "task.json", slot.folder / "worker.json"):
                if not path.exists():  # over NFS a name that was not there once may seem so for a minute
                    put(path, {})
        # before squeue is asked for the first time: a job that starts from here on sees this session
        self._tender = Tender(folder, queue, squeue_every)
        try:
            self._adopt()
        except BaseException:
            self.close()
            raise
        self._tender.start()

    # ---- the seam --------------------------------------------------------------------------

    @property
    def workers(self) -> int:
        """How many there are to be."""
        return len(self._slots)

    @property
    def idle(self) -> list[int]:
        if self._old or self._tender.over:
            return []
        return [i for i, slot in enumerate(self._slots) if slot.ready and slot.task is None]

    def submit(self, slot: int, task: Task) -> None:
        at = self._slots[slot]
        if not at.ready or at.task is not None:  # also when it has just been asked to halt: it will say so
            raise RuntimeError(f"slot {slot} is not idle")
        self._number += 1
        at.task, at.heard = task, time.monotonic()
        put(at.folder / "task.json",
            {"to": at.token, "session": self._tender.session, "number": self._number, "task": task})  # fmt: skip

    def wait(self, timeout: float) -> Found:
        found: Found = []
        until = time.monotonic() + timeout
        while True:
            for index, slot in enumerate(self._slots):
                self._look(index, slot, found)
            self._take_states(found)
            left = until - time.monotonic()
            if found or left <= 0:
                return found
            time.sleep(min(LOOK_EVERY, left))

    def halt(self) -> None:
        self._tender.over = True  # it writes that down

    def close(self) -> None:
        self._tender.stop()  # where Slurm is away the jobs end by what it wrote
        with suppress(OSError):
            put(self._folder / "jobs.json", {"name": self._queue.name, "slots": {}})
        with suppress(NotAnswering):
            self._queue.cancel_all()

    # ---- jobs ------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Use what is left of an earlier session's jobs where they are what is asked for now, end the others."""
        try:
            alive = {job: state for job, state in self._queue.states().items() if state.name not in OVER}
            known = (get(self._folder / "jobs.json") or {}).get("slots", {})
            for index, slot in enumerate(self._slots):
                entry = known.get(str(index), {})
                state = alive.get(entry.get("job", ""))
                if state and state.name in USABLE and entry["asked"] == self._queue.asked:
                    slot.job, slot.ours, slot.heard = entry["job"], False, time.monotonic()
            kept = {slot.job for slot in self._slots if slot.job}
            self._queue.cancel(alive.keys() - kept)
        except NotAnswering as error:
            raise UserError(f"launcher=slurm: Slurm does not answer: {error}") from error
        # a job that waits in the queue has no process that could write
        self._old = {job for job, state in alive.items() if job not in kept or state.name != "PENDING"}
        self._start([index for index, slot in enumerate(self._slots) if not slot.job])

    def _start(self, slots: list[int]) -> None:
        """A job for each of the slots. Raises UserError."""
        jobs = self._queue.submit([Job(self._folder, i, self._handler, self._alone) for i in slots])
        self._submitted = time.monotonic()
        for index, job in zip(slots, jobs, strict=True):
            old = self._slots[index]
            self._slots[index] = Slot(old.folder, job, asked=time.monotonic(), failures=old.failures)
        self._record()

    def _replace(self, found: Found) -> None:
        """A job for every slot that has lost its own. Raises UserError where none is left and Slurm refuses."""
        lost = [i for i, slot in enumerate(self._slots) if not (slot.job or slot.retired or self._tender.over)]
        try:
            if lost:
                self._start(lost)
            self._refusals = 0
        except UserError as error:
            self._refusals += 1
            if self._refusals >= TRIES and not any(slot.job for slot in self._slots):
                raise
            found.append((0, {"kind": "note", "text": str(error).splitlines()[0]}))

    def _record(self) -> None:
        """Which job a slot has, for the next session and for ``embsearch status``."""
        slots = {
            str(i): {"job": s.job, "asked": self._queue.asked, "state": s.state and s.state._asdict()}
            for i, s in enumerate(self._slots)
        }
        put(self._folder / "jobs.json", {"name": self._queue.name, "slots": slots})

    def _take_states(self, found: Found) -> None:
        """What squeue said, once: jobs that are gone are told as deaths and replaced."""
        if (seen := self._tender.take()) is not None:
            asked, states = seen
            before = [slot.state for slot in self._slots]
            for index, slot in enumerate(self._slots):
                if slot.job and slot.asked < asked:
                    slot.state = states.get(slot.job)
                    self._judge(index, slot, asked, found)
            over = {job for job in self._old if job not in states or states[job].name in (*OVER, "PENDING")}
            self._old -= over
            self._cancel_strays(asked, states)
            if [slot.state for slot in self._slots] != before:
                self._record()
            self._replace(found)
        if not found and not self._tender.over:
            self._note(found)

    def _cancel_strays(self, asked: float, states: dict[str, State]) -> None:
        """A job of ours that no slot has: sbatch gave up waiting for an answer, but was heard."""
        alive = {job for job, state in states.items() if state.name not in OVER}
        strays = alive - self._old - {slot.job for slot in self._slots}
        if strays and self._submitted < asked and not self._tender.over:
            with suppress(NotAnswering):
                self._queue.cancel(strays)

    def _note(self, found: Found) -> None:
        """Where the workers are, said once and when it changes."""
        text = words(self._slots, self._old)
        if self._tender.away:
            text = f"Slurm does not answer ({self._tender.away}); what runs goes on"
        if text not in ("", self._noted):
            self._noted = text
            found.append((0, {"kind": "note", "text": text}))

    def _judge(self, index: int, slot: Slot, asked: float, found: Found) -> None:
        if slot.state is None or slot.state.name in OVER:
            self._gone(index, slot, found)
        elif slot.state.name != "RUNNING":
            slot.heard = time.monotonic()  # suspended, or in the queue once more
            if slot.state.name == "PENDING" and slot.since < asked:
                self._look(index, slot, found, last=True)
                self._died(slot, index, f"job {slot.job} was requeued by Slurm", found)
                slot.ready = False
        elif slot.task is not None and not slot.hung and time.monotonic() - slot.heard > self._timeout:
            with suppress(NotAnswering):  # else at the next look
                self._queue.cancel([slot.job])
                slot.hung = True  # told as a death when the job is gone

    def _gone(self, index: int, slot: Slot, found: Found) -> None:
        """The slot's job has ended. Raises UserError where that is no accident any more."""
        self._look(index, slot, found, last=True)
        how = f"job {slot.job} {slot.state.name if slot.state else 'is no longer in squeue'}"
        end = self._queue.tail(slot.job)
        self._died(slot, index, f"{how}; {end}", found)
        slot.failures += slot.ours and not slot.served
        slot.job, slot.ready = "", False
        if TIMED_OUT in end:
            slot.retired = True
            if all(s.retired for s in self._slots):
                raise UserError(
                    "launcher=slurm: every job has met its time limit as often as launcher.requeues allows; the same "
                    "command goes on with the study"
                )
        elif slot.failures >= TRIES:
            raise UserError(
                f"launcher=slurm: {TRIES} jobs of slot {index} ended before their worker was ready; the last one: "
                f"{how}; {end}"
            )

    # ---- messages --------------------------------------------------------------------------

    def _look(self, index: int, slot: Slot, found: Found, last: bool = False) -> None:
        """Read what the slot's process wrote, and whether another one works for it now."""
        now = time.monotonic()
        self._read(index, slot, found)
        if not last and now - slot.looked < CARD_EVERY:
            return
        slot.looked = now
        card = get(slot.folder / "worker.json")
        if card is None or card.get("job") != slot.job or card["token"] == slot.token:
            return
        self._read(index, slot, found)  # the last words of the one before
        self._died(slot, index, f"job {slot.job} was requeued and runs on {card['node']} now", found)
        for path in slot.folder.glob("*.jsonl"):
            if path.stem != card["token"]:
                path.unlink(missing_ok=True)
        slot.token, slot.ready, slot.since = card["token"], False, 0.0
        slot.letters = Letters(slot.folder / f"{slot.token}.jsonl")
        self._read(index, slot, found)

    def _read(self, index: int, slot: Slot, found: Found) -> None:
        for letter in slot.letters.new():
            if letter["session"] == self._tender.session:
                self._hear(index, slot, letter["message"], found)

    def _hear(self, index: int, slot: Slot, message: Message, found: Found) -> None:
        slot.heard = time.monotonic()
        kind = message["kind"]
        if kind == "bye":
            slot.ready = False
            self._died(slot, index, f"job {slot.job}: {message['why']}", found)
            return
        if kind == "ready":
            slot.ready = slot.served = True
            slot.since, slot.failures = slot.heard, 0
            self._old.discard(slot.job)
        elif slot.task is None:
            return  # of a task whose end was told
        elif kind in ENDS:
            slot.task, slot.ready = None, kind != "halted"
        found.append((index, message))

    def _died(self, slot: Slot, index: int, how: str, found: Found) -> None:
        """The end of the task at hand, where there is one, by the end of its process."""
        if slot.task is not None:
            slot.task = None
            put(slot.folder / "task.json", {})  # should its process live, behind a network that is away: it ends
            how = f"gave no sign of life for {self._timeout:g} s: {how}" if slot.hung else how
            failure = "hung" if slot.hung else "killed"
            found.append((index, {"kind": "died", "failure": failure, "message": f"worker {index}: {how}"}))
