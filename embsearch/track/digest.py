"""The identity of a model folder, byte for byte, which promotion and serving check."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from embsearch.model.files import files_in


def manifest(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file, by its path in ``folder``. A link is what it points at."""
    found = {}
    for name, path in files_in(folder).items():
        if "__pycache__" not in path.parts:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def digest(files: Mapping[str, str]) -> str:
    """Return one sha256 for a manifest, as ``sha256sum`` prints it: equal models, equal digests."""
    lines = "".join(f"{sha}  {path}\n" for path, sha in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def weights_digest(files: Mapping[str, str]) -> str:
    """Return the sha256 of a manifest's weights; empty if it has none.

    A single file keeps its own sha256; several are combined as ``digest`` does it.
    """
    weights = {path: sha for path, sha in files.items() if path.endswith(".safetensors")}
    return next(iter(weights.values())) if len(weights) == 1 else digest(weights) if weights else ""
