"""Files for workers that do not see this machine's disk, and the files that come back from them.

A job names files: the prepared data, an encoder, a trial's folder, and what its config names
(config/files.py). ``FileShipper`` makes parcels of them, ``RemoteWorkspace``, on the other machine,
unpacks the parcels and gives the job paths of its own. What many jobs need is known by its content
and unpacked once a machine; a trial's folder belongs to one worker, travels with its checkpoint
alone, and comes home whenever a job ends, and on the way with each new checkpoint, some time apart.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from embsearch import disk
from embsearch.config.files import files_of, with_files
from embsearch.launch.base import EvaluateJob, Job, ProbeJob, TrainJob

HOME_EVERY = 30.0  # seconds between checkpoints that come home during a segment: 130 MB for MiniLM
CHECKPOINT = "checkpoint.safetensors"
Files = Mapping[str, bytes]  # by the path inside a folder; "" for a file by itself


@dataclass(frozen=True)
class Parcel:
    """``content``: ``Files``, or what ``put`` made of them; None: the worker has it already."""

    path: str  # where it lies at home
    key: str  # of its content; empty for a folder that a trial works in
    content: object


class FileShipper:
    """Makes parcels of what jobs read, at home.

    ``put`` keeps files where every machine can fetch them, and returns what to ask for.
    """

    def __init__(self, put: Callable[[Files], object]) -> None:
        self._put = put
        self._kept: dict[str, object] = {}  # by key
        self._keys: dict[str, str] = {}  # by path, of what never changes

    def pack(self, job: Job, holds: str) -> list[Parcel]:
        """Return parcels of all that ``job`` reads.

        ``holds``: the trial's folder whose newest files the worker has.
        """
        if not isinstance(job, (TrainJob, EvaluateJob, ProbeJob)):
            return []  # the worker will say so
        fixed = [job.cache, *files_of(job.config).values()]
        found = [self._fixed(path) for path in fixed if path and Path(path).exists()]
        if isinstance(job, EvaluateJob):
            if job.model and Path(job.model).exists():
                self._keys.pop(job.model, None)  # the path of a trial's model may hold another now
                found.append(self._fixed(job.model))
        else:
            found.append(self._folder(job.folder, holds))
        if isinstance(job, TrainJob):
            for member in job.members:
                self._keys.pop(member, None)
                found.append(self._fixed(member))
        return found

    def _folder(self, folder: str, holds: str) -> Parcel:
        checkpoint = Path(folder) / CHECKPOINT
        there = {CHECKPOINT: checkpoint.read_bytes()} if checkpoint.exists() else {}
        return Parcel(folder, "", None if holds == folder and there else there)

    def _fixed(self, path: str) -> Parcel:
        if path not in self._keys:
            files = read(Path(path))
            key = self._keys[path] = _key(files)
            if key not in self._kept:
                self._kept[key] = self._put(files)
        key = self._keys[path]
        return Parcel(path, key, self._kept[key])


class RemoteWorkspace:
    """Files of the jobs of one worker, on the machine that works.

    ``shelf``: a folder for all workers there, ``own``: one for this worker alone; ``every``:
    seconds between two checkpoints that go home during a segment.
    """

    def __init__(
        self, shelf: Path, own: Path, get: Callable[[object], Files], every: float = HOME_EVERY
    ) -> None:
        self._shelf, self._own, self._get, self._every = shelf, own, get, every
        self._open = ""  # the folder at home that ``run`` stands for
        self._seen: dict[str, tuple[int, int]] = {}  # files that home has: size and time
        self._keep, self._sent = "", 0.0

    @property
    def run(self) -> Path:
        """Return the folder in which the trial at hand works."""
        return self._own / "run"

    def lay_out(self, job: Job, parcels: list[Parcel]) -> Job:
        """Return the job with paths of this machine, its files there. Raises OSError."""
        here = {parcel.path: str(self._unpack(parcel)) for parcel in parcels}
        named = files_of(job.config)
        moved = {path: here[file] for path, file in named.items() if file in here}
        cache = here.get(job.cache, job.cache)
        job = replace(job, cache=cache, config=with_files(job.config, moved))
        self._keep, self._sent = "", time.monotonic()
        if isinstance(job, TrainJob):
            members = tuple(here.get(member, member) for member in job.members)
            return replace(job, folder=here.get(job.folder, job.folder), members=members)
        if not isinstance(job, EvaluateJob):
            return replace(job, folder=here.get(job.folder, job.folder))
        if job.model is not None:
            job = replace(job, model=here.get(job.model, job.model))
        return self._kept_here(job) if job.keep else job

    def _kept_here(self, job: EvaluateJob) -> EvaluateJob:
        """Return the job with a place of this machine for the file that it keeps."""
        self._keep = job.keep or ""
        self._own.mkdir(parents=True, exist_ok=True)
        (self._own / "keep").unlink(missing_ok=True)
        return replace(job, keep=str(self._own / "keep"))

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
            self._open = ""  # until all is there: half of it must never go home
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
        """Return files that home lacks, by their folder there and their path in it.

        A model goes home as a whole.
        """
        state = self._state() if self._open else {}
        new = {name for name, at in state.items() if self._seen.get(name) != at}
        folders = {name.split("/")[0] for name in new if "/" in name}
        new |= {name for name in state if name.split("/")[0] in folders}
        self._seen, self._sent = state, time.monotonic()
        found: dict[str, dict[str, bytes]] = {}
        if new:
            found[self._open] = {name: (self.run / name).read_bytes() for name in sorted(new)}
        if self._keep and (self._own / "keep").exists():
            keep = Path(self._keep)
            found[str(keep.parent)] = {keep.name: (self._own / "keep").read_bytes()}
        return found

    def due(self) -> bool:
        """Return whether a new checkpoint is to come home while its segment goes on."""
        if not self._open or time.monotonic() - self._sent < self._every:
            return False
        path = self.run / CHECKPOINT
        if not path.exists():
            return False
        stat = path.stat()
        return self._seen.get(CHECKPOINT) != (stat.st_size, stat.st_mtime_ns)


def bring(home: Mapping[str, Files]) -> None:
    """Put files that came home in their folders, each whole.

    Models come before the checkpoints that know of them.
    """
    for name, files in home.items():
        folder = Path(name)
        disk.make_folder(folder)
        prefix = "model/"
        model = {p.removeprefix(prefix): files[p] for p in files if p.startswith(prefix)}
        if model:
            draft, old = folder / ".model.home", folder / ".model.old"
            for left in (draft, old):
                shutil.rmtree(left, ignore_errors=True)
            write(model, draft)
            if (folder / "model").exists():
                # A rename cannot replace a folder that holds files.
                os.rename(folder / "model", old)
            disk.put(draft, folder / "model")
            shutil.rmtree(old, ignore_errors=True)
        for path, content in files.items():
            if not path.startswith("model/"):
                disk.make_folder((folder / path).parent)
                with disk.whole(folder / path) as whole:
                    whole.write_bytes(content)


def read(path: Path) -> dict[str, bytes]:
    """Return the files of a folder, or a file by itself."""
    if not path.is_dir():
        return {"": path.read_bytes()}
    found = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            found[file.relative_to(path).as_posix()] = file.read_bytes()
    return found


def write(files: Files, path: Path) -> None:
    """Write what ``read`` read to ``path``."""
    if set(files) == {""}:
        path.write_bytes(files[""])
        return
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def _key(files: Files) -> str:
    """Return one name for equal files."""
    known = hashlib.sha256()
    for name, content in sorted(files.items()):
        known.update(f"{name}\0{len(content)}\0".encode() + content)
    return known.hexdigest()[:32]
