"""The gate of a model's files: they are what was written, and nothing runs when they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from embsearch.model.files import faults_of_saved
from embsearch.registry.gates import Gate
from embsearch.track.digest import digest, manifest


def files_gate(folder: Path, recorded: Mapping[str, Mapping[str, str]]) -> Gate:
    """Ask that weights are safetensors alone, and every file's sha256 is as each record has it.

    ``recorded``: manifests by who kept them.
    """
    mine = manifest(folder)
    faults = faults_of_saved(folder)
    if not any(path.endswith(".safetensors") for path in mine):
        faults.append("no safetensors file holds its weights")
    for who, theirs in recorded.items():
        changed = sorted(path for path in {*mine, *theirs} if mine.get(path) != theirs.get(path))
        if changed:
            faults.append(f"{', '.join(changed)}: not what {who} recorded (sha256)")
    words = "; ".join(faults)
    if not faults:
        words = f"{len(mine)} files, sha256 {digest(mine)[:12]}"
        words += f" as {' and '.join(recorded)} recorded" if recorded else ", taken now"
    return Gate("files", not faults, words, {"digest": digest(mine), "files": mine})
