"""Files that outlive a power cut: whole under their name, and on the disk before whatever follows from them.
And a lock that no dead process can keep."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def is_read_only(folder: Path) -> bool:
    """Return whether a folder is there and this process may not write in it."""
    return folder.is_dir() and not os.access(folder, os.W_OK)


def settle(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems know it for files only
            raise
    finally:
        os.close(handle)


def settle_all(draft: Path) -> None:
    """Bring a file, or a folder with all that is in it, to the disk."""
    for file in draft.rglob("*") if draft.is_dir() else ():
        settle(file)
    settle(draft)


def _share(draft: Path) -> None:
    """Give the files of a folder its rights: libraries write some for their owner alone."""
    rights = draft.stat().st_mode & 0o666
    for file in draft.rglob("*"):
        if file.is_file():
            file.chmod(rights)


def put(draft: Path, path: Path) -> None:
    """Give ``draft``, a file or a folder, the name ``path``: afterwards it is there whole, before not at all."""
    if draft.is_dir():
        _share(draft)
    settle_all(draft)
    os.replace(draft, path)
    settle(path.parent)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a draft to write while the context runs. Afterwards it has the name ``path``; if that
    fails, nothing is left of it and ``path`` is as it was.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        put(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def copy(source: str, target: str) -> str:
    """Copy a file. A file system that can (btrfs, XFS) shares the blocks until one is changed."""
    with open(source, "rb") as old, open(target, "wb") as new, suppress(AttributeError, OSError):
        while os.copy_file_range(old.fileno(), new.fileno(), 2**30):
            pass
        return target
    return shutil.copyfile(source, target)


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside ``folder``, to be filled and given its name while the context runs;
    afterwards nothing is left of it under another name.
    """
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    draft.mkdir()  # with the rights that the user gives to new folders
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def make_folder(path: Path) -> None:
    """``mkdir -p``, each new name on the disk."""
    if not path.is_dir():
        make_folder(path.parent)
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        path.mkdir(exist_ok=True)
        settle(path.parent)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold ``path`` for this process alone; freed by the kernel when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            import fcntl
        except ImportError:  # Windows: one process at a time is the user's to see to
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
