"""Files for workers that do not see this machine's disk, and the files that come back from them.

A task names files: the prepared data, an encoder, a trial's folder. ``Packer`` replaces their paths by parcels,
``Desk``, on the other machine, the parcels by paths of its own. What many tasks need is known by its content and
unpacked once a machine; a trial's folder belongs to one worker, travels with its checkpoint alone, and comes home
whenever a task ends, and on the way with each new checkpoint, some time apart.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embsearch import disk
from embsearch.launch.base import Task

HOME_EVERY = 30.0  # seconds between two checkpoints that come home during a segment: 130 MB for MiniLM
CHECKPOINT = "checkpoint.safetensors"
Files = Mapping[str, bytes]  # by the path inside a folder; "" for a file by itself


@dataclass(frozen=True)
class Parcel:
    """``content``: ``Files``, or what ``put`` made of them; None: the worker has it already."""

    path: str  # where it lies at home
    key: str  # of its content; empty for a folder that a trial works in
    content: Any


class Packer:
    """At home. ``put`` keeps files where every machine can fetch them, and returns what to ask for."""

    def __init__(self, put: Callable[[Files], Any]) -> None:
        self._put = put
        self._kept: dict[str, Any] = {}  # by key
        self._keys: dict[str, str] = {}  # by path, of what never changes

    def pack(self, task: Task, holds: str) -> list[Parcel]:
        """Parcels of all that ``task`` reads. ``holds``: the trial's folder whose newest files the worker has."""
        config = task.get("config", {})
        fixed = [task.get("cache"), _at(config, "model", "path"), _at(config, "train", "augment", "synonyms")]
        found = [self._fixed(path) for path in fixed if path and Path(path).exists()]
        if (model := task.get("model")) and Path(model).exists():  # a trial's: the same path may hold another by now
            self._keys.pop(model, None)
            found.append(self._fixed(model))
        if folder := task.get("folder"):
            checkpoint = Path(folder) / CHECKPOINT
            there = {CHECKPOINT: checkpoint.read_bytes()} if checkpoint.exists() else {}
            found.append(Parcel(folder, "", None if holds == folder and there else there))
        return found

    def _fixed(self, path: str) -> Parcel:
        if path not in self._keys:
            files = read(Path(path))
            self._keys[path] = _key(files)
            if self._keys[path] not in self._kept:
                self._kept[self._keys[path]] = self._put(files)
        return Parcel(path, self._keys[path], self._kept[self._keys[path]])


