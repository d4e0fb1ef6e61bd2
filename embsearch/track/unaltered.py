"""Checks of a model's files before they are read: those registered, and none that runs code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from embsearch.errors import ModelError
from embsearch.history.events import Ended, of_kind
from embsearch.history.folder import StudyFolder
from embsearch.history.log import read_events
from embsearch.model.files import faults_of_saved
from embsearch.track.digest import digest, manifest


def check(folder: Path, expected: str | None = None) -> str:
    """Return the sha256 over all files of a model, each read now. ``expected``: the registered one.

    Raises ModelError naming every file that was changed, is missing or was added, could run code, or
    asks for a module that does.
    """
    faults = faults_of_saved(folder)  # before: a digest of a pipe would wait for ever
    files = manifest(folder)
    found = digest(files)
    if expected and found != expected:
        faults += _changed(folder, files, expected) or [
            f"{folder}: sha256 over its files is {found}, the registered version has {expected}"
        ]
        faults[-1] += (
            "; nothing was loaded: restore the files, or go to another version with 'embsearch rollback'"
        )
    if faults:
        raise ModelError(faults)
    return found


def checked_trial(study: StudyFolder, number: int) -> dict[str, str]:
    """Return the sha256 of every file of a trial's model.

    Raises ModelError where they are not those that were there when the trial ended. Older logs do
    not say which were.
    """
    model = study.trial(number) / "model"
    files = manifest(model)
    logged = logged_digest(study, number)
    if logged not in ("", digest(files)):
        raise ModelError(
            f"{model}: sha256 over its files is {digest(files)}, and was {logged} when trial {number} "
            "ended; put them back from a copy, or train it again with 'embsearch reproduce "
            f"study.name={study.config.study.name} trial={number} output=FOLDER'"
        )
    return files


def logged_digest(study: StudyFolder, number: int) -> str:
    """Return the sha256 over a trial's model when it ended; empty where its log does not say."""
    ended = of_kind(read_events(study.trial_log(number).path), Ended)
    return ended[0].digest if ended else ""


def kept_manifest(artifacts: Path) -> dict[str, str]:
    """Return the manifest that was logged with a model's artifacts; empty if none can be read."""
    try:
        found = json.loads((artifacts / "manifest.json").read_text(encoding="utf-8"))["files"]
        return {str(path): str(sha) for path, sha in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _changed(folder: Path, files: Mapping[str, str], expected: str) -> list[str]:
    """List faults by file, if the manifest beside the model is still the registered one."""
    registered = kept_manifest(folder.parent)
    if digest(registered) != expected:
        return []
    faults = [f"{folder / name}: is missing" for name in sorted(registered.keys() - files.keys())]
    faults += [
        f"{folder / name}: is not one of the registered files"
        for name in sorted(files.keys() - registered)
    ]
    return faults + [
        f"{folder / name}: its sha256 is {files[name]}, registered was {registered[name]}"
        for name in sorted(files.keys() & registered.keys())
        if files[name] != registered[name]
    ]
