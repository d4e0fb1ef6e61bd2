"""The identity of a model folder, byte for byte, which promotion and serving check."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path


def manifest(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file, by its path inside ``folder``."""
    found = {}
    for path in sorted(
        p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    ):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                file, "sha256"
            ).hexdigest()
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