class Desk:
    """On the machine that works. ``shelf``: a folder for all workers there, ``desk``: one for this worker alone;
    ``every``: seconds between two checkpoints that go home during a segment."""

    def __init__(self, shelf: Path, desk: Path, get: Callable[[Any], Files], every: float = HOME_EVERY) -> None:
        self._shelf, self._desk, self._get, self._every = shelf, desk, get, every
        self._open = ""  # the folder at home that ``run`` stands for
        self._seen: dict[str, tuple[int, int]] = {}  # files that home has: size and time
        self._keep, self._sent = "", 0.0

    @property
    def run(self) -> Path:
        """Where the trial at hand works."""
        return self._desk / "run"

    def lay_out(self, task: Task, parcels: list[Parcel]) -> Task:
        """The task with paths of this machine, its files there. Raises OSError."""
        here = {parcel.path: str(self._unpack(parcel)) for parcel in parcels}
        task = {**task, **{name: here[task[name]] for name in ("cache", "folder", "model") if task.get(name) in here}}
        if "config" in task:
            model, train = dict(task["config"]["model"]), dict(task["config"]["train"])
            model["path"] = here.get(model["path"], model["path"])
            table = train["augment"].get("synonyms")
            train["augment"] = {**train["augment"], "synonyms": here.get(table, table)}
            task["config"] = {**task["config"], "model": model, "train": train}
        self._keep, self._sent = task.get("keep") or "", time.monotonic()
        if self._keep:
            self._desk.mkdir(parents=True, exist_ok=True)
            task["keep"] = str(self._desk / "keep")
            (self._desk / "keep").unlink(missing_ok=True)
        return task

    def _unpack(self, parcel: Parcel) -> Path:
        if not parcel.key:
            return self._unpack_run(parcel)
        place = self._shelf / parcel.key
        with disk.file_lock(self._shelf / f"{parcel.key}.lock"):
            if not place.exists():
                draft = self._shelf / f".{parcel.key}"
                shutil.rmtree(draft, ignore_errors=True)
                write(self._get(parcel.content), draft)
                disk.put(draft, place)
        return place

    def _unpack_run(self, parcel: Parcel) -> Path:
        if parcel.content is not None or self._open != parcel.path:
            shutil.rmtree(self.run, ignore_errors=True)
            self.run.mkdir(parents=True)
            write(self._get(parcel.content or {}), self.run)
            self._open, self._seen = parcel.path, self._state()
        return self.run

    def _state(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self.run.rglob("*"):
            inside = path.relative_to(self.run)
            if path.is_file() and not any(part.startswith(".") for part in inside.parts):
                stat = path.stat()
                found[inside.as_posix()] = (stat.st_size, stat.st_mtime_ns)
        return found

    def changed(self) -> dict[str, dict[str, bytes]]:
        """Files that home lacks, by their folder there and their path in it. A model goes home as a whole."""
        state = self._state() if self._open else {}
        new = {name for name, at in state.items() if self._seen.get(name) != at}
        folders = {name.split("/")[0] for name in new if "/" in name}
        new |= {name for name in state if name.split("/")[0] in folders}
        self._seen, self._sent = state, time.monotonic()
        found = {self._open: {name: (self.run / name).read_bytes() for name in sorted(new)}} if new else {}
        if self._keep and (self._desk / "keep").exists():
            keep = Path(self._keep)
            found[str(keep.parent)] = {keep.name: (self._desk / "keep").read_bytes()}
        return found

    def due(self) -> bool:
        """Whether it is time that a new checkpoint comes home while its segment goes on."""
        if not self._open or time.monotonic() - self._sent < self._every:
            return False
        path = self.run / CHECKPOINT
        return path.exists() and self._seen.get(CHECKPOINT) != (path.stat().st_size, path.stat().st_mtime_ns)


def bring(home: Mapping[str, Files]) -> None:
    """Put files that came home in their folders: models before the checkpoints that know of them, each whole."""
    for name, files in home.items():
        folder = Path(name)
        disk.make_folder(folder)
        model = {path.removeprefix("model/"): files[path] for path in files if path.startswith("model/")}
        if model:
            draft, old = folder / ".model.home", folder / ".model.old"
            for left in (draft, old):
                shutil.rmtree(left, ignore_errors=True)
            write(model, draft)
            if (folder / "model").exists():
                os.rename(folder / "model", old)  # a rename cannot replace a folder that holds files
            disk.put(draft, folder / "model")
            shutil.rmtree(old, ignore_errors=True)
        for path, content in files.items():
            if not path.startswith("model/"):
                disk.make_folder((folder / path).parent)
                with disk.whole(folder / path) as whole:
                    whole.write_bytes(content)


def read(path: Path) -> dict[str, bytes]:
    """The files of a folder, or a file by itself."""
    if not path.is_dir():
        return {"": path.read_bytes()}
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and "__pycache__" not in file.parts)
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def write(files: Files, path: Path) -> None:
    """What ``read`` read, at ``path``."""
    if set(files) == {""}:
        path.write_bytes(files[""])
        return
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def _at(config: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        config = config.get(name) or {}
    return config or None


def _key(files: Files) -> str:
    """One name for equal files."""
    known = hashlib.sha256()
    for name, content in sorted(files.items()):
        known.update(f"{name}\0{len(content)}\0".encode() + content)
    return known.hexdigest()[:32]
