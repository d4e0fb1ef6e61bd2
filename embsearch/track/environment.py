"""Where a study ran: what the ``opened`` event keeps so that a result can be made again."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "embsearch", "torch", "transformers", "sentence-transformers", "tokenizers", "safetensors", "optuna",
    "mlflow", "hydra-core", "numpy", "pandas", "scikit-learn",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Git commit, package versions and machine, as plain JSON. Imports none of the packages."""
    commit = _git("rev-parse", "HEAD")
    return {
        "git_commit": commit,
        "git_dirty": bool(commit and _git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _git(*args: str) -> str:
    """Of the repository that holds the code, or the working directory's; empty where there is none."""
    for folder in (Path(__file__).parent, Path.cwd()):
        try:
            done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        return done.stdout.strip()
    return ""
