"""Workers as actors on a Ray cluster: one that runs, or a new one on this machine.

Each slot is one long-lived actor that trains many trials. A slot is idle once its actor has come
up: on a cluster that grows, or is full, actors wait and the study goes on with those it has. Where
all machines see the study's folder, checkpoints lie there; else files travel through Ray's object
store (launch/ray/parcels.py).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from embsearch.codec import JsonObject
from embsearch.errors import UserError
from embsearch.launch.base import (
    Halted,
    Job,
    Measured,
    Note,
    Ready,
    TrainJob,
    decode_message,
    encode,
)
from embsearch.launch.pool import TRIES, Event, Gone, Pool
from embsearch.launch.ray.actor import Actor
from embsearch.launch.ray.cluster import NAMESPACE, Room, connected, disconnect, free, reason
from embsearch.launch.ray.parcels import HOME_EVERY, FileShipper, bring

LONG_POLL = 10.0  # seconds that an actor waits for news before it answers that there are none
LOOK = 0.5  # seconds between two looks at whether to halt, or what waits
PENDING = 10.0  # seconds between two looks at what waits for room: a single actor is up sooner


@dataclass
class WorkerActor:
    """An actor, and what it has of the files that travel."""

    actor: Any
    lease: Path
    asking: Any  # the news that it was asked for; None: it has ended
    host: str = ""  # empty until it is ready
    shared: bool = True  # it sees the study's folder
    trains: str = ""  # the folder of the trial that it was given last
    holds: str = ""  # the trial's folder whose newest files it has
    how: str = ""  # it has ended so


class Actors:
    """The way to ``workers`` actors on the cluster that this process has joined (``connect``)."""

    queues_jobs = False
    blocked = False

    def __init__(
        self,
        handler: str,
        workers: int,
        room: Room,
        folder: Path,
        home_id: str,
        files: str,
        note: str,
        leave: bool,
        home_every: float,
    ) -> None:
        self._handler, self._room, self._files = handler, room, files
        self._leave, self._home_every = leave, home_every
        self.key = hashlib.sha256(f"{home_id} {folder}".encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        for older in (*folder.glob("seal-*"), *folder.glob("lease-*")):
            older.unlink(missing_ok=True)
        self._folder, self._seal = folder, folder / f"seal-{time.time_ns()}"
        self._seal.touch()
        self._shipper = FileShipper(ray.put)
        self._halting = self._told = False
        self._events: list[tuple[int, Event]] = [(-1, Note(note))] if note else []
        self._said, self._looked = "", time.monotonic()
        self._end_older()
        self.workers = [self._open(index) for index in range(workers)]

    def start(self, slots: Sequence[int]) -> list[int]:
        with connected():
            for index in slots:
                self.workers[index] = self._open(index)
        return list(slots)

    def send(self, slot: int, job: Job) -> None:
        worker = self.workers[slot]
        parcels = [] if worker.shared else self._shipper.pack(job, worker.holds)
        folder = job.folder if isinstance(job, TrainJob) else ""
        for other in self.workers:  # what they have of that trial will be old
            if other.holds == folder:
                other.holds = ""
        worker.trains, worker.holds = folder, ""
        with suppress(RayError), connected():  # a dead one: the news it was asked for will say so
            worker.actor.begin.remote(encode(job), parcels)

    def receive(self, timeout: float) -> list[tuple[int, Event]]:
        with connected():
            self._tell_to_halt()
            asked = {w.asking: i for i, w in enumerate(self.workers) if w.asking is not None}
            for news in _ready(list(asked), min(timeout, LOOK)):
                index = asked[news]
                self._events += [(index, event) for event in self._news(index)]
            self._note_waiting()
        events, self._events = self._events, []
        return events

    def kill(self, slot: int, why: str) -> bool:
        # Not left to Ray to tell: a node that is away may be silent for long.
        with connected():
            self._events.append((slot, self._end(slot, f"{why} and was killed")))
        return True

    def give_up(self, slot: int, others: bool) -> None:
        if not others:
            raise UserError(
                f"launcher=ray: {TRIES} workers in a row ended before they were ready; the last: "
                f"{self.workers[slot].how}\n"
                "every node needs this version of embsearch[ray], and room for a worker's memory"
            )

    def halt(self) -> None:
        # Told by ``receive``: a signal handler may be inside any call of Ray's.
        self._halting = True

    def close(self) -> None:
        for worker in self.workers:
            with suppress(RayError, ConnectionError):
                if worker.host:
                    ray.wait([worker.actor.leave.remote()], timeout=1.0)
                ray.kill(worker.actor)
            worker.lease.unlink(missing_ok=True)
        self._seal.unlink(missing_ok=True)
        if self._leave:
            disconnect()

    # ---- news ------------------------------------------------------------------------------

    def _tell_to_halt(self) -> None:
        if self._halting and not self._told:
            self._told = True
            for worker in self.workers:
                with suppress(RayError):
                    worker.actor.halt.remote()

    def _news(self, index: int) -> Iterator[Event]:
        """Yield what an actor said, once the files that came with it are at home."""
        worker = self.workers[index]
        try:
            said = ray.get(worker.asking)
        except RayError as error:
            yield self._end(index, reason(error))
            return
        worker.asking = worker.actor.take.remote(LONG_POLL)
        for news in said:
            bring(news.get("files", {}))
            message = decode_message(news["message"])
            if isinstance(message, Ready):
                self._check(worker, news)
            elif isinstance(message, (Measured, Halted)):
                worker.holds = worker.trains
            yield message

    def _check(self, worker: WorkerActor, news: JsonObject) -> None:
        """Write down what a worker says of its machine. Raises UserError where it is no use."""
        from embsearch import __version__

        host, version, shared = news["host"], news["version"], news["shared"]
        if version != __version__:
            raise UserError(
                f"launcher=ray: {host} has embsearch {version}, this machine {__version__}; "
                "install the same version on every node"
            )
        worker.shared = {"auto": shared, "shared": True, "store": False}[self._files]
        if self._files == "shared" and not shared:
            raise UserError(
                f"launcher.files=shared: {host} does not see {self._seal.parent}; set home to a "
                "folder that all nodes see under the same path, or launcher.files=store"
            )
        worker.host = host

    def _end(self, index: int, how: str) -> Gone:
        worker = self.workers[index]
        worker.lease.unlink(missing_ok=True)
        with suppress(RayError):
            ray.kill(worker.actor)
        where = f" on {worker.host}" if worker.host else ""
        worker.host, worker.asking, worker.how = "", None, how
        return Gone(f"worker {index}{where} {how}")

    def _note_waiting(self) -> None:
        """Say, when it has changed, how many workers wait for room on the cluster."""
        if time.monotonic() - self._looked < PENDING or self._halting:
            return
        self._looked = time.monotonic()
        workers = len(self.workers)
        waiting = sum(not worker.host for worker in self.workers)
        text = ""
        if waiting:
            up = f"{workers - waiting} of {workers} workers are up"
            text = f"Ray: {up}, each takes {self._room}; free: {free(self._room)}"
        if text != self._said and (text or self._said):
            self._events.append((-1, Note(text or f"Ray: all {workers} workers are up")))
        self._said = text

    # ---- actors ----------------------------------------------------------------------------

    def _open(self, index: int) -> WorkerActor:
        room = self._room
        name = f"{self.key}/{index}/{time.time_ns()}"
        options = {"name": name, "namespace": NAMESPACE, "max_concurrency": 8, **room.options()}
        own = name.replace("/", "-")
        lease = self._folder / f"lease-{own}"
        lease.touch()
        made: Any = (
            ray.remote(Actor)
            .options(**options)
            .remote(
                self._handler,
                room.threads,
                room.sharers,
                str(self._seal),
                str(lease),
                self.key,
                own,
                self._home_every,
            )
        )
        return WorkerActor(made, lease, made.take.remote(LONG_POLL))

    def _end_older(self) -> None:
        """End the actors of a coordinator of this folder that was killed: two must never train one
        trial. Ray ends them with it. Raises UserError where they stay."""
        until = time.monotonic() + 60.0
        while older := self._older():
            for name in older:
                with suppress(ValueError, RayError):
                    ray.kill(ray.get_actor(name, namespace=NAMESPACE))
            if time.monotonic() > until:
                raise UserError(
                    "launcher=ray: workers of an earlier run are still there "
                    f"({', '.join(older)}); 'ray list actors' shows them, end them and run the "
                    "same command again"
                )
            time.sleep(0.2)

    def _older(self) -> list[str]:
        named = ray.util.list_named_actors(all_namespaces=True)
        ours = [actor["name"] for actor in named if actor["namespace"] == NAMESPACE]
        return [name for name in ours if name.startswith(f"{self.key}/")]


class Ray(Pool):
    """``workers`` actors, each in its ``room``, on the cluster that this process has joined.

    ``handler``: module:function that makes what answers jobs. ``folder``: for files of this
    launcher; one coordinator at a time has it. ``home_id``: tells it from a folder of that name on
    another machine. ``files``: auto, shared or store, as ``launcher.files``. ``note``: a first line
    for whoever watches. ``leave``: leave the cluster on closing. ``home_every``: seconds between
    two checkpoints that come home. Raises UserError where workers of an earlier run stay.
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
        actors = Actors(handler, workers, room, folder, home_id, files, note, leave, home_every)
        super().__init__(actors, workers, timeout)


def _ready(asked: list[Any], seconds: float) -> list[Any]:
    """Return those that have come. Waits for the first."""
    if not asked:
        time.sleep(seconds)
        return []
    done, _ = ray.wait(asked, num_returns=1, timeout=seconds)
    if done:
        done, _ = ray.wait(asked, num_returns=len(asked), timeout=0)
    return list(done)
