"""SHA256SUMS: the digests of a folder's files, which ``sha256sum --check`` understands.

Data, tokens, vectors: what is made once and read for years lies in folders that have one. It is
compared when a folder is read. A file that this process has compared is not read for it again
while its size and time stay.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from embsearch import disk

FILE = "SHA256SUMS"
_known: dict[Path, tuple[int, int, str]] = {}  # size, time and digest of files that were read


def write(folder: Path) -> None:
    """Write the digests of the files that lie in ``folder``."""
    lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / FILE).write_text("".join(lines), encoding="utf-8")


def damage(folder: Path) -> str:
    """Return what of a folder is not as it was written, in words; empty where all is."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return f"{FILE} cannot be read"
    for line in lines:
        digest, _, name = line.partition("  ")
        try:
            same = bool(name) and _sha256(folder / name) == digest
        except OSError:
            return f"{name} is missing"
        if not same:
            return f"{name or FILE} is not as it was written"
    return "" if lines else f"{FILE} is empty"


def keep_if_whole(folder: Path) -> bool:
    """Return whether ``folder`` is there as it was written; remove it where it is damaged.

    Standard error says so: whoever asks can make it again.
    """
    if not folder.exists():
        return False
    if not damage(folder):
        return True
    with disk.file_lock(folder.with_name(f".{folder.name}.lock")):
        fault = damage(folder)  # unless another process was first
        if fault and folder.exists():
            print(f"embsearch: {folder}: {fault}; it is made again", file=sys.stderr)
            with disk.draft_of(folder) as aside:
                folder.rename(aside / folder.name)
        return not fault


def put(draft: Path, folder: Path) -> None:
    """Give ``draft`` its digests and the name ``folder``; one of another process stays."""
    try:
        write(draft)
        disk.put(draft, folder)
    except OSError as error:
        if not folder.exists():
            raise OSError(error.errno, error.strerror, str(folder)) from error


def _sha256(path: Path) -> str:
    stat = path.stat()
    size, time, digest = _known.get(path, (-1, -1, ""))
    if (size, time) != (stat.st_size, stat.st_mtime_ns):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        _known[path] = stat.st_size, stat.st_mtime_ns, digest
    return digest
