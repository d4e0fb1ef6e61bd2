"""Workers as actors on a Ray cluster: one that runs, or a new one on this machine.

Each slot is one long-lived actor that trains many trials. A slot is idle once its actor has come up: on a cluster
that grows, or is full, actors wait and the study goes on with those it has. Where all machines see the study's
folder, checkpoints lie there; else files travel through Ray's object store (launch/ray/parcels.py).
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from embsearch.errors import UserError
from embsearch.launch.base import ENDS, Message, Task
from embsearch.launch.ray.actor import Actor
from embsearch.launch.ray.cluster import NAMESPACE, Room, connected, disconnect, free, reason
from embsearch.launch.ray.parcels import HOME_EVERY, Packer, bring

LONG_POLL = 10.0  # seconds that an actor waits for news before it answers that there are none
LOOK = 0.5  # seconds between two looks at whether to halt, or what waits
PENDING = 10.0  # seconds between two looks at what waits for room: an actor alone comes up sooner
NEVER_READY = 3  # workers in a row that ended before they were ready: more would end the same way


@dataclass
class Slot:
    """An actor, when it was last heard of, and the task it has."""

    actor: Any
    lease: Path
    asking: Any  # the news it was asked for; None: it has halted and ended, or waits to be tried again
    heard: float
    failures: int = 0  # of its actors, one after another, that ended before they were ready
    host: str = ""  # empty until it is ready
    shared: bool = True
    task: Task | None = None
    holds: str = ""  # the trial's folder whose newest files it has


class Ray:
    """``workers`` actors, each in its ``room``, on the cluster that this process has joined (``connect``).

    ``handler``: module:function that makes what answers tasks. ``folder``: for files of this launcher; one
    coordinator at a time has it. ``home_id``: tells it from a folder of that name on another machine. ``files``:
    auto, shared or store, as ``launcher.files``. ``note``: a first line for whoever watches. ``leave``: leave the
    cluster on closing. Raises UserError where workers of an earlier run stay.
    """

    def __init__(
        self,
        handler: str,
        workers: int,
        room: Room,
        folder: Path,
        *,
        home_id: str = "",
        files: str = "auto",
        timeout: float = 3600.0,
        note: str = "",
        leave: bool = True,
        home_every: float = HOME_EVERY,
    ) -> None:
        self._handler, self._room, self._files, self._timeout = handler, room, files, timeout
        self._key = hashlib.sha256(f"{home_id} {folder}".encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        for older in (*folder.glob("seal-*"), *folder.glob("lease-*")):
            older.unlink(missing_ok=True)
        self._folder, self._seal = folder, folder / f"seal-{time.time_ns()}"
        self._seal.touch()
        self._packer = Packer(ray.put)
        self._halting = self._told = False
        self._leave, self._home_every = leave, home_every
        self._notes: list[Message] = [{"kind": "note", "text": note}] if note else []
        self._said, self._looked = "", time.monotonic()
        self._end_older()
        self._slots = [self._start(index) for index in range(workers)]

    @property
    def workers(self) -> int:
        return len(self._slots)

    @property
    def idle(self) -> list[int]:
        return [i for i, s in enumerate(self._slots) if s.host and s.task is None and not self._halting]

    def submit(self, slot: int, task: Task) -> None:
        worker = self._slots[slot]
        if not worker.host or worker.task is not None:
            raise RuntimeError(f"slot {slot} is not idle")
        parcels = [] if worker.shared else self._packer.pack(task, worker.holds)
        for other in self._slots:  # what they have of that trial will be old
            if other.holds == task.get("folder", ""):
                other.holds = ""
        worker.task, worker.heard, worker.holds = task, time.monotonic(), ""
        with suppress(RayError), connected():  # a dead worker: the news it was asked for will say so
            worker.actor.begin.remote(task, parcels)

    def wait(self, timeout: float) -> list[tuple[int, Message]]:
        with connected():
            return self._wait(timeout)

    def _wait(self, timeout: float) -> list[tuple[int, Message]]:
        found: list[tuple[int, Message]] = []
        until = time.monotonic() + timeout
        while not found and (left := until - time.monotonic()) > 0:
            if self._halting and not self._told:
                self._told = True
                for slot in self._slots:
                    with suppress(RayError):
                        slot.actor.halt.remote()
            asked = {slot.asking: index for index, slot in enumerate(self._slots) if slot.asking is not None}
            for news in _ready(list(asked), min(left, LOOK)):
                self._take(found, asked[news])
            self._end_hung(found)
            self._start_again()
            self._note_waiting()
            found += [(-1, note) for note in self._notes]
            self._notes.clear()
        return found

    def halt(self) -> None:
        self._halting = True  # said by ``wait``: a signal handler may be inside any call of Ray's

    def close(self) -> None:
        for slot in self._slots:
            with suppress(RayError, ConnectionError):
                if slot.host and slot.task is None:
                    ray.wait([slot.actor.leave.remote()], timeout=1.0)
                ray.kill(slot.actor)
            slot.lease.unlink(missing_ok=True)
        self._seal.unlink(missing_ok=True)
        if self._leave:
            disconnect()

    # ---- news ----------------------------------------------------------------------------------

    def _take(self, found: list[tuple[int, Message]], index: int) -> None:
        slot = self._slots[index]
        try:
            said = ray.get(slot.asking)
        except RayError as error:
            found.append((index, self._replace(index, "killed", reason(error))))
            return
        slot.asking = slot.actor.take.remote(LONG_POLL)
        for message in said:
            slot.heard = time.monotonic()
            bring(message.pop("files", {}))
            if message["kind"] == "ready":
                message = self._ready(slot, message)
            elif message["kind"] in ENDS:
                if message["kind"] in ("measured", "halted") and slot.task is not None:
                    slot.holds = slot.task.get("folder", "")
                slot.task = None
            found.append((index, message))

    def _ready(self, slot: Slot, message: Message) -> Message:
        from embsearch import __version__

        if message["version"] != __version__:
            raise UserError(
                f"launcher=ray: {message['host']} has embsearch {message['version']}, this machine {__version__}; "
                "install the same version on every node"
            )
        slot.shared = {"auto": message["shared"], "shared": True, "store": False}[self._files]
        if self._files == "shared" and not message["shared"]:
            raise UserError(
                f"launcher.files=shared: {message['host']} does not see {self._seal.parent}; set home to a folder "
                "that all nodes see under the same path, or launcher.files=store"
            )
        slot.host, slot.failures = message["host"], 0
        return {"kind": "ready"}

    def _end_hung(self, found: list[tuple[int, Message]]) -> None:
        for index, slot in enumerate(self._slots):
            if slot.task is not None and time.monotonic() - slot.heard > self._timeout:
                how = f"gave no sign of life for {self._timeout:g} s and was killed"
                found.append((index, self._replace(index, "hung", how)))

    def _replace(self, index: int, failure: str, how: str) -> Message:
        slot = self._slots[index]
        slot.lease.unlink(missing_ok=True)
        with suppress(RayError):
            ray.kill(slot.actor)
        idle, where = slot.task is None, f" on {slot.host}" if slot.host else ""
        failures = 0 if slot.host else slot.failures + 1
        slot.task, slot.host, slot.asking = None, "", None
        if failures >= NEVER_READY and not any(other.host for other in self._slots):
            raise UserError(
                f"launcher=ray: {NEVER_READY} workers in a row ended before they were ready; the last: {how}\n"
                "every node needs this version of embsearch[ray], and room for a worker's memory"
            )
        slot.failures, slot.heard = failures, time.monotonic()
        self._start_again()
        return {"kind": "died", "failure": failure, "message": f"worker {index}{where} {how}", "idle": idle}

    def _start_again(self) -> None:
        """An actor for every slot that has none; where several could not start, a minute later."""
        for index, slot in enumerate(self._slots):
            pause = 60.0 if slot.failures >= NEVER_READY else 0.0
            if slot.asking is None and not self._halting and time.monotonic() - slot.heard >= pause:
                self._slots[index] = self._start(index, slot.failures)

    def _note_waiting(self) -> None:
        """Say, when it has changed, how many workers wait for room on the cluster."""
        if time.monotonic() - self._looked < PENDING or self._halting:
            return
        self._looked = time.monotonic()
        waiting = sum(not slot.host for slot in self._slots)
        text = ""
        if waiting:
            up = f"{len(self._slots) - waiting} of {len(self._slots)} workers are up"
            text = f"Ray: {up}, each takes {self._room}; free: {free(self._room)}"
        if text != self._said and (text or self._said):
            self._notes.append({"kind": "note", "text": text or f"Ray: all {len(self._slots)} workers are up"})
        self._said = text

    # ---- actors --------------------------------------------------------------------------------

    def _start(self, index: int, failures: int = 0) -> Slot:
        name = f"{self._key}/{index}/{time.time_ns()}"
        actor = ray.remote(Actor).options(name=name, namespace=NAMESPACE, max_concurrency=8, **self._room.options())
        room = self._room
        desk = name.replace("/", "-")
        lease = self._folder / f"lease-{desk}"
        lease.touch()
        words = (str(self._seal), str(lease), self._key, desk)
        made: Any = actor.remote(self._handler, room.threads, room.sharers, *words, self._home_every)
        return Slot(made, lease, made.take.remote(LONG_POLL), time.monotonic(), failures)

    def _end_older(self) -> None:
        """Actors of a coordinator of this folder that was killed: Ray ends them with it, and two must never train one
        trial. Raises UserError where they stay."""
        until = time.monotonic() + 60.0
        while older := [a["name"] for a in ray.util.list_named_actors(all_namespaces=True)
                        if a["namespace"] == NAMESPACE and a["name"].startswith(f"{self._key}/")]:  # fmt: skip
            for name in older:
                with suppress(ValueError, RayError):
                    ray.kill(ray.get_actor(name, namespace=NAMESPACE))
            if time.monotonic() > until:
                raise UserError(f"launcher=ray: workers of an earlier run are still there ({', '.join(older)}); "
                                "'ray list actors' shows them, end them and run the same command again")  # fmt: skip
            time.sleep(0.2)


def _ready(asked: list[Any], seconds: float) -> list[Any]:
    """Those that have come; the first is waited for."""
    if not asked:
        time.sleep(seconds)
        return []
    done, _ = ray.wait(asked, num_returns=1, timeout=seconds)
    if done:
        done, _ = ray.wait(asked, num_returns=len(asked), timeout=0)
    return list(done)
