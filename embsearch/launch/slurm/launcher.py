"""Workers that are Slurm jobs: a slot is a job, asked for once and kept warm for much work.

The coordinator, on a login node, and the jobs share a folder. A slot's folder in it has
``task.json``, written here; ``worker.json``, which names the process that works for the slot now;
and one file of messages a process. Pre-emption gives a slot another process, a death gives it
another job. The coordinator after one that was killed finds its jobs by their name: those that it
can use halt and answer to its new session, the others are cancelled, and until every process of the
session before has answered or is gone no slot is idle.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from embsearch.errors import UserError
from embsearch.launch import base
from embsearch.launch.base import Note, Ready, encode
from embsearch.launch.pool import TRIES, Alive, Event, Gone, Pool
from embsearch.launch.slurm.heartbeat import LOOK_EVERY, Heartbeat
from embsearch.launch.slurm.job import Job
from embsearch.launch.slurm.mailbox import get, put
from embsearch.launch.slurm.queue import OVER, NotAnswering, Queue, State
from embsearch.launch.slurm.worker import WorkerJob, describe

SQUEUE_EVERY = 5.0  # seconds between questions to Slurm's controller, which all users share

# Jobs without a coordinator end after so many seconds. A login node that swaps, or a file server
# that moves, is back within minutes; what a coordinator that never comes back costs is this much of
# every job's allocation.
ALONE = 300.0

# States of an earlier session's jobs that can be used; not SUSPENDED.
USABLE = ("CONFIGURING", "COMPLETING", "PENDING", "RUNNING")

TIMED_OUT = "timed-out too many times"  # submitit's words in the log of a job it does not requeue


class Jobs:
    """The way to ``workers`` jobs with the name of ``queue``, by files in ``folder``.

    ``handler``: "module:function" that makes what answers jobs. ``alone``: seconds that a job stays
    without its coordinator. ``squeue_every``: seconds between two questions to Slurm.
    """

    queues_jobs = False

    def __init__(
        self,
        folder: Path,
        queue: Queue,
        workers: int,
        handler: str,
        alone: float,
        squeue_every: float,
    ) -> None:
        self.folder, self.queue, self._handler, self._alone = folder, queue, handler, alone
        self._number = 0  # of the work that was sent last
        self._noted = ""
        self._refusals = 0  # of sbatch, one after another
        self._refused: list[Note] = []  # what it said, to be told
        self._submitted = 0.0  # when sbatch was called last
        self._asked = 0.0  # when squeue was asked what it answered last
        self._old: set[str] = set()  # jobs of an earlier session that may have a process
        self.workers = [WorkerJob(i, folder / str(i)) for i in range(workers)]
        for worker in self.workers:
            worker.folder.mkdir(parents=True, exist_ok=True)
            for path in (worker.folder / "task.json", worker.folder / "worker.json"):
                # Over NFS a name that was not there once may seem so for a minute.
                if not path.exists():
                    put(path, {})
        # Before squeue is asked for the first time: a job that starts from here on sees it.
        self._heartbeat = Heartbeat(folder, queue, squeue_every)
        try:
            self._adopt()
        except BaseException:
            self.close()
            raise
        self._heartbeat.start()

    # ---- what the pool asks ----------------------------------------------------------------

    @property
    def blocked(self) -> bool:
        return bool(self._old)

    def start(self, slots: Sequence[int]) -> list[int]:
        """Submit a job for each slot. Raises UserError where none is left and Slurm refuses."""
        slots = [index for index in slots if not self.workers[index].retired]
        if not slots:
            return []
        try:
            self._submit(slots)
        except UserError as error:
            self._refusals += 1
            if self._refusals >= TRIES and not any(worker.job for worker in self.workers):
                raise
            self._refused.append(Note(str(error).splitlines()[0]))
            return []
        self._refusals = 0
        return slots

    def send(self, slot: int, job: base.Job) -> None:
        worker = self.workers[slot]
        self._number += 1
        letter = {"to": worker.token, "session": self._heartbeat.session, "number": self._number}
        put(worker.folder / "task.json", {**letter, "job": encode(job)})

    def receive(self, timeout: float) -> list[tuple[int, Event]]:
        events: list[tuple[int, Event]] = [(0, note) for note in self._refused]
        self._refused.clear()
        for worker in self.workers:
            events += self._look(worker)
        seen = self._heartbeat.take()
        if seen is not None:
            events += self._take_states(*seen)
        if not events and not self._heartbeat.over:
            events += [(0, note) for note in self._note()]
        if not events:
            time.sleep(min(LOOK_EVERY, timeout))
        return events

    def kill(self, slot: int, why: str) -> bool:
        """Cancel the slot's job, once for each answer of squeue that says it runs."""
        worker = self.workers[slot]
        running = worker.state is not None and worker.state.name == "RUNNING"
        if not running or worker.tried == self._asked:
            return False
        worker.tried = self._asked
        try:
            self.queue.cancel([worker.job])
        except NotAnswering:
            return False
        worker.why = why
        return True

    def give_up(self, slot: int, others: bool) -> None:
        if self.workers[slot].retired:
            return
        raise UserError(
            f"launcher=slurm: {TRIES} jobs of slot {slot} ended before their worker was ready; "
            f"the last one: {self.workers[slot].how}"
        )

    def halt(self) -> None:
        self._heartbeat.over = True  # it writes that down

    def close(self) -> None:
        self._heartbeat.stop()  # where Slurm is away the jobs end by what it wrote
        with suppress(OSError):
            put(self.folder / "jobs.json", {"name": self.queue.name, "slots": {}})
        with suppress(NotAnswering):
            self.queue.cancel_all()

    # ---- jobs ------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Use what is left of an earlier session's jobs where they are what is asked for now, and
        end the others."""
        try:
            states = self.queue.states()
            alive = {job: state for job, state in states.items() if state.name not in OVER}
            known = (get(self.folder / "jobs.json") or {}).get("slots", {})
            for index, worker in enumerate(self.workers):
                entry = known.get(str(index), {})
                state = alive.get(entry.get("job", ""))
                if state and state.name in USABLE and entry["asked"] == self.queue.asked:
                    worker.job = entry["job"]
            kept = {worker.job for worker in self.workers if worker.job}
            self.queue.cancel(alive.keys() - kept)
        except NotAnswering as error:
            raise UserError(f"launcher=slurm: Slurm does not answer: {error}") from error
        # A job that waits in the queue has no process that could write.
        self._old = {j for j, state in alive.items() if j not in kept or state.name != "PENDING"}
        self._submit([index for index, worker in enumerate(self.workers) if not worker.job])

    def _submit(self, slots: Sequence[int]) -> None:
        """Submit a job for each of the slots. Raises UserError."""
        jobs = self.queue.submit([Job(self.folder, i, self._handler, self._alone) for i in slots])
        self._submitted = time.monotonic()
        for index, job in zip(slots, jobs, strict=True):
            folder = self.workers[index].folder
            self.workers[index] = WorkerJob(index, folder, job, asked=time.monotonic())
        self._record()

    def _record(self) -> None:
        """Write down which job a slot has: for the next session and for ``embsearch status``."""
        slots = {}
        for index, worker in enumerate(self.workers):
            state = worker.state and worker.state._asdict()
            slots[str(index)] = {"job": worker.job, "asked": self.queue.asked, "state": state}
        put(self.folder / "jobs.json", {"name": self.queue.name, "slots": slots})

    def _take_states(self, asked: float, states: dict[str, State]) -> list[tuple[int, Event]]:
        """Return what an answer of squeue, asked for at ``asked``, says of the workers."""
        self._asked = asked
        before = [worker.state for worker in self.workers]
        events: list[tuple[int, Event]] = []
        for worker in self.workers:
            if worker.job and worker.asked < asked:
                worker.state = states.get(worker.job)
                events += self._judge(worker, asked)
        for job in list(self._old):
            if job not in states or states[job].name in (*OVER, "PENDING"):
                self._old.discard(job)
        self._cancel_strays(asked, states)
        if [worker.state for worker in self.workers] != before:
            self._record()
        return events

    def _look(self, worker: WorkerJob, now: bool = False) -> Iterator[tuple[int, Event]]:
        """Yield what came of a worker, as ``WorkerJob.look`` does."""
        for event in worker.look(self._heartbeat.session, now):
            if isinstance(event, Ready):
                self._old.discard(worker.job)  # its process works for this session now
            yield worker.index, event

    def _judge(self, worker: WorkerJob, asked: float) -> Iterator[tuple[int, Event]]:
        """Yield what the state of a worker's job means."""
        if worker.state is None or worker.state.name in OVER:
            yield from self._end(worker)
        elif worker.state.name != "RUNNING":
            yield worker.index, Alive()  # suspended, or in the queue once more
            if worker.state.name == "PENDING" and worker.since < asked:
                yield from self._look(worker, now=True)
                if worker.ready:
                    yield worker.index, worker.left(f"job {worker.job} was requeued by Slurm")

    def _end(self, worker: WorkerJob) -> Iterator[tuple[int, Event]]:
        """Yield the end of a worker's job. Raises UserError where no job may come any more."""
        yield from self._look(worker, now=True)
        state = worker.state.name if worker.state else "is no longer in squeue"
        tail = self.queue.tail(worker.job)
        worker.how = f"job {worker.job} {state}; {tail}"
        left = worker.left(worker.how)
        worker.job = ""
        worker.retired = TIMED_OUT in tail
        yield worker.index, Gone(left.message)
        if all(one.retired for one in self.workers):
            raise UserError(
                "launcher=slurm: every job has met its time limit as often as launcher.requeues "
                "allows; the same command goes on with the study"
            )

    def _cancel_strays(self, asked: float, states: dict[str, State]) -> None:
        """Cancel jobs of ours that no slot has: sbatch gave up on an answer, but was heard."""
        alive = {job for job, state in states.items() if state.name not in OVER}
        strays = alive - self._old - {worker.job for worker in self.workers}
        if strays and self._submitted < asked and not self._heartbeat.over:
            with suppress(NotAnswering):
                self.queue.cancel(strays)

    def _note(self) -> Iterator[Note]:
        """Yield where the workers are, once and when it changes."""
        text = describe(self.workers, self._old)
        if self._heartbeat.away:
            text = f"Slurm does not answer ({self._heartbeat.away}); what runs goes on"
        if text not in ("", self._noted):
            self._noted = text
            yield Note(text)


class Slurm(Pool):
    """``workers`` jobs with the name of ``queue``; the rest as ``Jobs`` and ``Pool`` say."""

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
        super().__init__(
            Jobs(folder, queue, workers, handler, alone, squeue_every), workers, timeout
        )
