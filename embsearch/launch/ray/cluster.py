"""A Ray cluster: joined, or started on this machine; what it has, and what a worker asks of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from embsearch.errors import UserError

NAMESPACE = "embsearch"
QUIET: dict[str, Any] = {
    "log_to_driver": False,
    "logging_level": "ERROR",
    "namespace": NAMESPACE,
}
CLUSTER: Any = ray  # some of its functions have no types
# Ray's client server starts a server for each session and gives it 30 seconds (or, in its
# environment, RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S): too few on a busy node. It says then:
TRIES, TOO_SLOW = 3, ("Starting Ray client server failed", "Proxy failed to Connect to backend")


@dataclass(frozen=True)
class Room:
    """The resources that one worker asks of Ray."""

    threads: int = 1
    gpus: float = 0.0
    sharers: int = 1  # workers on its GPU
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    spread: bool = True

    def options(self) -> dict[str, object]:
        asked: dict[str, object] = {
            "num_cpus": self.threads,
            "num_gpus": self.gpus,
            "max_restarts": 0,
        }
        asked["scheduling_strategy"] = "SPREAD" if self.spread else "DEFAULT"
        if self.resources:
            asked["resources"] = dict(self.resources)
        if self.labels:
            asked["label_selector"] = dict(self.labels)
        return asked

    def __str__(self) -> str:
        asked = {"CPU": self.threads, "GPU": self.gpus, **self.resources, **self.labels}
        return ", ".join(f"{name} {value}" for name, value in asked.items() if value)


def connect(address: str | None, cpus: int) -> str:
    """Join the cluster at ``address`` (or RAY_ADDRESS), or start one on this machine with ``cpus``.

    Returns what was done, as a line. Raises UserError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray.is_initialized():
        return f"Ray: this process is on a cluster already, {_size()}"
    address = address or os.environ.get("RAY_ADDRESS")
    if not address or address == "local":
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **QUIET)
        return f"Ray: started on this machine, {_size()}"
    try:
        _knock(address)
        _join(address)
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        raise UserError(
            f"launcher.address={address}: no Ray cluster answers there ({reason(error)}); "
            "start one with 'ray start --head', leave the address out for a new one on this "
            "machine, or, if it asks for a token, set RAY_AUTH_MODE=token (from Ray 2.60 'ray "
            "start' asks for one where ~/.ray/auth_token is)"
        ) from error
    except (
        RuntimeError,
        ValueError,
        RayError,
    ) as error:  # another version of Ray or Python, no such address
        raise UserError(f"launcher.address={address}: {reason(error)}") from error
    return f"Ray: joined the cluster at {address}, {_size()}"


@contextmanager
def connected() -> Iterator[None]:
    """Make a UserError of what Ray's client raises where the cluster is no longer there."""
    try:
        yield
    except ConnectionError as error:
        raise UserError(
            f"launcher=ray: the connection to the cluster is lost ({reason(error)}); "
            "the same command goes on with this study"
        ) from error


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at an address with a port: Ray tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()


def _join(address: str) -> None:
    """Join the cluster.

    Raises UserError where Ray's client server cannot begin a session, and what Ray raises.
    """
    for left in reversed(range(TRIES)):
        try:
            ray.init(address=address, **QUIET)
            return
        except ConnectionAbortedError as error:  # of a client server only
            why = str(error).strip().splitlines()[-1]
            if not left or not any(words in why for words in TOO_SLOW):
                raise UserError(
                    f"launcher.address={address}: Ray's client server could not begin a "
                    f"session ({why})"
                ) from error


def disconnect() -> None:
    """Leave the cluster; one that was started here ends."""
    ray.shutdown()


def fits(room: Room) -> int:
    """Return how many workers the cluster's nodes have room for in all; at least one."""

    def on(node: Mapping[str, float]) -> int:
        asked = {"CPU": room.threads, "GPU": room.gpus, **room.resources}
        return int(min(node.get(name, 0.0) / value for name, value in asked.items() if value))

    nodes = [
        n
        for n in CLUSTER.nodes()
        if n["Alive"] and room.labels.items() <= (n.get("Labels") or {}).items()
    ]
    return max(1, sum(on(node["Resources"]) for node in nodes))


def has_gpus() -> bool:
    """Return whether any node of the cluster has a GPU now."""
    return bool(CLUSTER.cluster_resources().get("GPU", 0))


def free(room: Room) -> str:
    """Return the free resources of the kinds that a worker asks for, as text."""
    found = {
        k: v
        for k, v in CLUSTER.available_resources().items()
        if k in ("CPU", "GPU", *room.resources)
    }
    return ", ".join(f"{name} {value:g}" for name, value in sorted(found.items())) or "nothing"


def _size() -> str:
    resources = CLUSTER.cluster_resources()
    nodes = sum(bool(node["Alive"]) for node in CLUSTER.nodes())
    gpus = f", {resources['GPU']:g} GPUs" if resources.get("GPU") else ""
    return f"{nodes} node{'s' * (nodes != 1)}, {resources.get('CPU', 0):g} CPUs{gpus}"


def reason(error: BaseException) -> str:
    """Return the cause of an error of an actor, else the first lines of Ray's long text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if (
        hasattr(error, "cause") and error.cause is not None
    ):  # raised in the actor: its traceback ends with the cause
        return f"could not start: {lines[-1]}" if lines else type(error).__name__
    return "; ".join(lines[:2]) or type(error).__name__
