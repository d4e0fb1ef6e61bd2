"""A worker inside a Ray actor, on whatever machine Ray has room for it.

The handler works in a thread of its own, so that the actor can always be asked for news (``take``)
or told to halt. Nothing here imports torch: Ray pickles the class by its name and imports this file
on the other machine.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pkgutil
import queue
import shutil
import socket
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import embsearch
from embsearch.codec import JsonObject
from embsearch.launch.base import Ending, Failed, Job, Message, Ready, decode_job, encode
from embsearch.launch.environment import worker_environment
from embsearch.launch.handler import Handler, answers
from embsearch.launch.ray.parcels import Files, Parcel, RemoteWorkspace


class Actor:
    """A worker, in the process that Ray has started for it.

    ``handler``: module:function that makes what answers jobs, as worker.begin. ``seal``: a file
    that only machines see which share the study's folder. ``lease``: one that goes when this worker
    was given up, who must not write there any more. Where they do not: ``study`` and ``own``, names
    for folders of all workers of a study and of this one; ``every``, seconds between two
    checkpoints that go home.
    """

    def __init__(
        self,
        handler: str,
        threads: int,
        sharers: int,
        seal: str,
        lease: str,
        study: str,
        own: str,
        every: float,
    ) -> None:
        os.environ |= worker_environment(threads, sharers)
        self._shared = Path(seal).exists()
        self._root = Path(tempfile.gettempdir()) / f"embsearch-{os.getuid()}" / study
        self._place, self._lease = self._root / own, Path(lease)
        self._held = self._hold()
        self._clear_others()
        self._workspace = RemoteWorkspace(self._root / "shelf", self._place, _fetch, every)
        self._jobs: queue.SimpleQueue[tuple[JsonObject, list[Parcel]]] = queue.SimpleQueue()
        self._said: list[JsonObject] = []
        self._news = threading.Condition()
        self._handler: Handler | None = None
        self._halting, self._broken = False, ""
        threading.Thread(target=self._work, args=(handler,), daemon=True).start()

    # ---- what the coordinator calls ------------------------------------------------------------

    def begin(self, job: JsonObject, parcels: list[Parcel]) -> None:
        """Start a job; without parcels its paths are this machine's too."""
        self._jobs.put((job, parcels))

    def take(self, seconds: float) -> list[JsonObject]:
        """Return what was said since, waiting for the first word.

        Raises RuntimeError where the worker could not start.
        """
        with self._news:
            self._news.wait_for(lambda: self._said or self._broken, seconds)
            said, self._said = self._said, []
        if self._broken and not said:
            raise RuntimeError(self._broken)
        return said

    def halt(self) -> None:
        """Save a checkpoint after this step, end the job, take no more."""
        self._halting = True
        if self._handler is not None:
            self._handler.halting = True

    def leave(self) -> None:
        """Clear this worker's own folder away, and with the last one here everything."""
        shutil.rmtree(self._place, ignore_errors=True)
        if not self._clear_others():
            shutil.rmtree(self._root, ignore_errors=True)

    def _hold(self) -> TextIO:
        """Return the lock of this worker's own folder, held until this process is no more."""
        while True:
            self._place.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # one that starts just now took it for left over
                file = (self._place / "lock").open("w")
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(file.fileno()), (self._place / "lock").stat()):
                    return file

    def _clear_others(self) -> int:
        """Remove folders of workers that are no more, and return how many are in use."""
        used = 0
        for lock in self._root.glob("*/lock"):
            with suppress(OSError), lock.open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(lock.parent, ignore_errors=True)
                except BlockingIOError:
                    used += 1
        return used

    # ---- its thread ----------------------------------------------------------------------------

    def _work(self, name: str) -> None:
        try:
            handler = pkgutil.resolve_name(name)(self._on_the_way)
        except BaseException:  # SystemExit too: nobody else would tell
            with self._news:
                self._broken = f"on {socket.gethostname()}: {traceback.format_exc()}"
                self._news.notify_all()
            return
        handler.halting = self._halting
        self._handler = handler
        self._say(
            Ready(),
            host=socket.gethostname(),
            version=embsearch.__version__,
            shared=self._shared,
        )
        while True:
            content, parcels = self._jobs.get()
            for message in self._answers(handler, content, parcels):
                ends = bool(parcels) and isinstance(message, Ending)
                self._say(message, **({"files": self._workspace.changed()} if ends else {}))

    def _answers(
        self, handler: Handler, content: JsonObject, parcels: list[Parcel]
    ) -> Iterator[Message]:
        """Yield the messages of a job, its files unpacked here."""

        def decode(content: JsonObject) -> Job:
            job = decode_job(content)
            return self._workspace.lay_out(job, parcels) if parcels else job

        try:
            yield from answers(handler, content, decode)
        except Exception as error:  # of unpacking
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            text, trace = f"{socket.gethostname()}: {error}", traceback.format_exc()
            yield Failed("disk_full" if full else "bug", text, trace)

    def _on_the_way(self, message: Message) -> None:
        """Tell what is said during a job.

        Called by the handler's thread between two steps: no file is being written.
        """
        if self._shared and not self._lease.exists():
            # Taken for lost, as behind a network that was away: another worker has the trial.
            os._exit(1)
        # A coordinator that is busy needs the newest files alone.
        waiting = any("files" in said for said in self._said)
        due = self._workspace.due() and not waiting
        self._say(message, **({"files": self._workspace.changed()} if due else {}))

    def _say(self, message: Message, **more: object) -> None:
        with self._news:
            self._said.append({"message": encode(message), **more})
            self._news.notify_all()


def _fetch(content: Any) -> Files:
    import ray

    return ray.get(content) if isinstance(content, ray.ObjectRef) else content
