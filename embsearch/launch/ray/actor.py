"""A worker inside a Ray actor, on whatever machine Ray has room for it.

The handler works in a thread of its own, so that the actor can always be asked for news (``take``) or told to
halt. Nothing here imports torch: Ray pickles the class by its name and imports this file on the other machine.
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
from contextlib import suppress
from pathlib import Path
from typing import Any

import embsearch
from embsearch.launch.base import ENDS, Message, Task
from embsearch.launch.environment import worker_environment
from embsearch.launch.ray.parcels import Desk, Parcel


class Actor:
    """``handler``: module:function that makes what answers tasks, as worker.begin; ``seal``: a file that only
    machines see which share the study's folder; ``lease``: one that goes when this worker was given up, who must not
    write there any more. Where they do not: ``shelf`` and ``desk``, words for folders of all workers of a study and
    of this one; ``every``, seconds between two checkpoints that go home."""

    def __init__(
        self, handler: str, threads: int, sharers: int, seal: str, lease: str, shelf: str, desk: str, every: float
    ) -> None:
        os.environ |= worker_environment(threads, sharers)
        self._shared = Path(seal).exists()
        self._root = Path(tempfile.gettempdir()) / f"embsearch-{os.getuid()}" / shelf
        self._place, self._lease = self._root / desk, Path(lease)
        self._held = self._hold()
        self._clear_others()
        self._desk = Desk(self._root / "shelf", self._place, _fetch, every)
        self._tasks: queue.SimpleQueue[tuple[Task, list[Parcel]]] = queue.SimpleQueue()
        self._said: list[Message] = []
        self._news = threading.Condition()
        self._handler: Any = None
        self._halting, self._broken = False, ""
        threading.Thread(target=self._work, args=(handler,), daemon=True).start()

    # ---- what the coordinator calls ------------------------------------------------------------

    def begin(self, task: Task, parcels: list[Parcel]) -> None:
        """Start a task; without parcels its paths are this machine's too."""
        self._tasks.put((task, parcels))

    def take(self, seconds: float) -> list[Message]:
        """What was said since, waiting for the first word. Raises RuntimeError where the worker could not start."""
        with self._news:
            self._news.wait_for(lambda: self._said or self._broken, seconds)
            said, self._said = self._said, []
        if self._broken and not said:
            raise RuntimeError(self._broken)
        return said

    def halt(self) -> None:
        """Save a checkpoint after this step, end the task, take no more."""
        self._halting = True
        if self._handler is not None:
            self._handler.halting = True

    def leave(self) -> None:
        """Clear this worker's own folder away, and with the last one here everything."""
        shutil.rmtree(self._place, ignore_errors=True)
        if not self._clear_others():
            shutil.rmtree(self._root, ignore_errors=True)

    def _hold(self) -> Any:
        """The lock of this worker's own folder, until this process is no more."""
        while True:
            self._place.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # one that starts just now took it for left over
                file = (self._place / "lock").open("w")
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(file.fileno()), (self._place / "lock").stat()):
                    return file

    def _clear_others(self) -> int:
        """Folders of workers that are no more go; how many are in use."""
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
            handler = pkgutil.resolve_name(name)()
        except BaseException:  # SystemExit too: nobody else would tell
            with self._news:
                self._broken = f"on {socket.gethostname()}: {traceback.format_exc()}"
                self._news.notify_all()
            return
        handler.outbox, handler.halting = self._on_the_way, self._halting
        self._handler = handler
        self._say({"kind": "ready", "host": socket.gethostname(), "version": embsearch.__version__,
                   "shared": self._shared})  # fmt: skip
        while True:
            task, parcels = self._tasks.get()
            try:
                local = self._desk.lay_out(task, parcels) if parcels else task
            except Exception as error:
                full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
                text, trace = f"{socket.gethostname()}: {error}", traceback.format_exc()
                failure = "disk_full" if full else "bug"
                self._say({"kind": "failed", "failure": failure, "message": text, "traceback": trace})
                continue
            for message in handler(local):
                ends = bool(parcels) and message["kind"] in ENDS
                self._say(message | ({"files": self._desk.changed()} if ends else {}))

    def _on_the_way(self, message: Message) -> None:
        """Called by the handler's thread between two steps: no file is being written."""
        if self._shared and not self._lease.exists():
            os._exit(1)  # taken for lost, as behind a network that was away: another worker has the trial
        waiting = any("files" in said for said in self._said)  # a coordinator that is busy needs the newest alone
        self._say(message | ({"files": self._desk.changed()} if self._desk.due() and not waiting else {}))

    def _say(self, message: Message) -> None:
        with self._news:
            self._said.append(message)
            self._news.notify_all()


def _fetch(content: Any) -> Any:
    import ray

    return ray.get(content) if isinstance(content, ray.ObjectRef) else content
