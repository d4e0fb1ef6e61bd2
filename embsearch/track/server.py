"""The local MLflow server, one a home, started when somebody wants to look.

MLflow's default start is 10 processes and 2.3 GB (measured with MLflow 3.17); with its job runner
off and one worker it is 2 processes and 0.5 GB. It listens on 127.0.0.1 only.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from embsearch.disk import file_lock
from embsearch.errors import EmbsearchError
from embsearch.track.mlflow_store import artifact_root, database_uri, fail_fast, prepare_database

START = 90.0  # seconds until it must answer; 10 s is usual on two busy cores


class Server(NamedTuple):
    """A running server. ``started`` says that this call started it."""

    url: str
    pid: int
    started: bool


def serve(home: Path, port: int = 5000) -> Server:
    """Find the home's running server, or start one on ``port`` or the next free port.

    Returns when it answers. It continues after this process ends. Raises EmbsearchError with the
    end of its log if it does not start.
    """
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    with file_lock(home / "mlflow_server.lock"):
        found = running(home)
        if found is not None:
            return found
        fail_fast(10)
        prepare_database(home / "mlflow.db", artifact_root(home))
        port = _free_port(port)
        url = f"http://127.0.0.1:{port}"
        process = _start(home, port)
        try:
            _wait(url, process, home / "mlflow_server.log")
        except BaseException:
            _end(process.pid)
            raise
        draft = home / "mlflow_server.json.draft"
        draft.write_text(json.dumps({"pid": process.pid, "url": url}))
        draft.replace(home / "mlflow_server.json")
        return Server(url, process.pid, started=True)


def running(home: Path) -> Server | None:
    """Return the home's server, None unless one answers and is really ours."""
    try:
        state = json.loads((home.resolve() / "mlflow_server.json").read_text())
        command = psutil.Process(state["pid"]).cmdline()
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    if database_uri(home) not in command or not _answers(state["url"]):
        return None
    return Server(state["url"], state["pid"], started=False)


def stop(home: Path) -> bool:
    """End the home's server. Return False if there was none."""
    found = running(home)
    if found is None:
        return False
    _end(found.pid)
    (home.resolve() / "mlflow_server.json").unlink(missing_ok=True)
    return True


def _start(home: Path, port: int) -> subprocess.Popen[bytes]:
    artifacts = artifact_root(home)
    command = [
        sys.executable, "-m", "mlflow", "server",
        "--backend-store-uri", database_uri(home),
        "--default-artifact-root", artifacts.as_uri(),
        "--artifacts-destination", artifacts.as_uri(),
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--allowed-hosts", "127.0.0.1:*,localhost:*",
    ]  # fmt: skip
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        # It starts uvicorn by name; the environment may not be activated.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    with (home / "mlflow_server.log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _answers(url):
            return
        time.sleep(0.1)
    state = (
        f"exit code {process.returncode}"
        if process.returncode is not None
        else f"no answer in {START:.0f} s"
    )
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise EmbsearchError(f"The MLflow server did not start ({state}). The end of {log}:\n{tail}")


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False


def _free_port(port: int) -> int:
    """Return the first free port from ``port`` on; any for 0."""
    for candidate in range(port, port + 100 if port else 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise EmbsearchError(f"No port from {port} to {port + 99} is free on 127.0.0.1; set port=")


def _end(pid: int) -> None:
    """End the server and its worker: ask first, then kill."""
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for process in tree:
            try:
                process.send_signal(kind)
            except psutil.Error:
                continue
        _, tree = psutil.wait_procs(tree, timeout=10)
        if not tree:
            return
