"""Files that commands write for the user: checked before the work, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from embsearch import disk
from embsearch.errors import ConfigError


def check_output(output: str | None, *endings: str) -> Path | None:
    """Return the path of ``output=``. Raises ConfigError for a wrong ending or a missing folder."""
    if not output:
        return None
    path = Path(output).expanduser()
    if path.suffix not in endings:
        raise ConfigError(f"output={output}: expected a name ending in {' or '.join(endings)}")
    if path.is_dir():
        raise ConfigError(f"output={output}: is a folder; name a file")
    if not path.parent.is_dir():
        raise ConfigError(f"output={output}: there is no folder {path.parent}; make it first")
    return path


def check_new_folder(output: str | None) -> Path | None:
    """Return the path of ``output=`` for a new folder.

    Raises ConfigError if something lies there, or if there is no place for it.
    """
    if not output:
        return None
    path = Path(output).expanduser()
    if path.exists():
        raise ConfigError(f"output={output}: already there; name a new folder")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"output={output}: there is no folder {path.parent}; make it first")
    return path


def keep_folder(source: Path, path: Path) -> None:
    """Copy a folder to ``path``, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        shutil.copytree(source, draft)
        disk.put(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_whole(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step."""
    with disk.whole(path) as draft:
        draft.write_bytes(content)
