"""One warm worker process a slot, on this machine; several slots may share a GPU, or each have several.

Tasks and messages are lines of JSON over the worker's pipes. A worker ends when its standard
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
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from embsearch.launch.base import ENDS, Message, Task
from embsearch.launch.environment import worker_environment

STALE = 30.0  # seconds that a stopped worker gets to end before it is killed


@dataclass
class Slot:
    """A worker's process, when it was last heard of, and the task it has."""

    process: subprocess.Popen[bytes]
    generation: int
    heard: float
    task: Task | None = None
    hung: bool = False
    leaving: bool = False  # it has halted and will end


class Local:
    """``workers`` processes of ``command``; worker i sees only GPU ``gpus[i]`` where given, or GPUs: ``2,3``."""

    def __init__(
        self,
        command: list[str],
        workers: int,
        threads: int,
        logs: Path,
        gpus: list[str] | None = None,
        timeout: float = 3600.0,
    ) -> None:
        self._command, self._threads, self._logs = command, threads, logs
        self._gpus, self._timeout, self._halting, self._workers = gpus, timeout, False, workers
        self._messages: queue.Queue[tuple[int, int, Message | None]] = queue.Queue()
        self._slots = [self._start(i, 0) for i in range(workers)]

    @property
    def workers(self) -> int:
        return self._workers

    @property
    def idle(self) -> list[int]:
        return [i for i, s in enumerate(self._slots) if s.task is None and not (s.leaving or self._halting)]

    def submit(self, slot: int, task: Task) -> None:
        worker = self._slots[slot]
        if worker.task is not None:
            raise RuntimeError(f"slot {slot} is not idle")
        worker.task, worker.heard = task, time.monotonic()
        with contextlib.suppress(OSError):  # a dead worker: its reader will say so
            assert worker.process.stdin is not None
            worker.process.stdin.write(json.dumps(task).encode() + b"\n")
            worker.process.stdin.flush()

    def wait(self, timeout: float) -> list[tuple[int, Message]]:
        found: list[tuple[int, Message]] = []
        until = time.monotonic() + timeout
        while not found and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._take(found, self._messages.get(timeout=min(left, 1.0)))
                while True:
                    self._take(found, self._messages.get_nowait())
            self._kill_hung()
        return found

    def halt(self) -> None:
        self._halting = True
        for slot in self._slots:
            with contextlib.suppress(OSError):
                slot.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        for slot in self._slots:
            _end(slot.process)

    def _take(self, found: list[tuple[int, Message]], item: tuple[int, int, Message | None]) -> None:
        index, generation, message = item
        slot = self._slots[index]
        if generation != slot.generation:
            return  # the last words of a worker that has been replaced
        slot.heard = time.monotonic()
        if message is None:
            message = self._replace(index, "killed")
        elif message["kind"] in ENDS:
            slot.task, slot.leaving = None, message["kind"] == "halted"
        found.append((index, message))

    def _kill_hung(self) -> None:
        """And what a dead worker left behind, which may hold its output open. Its reader reports the end."""
        for slot in self._slots:
            if slot.task is not None and time.monotonic() - slot.heard > self._timeout:
                slot.hung = True
                _end(slot.process)
            elif slot.process.poll() is not None:
                _end(slot.process)

    def _replace(self, index: int, failure: str) -> Message:
        slot = self._slots[index]
        with contextlib.suppress(subprocess.TimeoutExpired):  # its output has ended, so it will at once
            slot.process.wait(STALE)
        _end(slot.process)  # or it has not, or it has left children behind
        code = slot.process.returncode
        if slot.hung:
            failure, how = "hung", f"gave no sign of life for {self._timeout:g} s and was killed"
        else:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        tail = self._log(index).read_text(errors="replace").splitlines()[-15:]
        idle = slot.task is None
        slot.task, slot.leaving = None, True
        if not self._halting:
            self._slots[index] = self._start(index, slot.generation + 1)
        text = f"worker {index} {how}; the end of {self._log(index)}:\n" + "\n".join(tail)
        return {"kind": "died", "failure": failure, "message": text, "idle": idle}

    def _log(self, index: int) -> Path:
        return self._logs / f"worker-{index}.log"

    def _start(self, index: int, generation: int) -> Slot:
        sharers = -(-self._workers // len(self._gpus or [""]))  # alone on one GPU by its number: all of them share it
        environment = os.environ | worker_environment(self._threads, sharers)
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
        reader = threading.Thread(target=self._read, args=(index, generation, process), daemon=True)
        reader.start()
        return Slot(process, generation, time.monotonic())

    def _read(self, index: int, generation: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):  # something printed to stdout by a library
                message = json.loads(line)
                if isinstance(message, dict) and "kind" in message:
                    self._messages.put((index, generation, message))
        self._messages.put((index, generation, None))


def python_module(module: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module]


def visible_gpus() -> list[str]:
    """Names of the GPUs this process may use, without importing torch."""
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
    """The GPUs in sets of ``devices``, each as CUDA_VISIBLE_DEVICES names it: what one worker sees that trains a
    trial on so many. GPUs that make no whole set are left out."""
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
