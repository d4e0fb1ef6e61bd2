"""A worker inside a Slurm job: it takes its jobs from a folder, and gives way.

submitit pickles a ``Job`` and calls it on the node. Slurm announces the time limit by SIGUSR2
(submitit asks for it with ``--signal=USR2@90``; ``SUBMITIT_PREEMPT_SIGNAL`` names another);
submitit's handler then calls ``checkpoint`` and requeues the job. Pre-emption, ``scontrol requeue``
and ``scancel`` begin with SIGTERM. Both end the work at hand with its checkpoint saved. Signal
handlers run in the main thread, so the worker runs in another.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import uuid
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from embsearch.codec import JsonObject
from embsearch.launch.base import Ending, Message, Ready, encode
from embsearch.launch.handler import Handler, answers
from embsearch.launch.slurm.mailbox import append, get, put

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

JOB_EVERY = 0.1  # seconds between looks for work: what a segment waits at most
LOOK_EVERY = 1.0  # seconds between looks at the coordinator, also while training
SAVE = 60.0  # seconds that a checkpoint may take of the 90 between SIGUSR2 and the time limit


class Job:
    """A worker of ``slot`` in ``folder``, where its coordinator is.

    ``handler``: "module:function" that makes what answers jobs, as worker.begin. ``patience``:
    seconds without a coordinator after which it ends.
    """

    def __init__(self, folder: Path, slot: int, handler: str, patience: float) -> None:
        self.folder, self.slot, self.handler, self.patience = folder, slot, handler, patience
        self._worker: JobWorker | None = None

    def __call__(self) -> None:
        """Work until somebody says that it is over."""
        self._worker = JobWorker(self.folder, self.slot, self.handler, self.patience)
        self._worker.work()

    def checkpoint(self) -> DelayedSubmission:
        """Return what the requeued job runs, once the work at hand has been halted.

        Called by submitit on SIGUSR2.
        """
        from submitit.core.utils import DelayedSubmission

        if self._worker is not None:
            self._worker.leave("SIGUSR2: the time limit is near, or another job needs the place")
        return DelayedSubmission(Job(self.folder, self.slot, self.handler, self.patience))


class JobWorker:
    """One process that works for a slot. Its token tells it from those before it in the job."""

    def __init__(self, folder: Path, slot: int, handler: str, patience: float) -> None:
        self._coordinator, self._folder = folder / "coordinator.json", folder / str(slot)
        self._name, self._patience = handler, patience
        self._token = uuid.uuid4().hex
        self._lock = threading.RLock()  # a signal handler may interrupt the thread that holds it
        self._wanted = ""  # the session of the coordinator that is there
        self._session = ""  # and the one that is worked for
        self._busy: tuple[str, int] | None = None  # session and number of the work at hand
        self._beat, self._beaten = -1, time.monotonic()
        self._ending = ""  # why it ends
        self._handler: Handler | None = None
        self._fault: BaseException | None = None  # that the worker raised
        self._thread = threading.Thread(target=self._serve, name="worker", daemon=True)

    def work(self) -> None:
        """Serve until the end, looking out for the coordinator. Raises what the worker raised."""
        why = "SIGTERM: cancelled or pre-empted"
        signal.signal(signal.SIGTERM, lambda number, frame: self._end(why))
        (self._folder / f"{self._token}.jsonl").touch(exist_ok=False)
        card = {"token": self._token, "job": job_id(), "node": socket.gethostname()}
        put(self._folder / "worker.json", card)
        self._look()
        self._thread.start()
        while self._thread.is_alive():
            self._thread.join(LOOK_EVERY)
            self._look()
        if self._fault is not None:
            raise self._fault

    def leave(self, why: str) -> None:
        """End, and wait until the work at hand has ended."""
        self._end(why)
        if self._thread.is_alive():
            self._thread.join(SAVE)

    # ---- the main thread -------------------------------------------------------------------

    def _look(self) -> None:
        """See whether the work at hand is still wanted, and whether a coordinator is there."""
        self._exit_if_given_up()
        found = get(self._coordinator)
        if found is not None and (found["session"], found["beat"]) != (self._wanted, self._beat):
            self._beat, self._beaten = found["beat"], time.monotonic()  # its clock may not be ours
            with self._lock:
                self._wanted = found["session"]
                if self._handler is not None and self._wanted != self._session:
                    self._handler.halting = True  # for a coordinator that is gone
        if found is not None and found["over"]:
            self._end("the coordinator asked for it")
        elif time.monotonic() - self._beaten > self._patience:
            self._end(f"no sign of a coordinator for {self._patience:g} s")

    def _exit_if_given_up(self) -> None:
        """End this process where another one has its work: checkpoints are not ours to write."""
        card = get(self._folder / "worker.json")
        if card is not None and card["token"] != self._token:
            # Slurm took this node for lost and started the job elsewhere.
            print(f"another process works for {self._folder}; this one ends", flush=True)
            os._exit(1)
        letter = get(self._folder / "task.json")
        if not self._busy or letter is None:
            return
        if self._busy != (letter.get("session"), letter.get("number")):
            why = "the task at hand was given up here and goes out elsewhere"
            print(f"{why}; this process ends", flush=True)
            os._exit(1)

    def _end(self, why: str) -> None:
        with self._lock:
            first, self._ending = not self._ending, self._ending or why
            if self._handler is not None:
                self._handler.halting = True
        if first:
            print(why, flush=True)

    # ---- the worker's thread ---------------------------------------------------------------

    def _serve(self) -> None:
        try:
            handler = resolve_name(self._name)(self._say)
            with self._lock:
                self._handler = handler
            self._work(handler)
            self._write({"bye": self._ending})
        except BaseException as error:
            self._fault = error

    def _work(self, handler: Handler) -> None:
        done = 0
        while not self._ending:
            if self._new_session(handler):
                self._say(Ready())
                done = 0
            letter = get(self._folder / "task.json") or {}
            mine = letter.get("to") == self._token and letter["session"] == self._session
            if not mine or letter["number"] <= done:
                time.sleep(JOB_EVERY)
                continue
            done = letter["number"]
            self._busy = letter["session"], done
            for message in answers(handler, letter["job"]):
                if isinstance(message, Ending):
                    self._busy = None  # before it is said: the next one may come at once
                self._say(message)

    def _new_session(self, handler: Handler) -> bool:
        """Return whether there is another coordinator to work for than before."""
        with self._lock:
            if self._ending or self._wanted == self._session:
                return False
            self._session, handler.halting = self._wanted, False
            return True

    def _say(self, message: Message) -> None:
        self._write({"message": encode(message)})

    def _write(self, letter: JsonObject) -> None:
        append(self._folder / f"{self._token}.jsonl", {"session": self._session, **letter})


def job_id() -> str:
    """Return the job as squeue shows it: an element of an array is 12_3."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
