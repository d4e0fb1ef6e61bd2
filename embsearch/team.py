"""The processes of one worker that train a trial together: ``train.devices`` of them, one a GPU.

The worker leads; its crew are further workers that it starts on the same machine and gives the same
segments and probes. They find each other over a port of this machine alone. A member ends when its
standard input does, so none outlives a worker that was killed; when a member is gone, the job fails
as ``killed`` and is given out again.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from embsearch.codec import Json
from embsearch.errors import ConfigError, Lost
from embsearch.launch.base import Failed, Job, decode_job, decode_message, encode
from embsearch.launch.environment import worker_environment
from embsearch.train.group import ALONE, Alone, Group

HOST = "127.0.0.1"
TAIL = 15  # lines of a member's log that are told
NEWS = 15.0  # seconds until it is known which member ended, and why
# Seconds in which a worker on GPUs must have noticed that a member is gone: NCCL may wait for ever.
NOTICE = 60.0


class Crew:
    """The helper processes of one worker (possibly none)."""

    leads = True

    def __init__(self) -> None:
        self._members: list[Process] = []
        self._group: Alone = ALONE
        self._kind = ""
        self._threads = 0  # of the worker when it works alone; 0: it works alone now
        self._busy = False

    def read_order(self, order: Json) -> Job:
        """Return the job that the coordinator sent. Raises ValueError where it is none."""
        return decode_job(order)

    def resume(self, job: Job, warm: bool) -> bool:
        """Return whether the ``warm`` trial can go on. The crew then goes on with it."""
        if not warm or any(member.ended for member in self._members):
            return False
        self._send(job, resume=True)
        return True

    def start_group(self, job: Job, devices: int, device: torch.device) -> Alone:
        """Return a group in which all begin ``job``; ALONE where one device is asked for.

        Raises ConfigError where there are fewer GPUs, Lost where a member ends before it has begun.
        """
        fits = len(self._members) + 1 == devices and self._kind == device.type
        if not fits or any(member.ended for member in self._members):
            self.close()
            if devices == 1:
                return ALONE
            self._start(devices, device)
        self._send(job, resume=False)
        return self._group

    def idle(self) -> None:
        """Take back the crew's threads: the job has ended, and the crew waits for the next one."""
        self._busy = False
        if self._threads:
            torch.set_num_threads(self._threads)
            self._threads = 0

    def close(self) -> None:
        """End the crew."""
        members, self._members = self._members, []
        for member in members:
            member.end()
        if isinstance(self._group, Group):
            self._group.close()
        self._group = ALONE

    def _send(self, job: Job, resume: bool) -> None:
        for member in self._members:
            member.send(job, resume)
        if self._members and not self._threads:
            self._threads = torch.get_num_threads()
            torch.set_num_threads(max(1, self._threads // (1 + len(self._members))))
        self._busy = True

    def _start(self, devices: int, device: torch.device) -> None:
        gpus = gpus_for(devices, device)
        threads = max(1, torch.get_num_threads() // devices)
        listener = socket.create_server((HOST, 0))
        port = listener.getsockname()[1]
        store = TCPStore(
            HOST,
            port,
            None,
            True,
            timedelta(minutes=5),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        self._members = [
            Process(
                (rank, devices, port, device.type),
                threads,
                gpus[rank] if gpus else None,
                self._ended,
            )
            for rank in range(1, devices)
        ]
        while not store.check([_key(rank) for rank in range(1, devices)]):
            if any(member.ended for member in self._members):
                raise self._lost("it ended before it had begun")
            time.sleep(0.05)
        group = Group(store, 0, devices, device.type)
        group.lost = self._lost
        self._group, self._kind = group, device.type

    def _lost(self, why: str) -> Lost:
        """Return what ended the crew, from what its members said."""
        until = time.monotonic() + NEWS
        while not (gone := [m for m in self._members if m.ended]) and time.monotonic() < until:
            time.sleep(0.05)
        # Those that failed because another was gone say so; it is the other that matters.
        gone.sort(key=lambda m: (m.failed is not None and m.failed.failure == "killed", m.rank))
        return (
            gone[0].lost() if gone else Lost(f"the processes of this trial lost each other: {why}")
        )

    def _ended(self, member: Process) -> None:
        """End this process where it waits for a member that is gone: on GPUs it may do so for ever.

        Called by a thread when a member has ended.
        """
        if self._kind != "cuda":
            return
        until = time.monotonic() + NOTICE
        while time.monotonic() < until:
            if not self._busy or member not in self._members:
                return
            time.sleep(1.0)
        print(
            f"{member.lost()}\nthis process still waits for it and ends too",
            file=sys.stderr,
            flush=True,
        )
        os._exit(75)


class Process:
    """One member, as its leader holds it. Its log goes where the leader's goes, marked."""

    def __init__(
        self,
        place: tuple[int, int, int, str],
        threads: int,
        gpu: str | None,
        ended: Callable[[Process], None],
    ) -> None:
        self.rank, self.size, *_ = place
        self.failed: Failed | None = None
        self._tail: deque[str] = deque(maxlen=TAIL)
        environment = os.environ | worker_environment(
            threads, int(os.environ.get("EMBSEARCH_GPU_SHARERS", "1"))
        )
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        self._process = subprocess.Popen(
            [sys.executable, "-m", "embsearch.worker", *map(str, place)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
        )  # fmt: skip
        self._readers = [
            threading.Thread(target=read, daemon=True) for read in (self._hear, self._log)
        ]
        for reader in self._readers:
            reader.start()
        threading.Thread(target=self._watch, args=(ended,), daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None and not any(
            reader.is_alive() for reader in self._readers
        )

    def send(self, job: Job, resume: bool) -> None:
        """Give the member its leader's job. ``resume``: go on with the trial that is warm."""
        order = json.dumps({"job": encode(job), "resume": resume})
        with suppress(OSError):  # it has ended: the next exchange says so
            assert self._process.stdin is not None
            self._process.stdin.write(order.encode() + b"\n")
            self._process.stdin.flush()

    def end(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()

    def lost(self) -> Lost:
        who = f"device {self.rank} of {self.size} (process {self.pid})"
        if self.failed is not None:
            text = f"{who}: {self.failed.message}\n{self.failed.traceback}"
            return Lost(text, self.failed.failure)
        code = self._process.returncode
        how = (
            f"was killed by {signal.Signals(-code).name}"
            if code < 0
            else f"ended with exit code {code}"
        )
        return Lost("\n".join([f"{who} {how}; the end of its log:", *self._tail]))

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):
                message = decode_message(json.loads(line))
                if isinstance(message, Failed):
                    self.failed = message

    def _log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            words = line.decode(errors="replace").rstrip("\n")
            self._tail.append(words)
            print(f"[device {self.rank}] {words}", file=sys.stderr, flush=True)

    def _watch(self, ended: Callable[[Process], None]) -> None:
        self._process.wait()
        for reader in self._readers:
            reader.join()
        ended(self)


class Member:
    """The place of ``Crew`` in a member: it does what the leader's worker does."""

    leads = False

    def __init__(self, rank: str, size: str, port: str, kind: str) -> None:
        store = TCPStore(HOST, int(port), None, False, timedelta(minutes=5), wait_for_workers=False)
        store.set(_key(int(rank)), "here")
        self._group = Group(store, int(rank), int(size), kind)
        self._resume = False

    def read_order(self, order: Json) -> Job:
        """Return the job that the leader sent. Raises ValueError where it is none."""
        self._resume = order["resume"]
        return decode_job(order["job"])

    def resume(self, job: Job, warm: bool) -> bool:
        """Return what the leader decided."""
        return self._resume

    def start_group(self, job: Job, devices: int, device: torch.device) -> Alone:
        """Return the group that the leader has started."""
        return self._group

    def idle(self) -> None:
        """Do nothing: a member shares nothing that could be given back."""

    def close(self) -> None:
        """Do nothing: the process ends, and with it the group (worker.main)."""


def gpus_for(devices: int, device: torch.device) -> list[str]:
    """Return one GPU for each of ``devices`` processes, as CUDA_VISIBLE_DEVICES names it.

    None on a CPU. Raises ConfigError where this process sees fewer.
    """
    if device.type != "cuda":
        return []
    if device.index is not None:
        raise ConfigError(
            f"device={device}: names one GPU, and train.devices={devices} wants {devices}; "
            "use device=cuda, and CUDA_VISIBLE_DEVICES to say which"
        )
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if count < devices:
        raise ConfigError(
            f"train.devices={devices}: this worker sees {count} GPU{'s' * (count != 1)}; "
            f"use train.devices={count}, or give it more: a machine that has them, "
            "CUDA_VISIBLE_DEVICES, the launcher's GPUs a worker"
        )
    return (
        [name.strip() for name in named.split(",")][:devices]
        if named
        else [str(n) for n in range(devices)]
    )


def _key(rank: int) -> str:
    return f"here/{rank}"
