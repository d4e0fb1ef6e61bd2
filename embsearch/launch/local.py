"""One warm worker process a slot, on this machine; several may share a GPU, or each have several.

Jobs and messages are lines of JSON over the worker's pipes. A worker ends when its standard
input does, so none outlives a coordinator that was killed. What it prints goes to worker.log.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from embsearch.launch.base import Job, Message, decode_message, encode
from embsearch.launch.environment import worker_environment
from embsearch.launch.pool import Event, Gone, Pool

STALE = 30.0  # seconds that a stopped worker gets to end before it is killed
LOOK = 1.0  # seconds between two looks at processes that have ended and left their pipe open

Process = subprocess.Popen[bytes]


@dataclass
class WorkerProcess:
    """A worker's process. ``why``: why it was killed, where it was."""

    process: Process
    why: str = ""


class Pipes:
    """The way to ``workers`` processes of ``command``, by their standard input and output.

    ``threads``: of each. ``gpus``: worker i sees only ``gpus[i]``, a GPU or several (``2,3``).
    """

    queues_jobs = True
    blocked = False

    def __init__(
        self, command: list[str], workers: int, threads: int, logs: Path, gpus: list[str] | None
    ) -> None:
        self._command, self._threads, self._logs, self._gpus = command, threads, logs, gpus
        self._sharers = -(-workers // len(gpus or [""]))  # without names all share one GPU
        # A worker's number and process, and what it said; None: its output has ended.
        self._said: queue.Queue[tuple[int, Process, Message | None]] = queue.Queue()
        self.workers = [WorkerProcess(self._open(index)) for index in range(workers)]

    def start(self, slots: Sequence[int]) -> list[int]:
        for index in slots:
            self.workers[index] = WorkerProcess(self._open(index))
        return list(slots)

    def send(self, slot: int, job: Job) -> None:
        stdin = self.workers[slot].process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):  # a dead worker: its reader will say so
            stdin.write(json.dumps(encode(job)).encode() + b"\n")
            stdin.flush()

    def receive(self, timeout: float) -> list[tuple[int, Event]]:
        events: list[tuple[int, Event]] = []
        with contextlib.suppress(queue.Empty):
            said = self._said.get(timeout=min(timeout, LOOK))
            while True:
                events += self._event(*said)
                said = self._said.get_nowait()
        self._end_left_behind()
        return events

    def kill(self, slot: int, why: str) -> bool:
        worker = self.workers[slot]
        worker.why = why
        _end(worker.process)
        return True

    def give_up(self, slot: int, others: bool) -> None:
        """Do nothing: a worker of this machine is ready at once."""

    def halt(self) -> None:
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        for worker in self.workers:
            _end(worker.process)

    def _event(
        self, index: int, process: Process, message: Message | None
    ) -> list[tuple[int, Event]]:
        worker = self.workers[index]
        if process is not worker.process:
            return []  # the last words of a worker that has been replaced
        return [(index, Gone(self._ended(index, worker)) if message is None else message)]

    def _end_left_behind(self) -> None:
        """End what a dead worker has started: it may hold the worker's output open."""
        for worker in self.workers:
            if worker.process.poll() is not None:
                _end(worker.process)

    def _ended(self, index: int, worker: WorkerProcess) -> str:
        """Return how a worker ended and the end of its log. Nothing of it is left then."""
        with contextlib.suppress(subprocess.TimeoutExpired):  # its output has ended, so it will
            worker.process.wait(STALE)
        _end(worker.process)  # or it has not, or it has left children behind
        code = worker.process.returncode
        if worker.why:
            how = f"{worker.why} and was killed"
        elif code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        tail = self._log(index).read_text(errors="replace").splitlines()[-15:]
        return f"worker {index} {how}; the end of {self._log(index)}:\n" + "\n".join(tail)

    def _log(self, index: int) -> Path:
        return self._logs / f"worker-{index}.log"

    def _open(self, index: int) -> Process:
        environment = os.environ | worker_environment(self._threads, self._sharers)
        if self._gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[index % len(self._gpus)]
        self._logs.mkdir(parents=True, exist_ok=True)
        with self._log(index).open("ab") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is the coordinator's to handle
            )
        threading.Thread(target=self._read, args=(index, process), daemon=True).start()
        return process

    def _read(self, index: int, process: Process) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):  # something printed to stdout by a library
                self._said.put((index, process, decode_message(json.loads(line))))
        self._said.put((index, process, None))


class Local(Pool):
    """``workers`` processes of ``command``; the rest as ``Pipes`` and ``Pool`` say."""

    def __init__(
        self,
        command: list[str],
        workers: int,
        threads: int,
        logs: Path,
        gpus: list[str] | None = None,
        timeout: float = 3600.0,
    ) -> None:
        super().__init__(Pipes(command, workers, threads, logs, gpus), workers, timeout)


def python_module(module: str) -> list[str]:
    """Return the command that runs a module with this interpreter."""
    return [sys.executable, "-m", module]


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, without importing torch."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [g for g in named.split(",") if g.strip() and g.strip() != "-1"]
    try:
        out = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    return out.stdout.split()


def sets_of(gpus: list[str], devices: int) -> list[str]:
    """Return the GPUs in sets of ``devices``, each as CUDA_VISIBLE_DEVICES names it.

    A set is what one worker sees that trains a trial on so many. GPUs that make no whole set are
    left out.
    """
    whole = len(gpus) // devices * devices
    return [",".join(gpus[at : at + devices]) for at in range(0, whole, devices)]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the worker and everything it started, also what has left its group."""
    tree: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        tree = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in tree:
        with contextlib.suppress(psutil.Error):
            child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STALE)
