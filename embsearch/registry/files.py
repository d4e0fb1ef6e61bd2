"""Whether a model's files are what was written, and nothing that runs when it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from embsearch.errors import ModelError
from embsearch.registry.gates import Gate
from embsearch.registry.mlflow_registry import Registered
from embsearch.track.digest import digest, manifest
from embsearch.track.runs_code import runs_code


def files(folder: Path, recorded: Mapping[str, Mapping[str, str]]) -> Gate:
    """Only safetensors, and every file's sha256 as each record has it. ``recorded``: manifests by who kept them."""
    mine = manifest(folder)
    faults = runs_code(folder, mine)
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


def check_files(registered: Registered) -> Gate:
    """The files of a registered version, which are those it was registered with. Raises ModelError."""
    whole = files(registered.folder, {"MLflow": kept_manifest(registered.artifacts)})
    version = registered.version
    if not whole.passed or whole.facts["digest"] != version.digest:
        raise ModelError(
            f"{version.uri}: {whole.words}; it was registered as {version.digest[:12]}. Restore its files, or go to "
            "another version with 'embsearch rollback'"
        )
    return whole


def kept_manifest(artifacts: Path) -> dict[str, str]:
    """The manifest that was logged with a model's artifacts; empty where there is none that can be read."""
    try:
        found = json.loads((artifacts / "manifest.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {str(path): str(sha) for path, sha in found.items()}
