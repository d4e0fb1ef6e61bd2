"""A model's files before they are read: the ones that were registered, and nothing that runs code on loading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from embsearch.errors import ModelError
from embsearch.track.digest import digest, manifest
from embsearch.track.runs_code import runs_code


def check(folder: Path, expected: str | None = None) -> str:
    """The sha256 over all files of a model, each read now. ``expected`` is what it was registered with.

    Raises ModelError naming every file that was changed, is missing or too many, could run code, or asks for some.
    """
    files = manifest(folder)
    faults = runs_code(folder, files)
    found = digest(files)
    if expected and found != expected:
        faults += _changed(folder, files, expected) or [
            f"{folder}: sha256 over its files is {found}, the registered version has {expected}"
        ]
        faults[-1] += "; nothing was loaded: restore the files, or move the alias to another version"
    if faults:
        raise ModelError(faults)
    return found


def _changed(folder: Path, files: Mapping[str, str], expected: str) -> list[str]:
    """File by file, where the manifest beside the model is still the one that was registered."""
    try:
        registered = json.loads((folder.parent / "manifest.json").read_text(encoding="utf-8"))["files"]
        if digest(registered) != expected:
            return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    faults = [f"{folder / name}: is missing" for name in sorted(registered.keys() - files.keys())]
    faults += [f"{folder / name}: is not one of the registered files" for name in sorted(files.keys() - registered)]
    return faults + [
        f"{folder / name}: its sha256 is {files[name]}, registered was {registered[name]}"
        for name in sorted(files.keys() & registered.keys())
        if files[name] != registered[name]
    ]
