"""Copies, on this disk, of data at addresses (s3://, gs://, hf://datasets/, https://), by fsspec.

A copy is named by what the address says of its files, so every command reads what lies there now;
it asks once, so that all of it reads the same.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from embsearch import disk
from embsearch.codec import JsonObject
from embsearch.config import secrets
from embsearch.errors import DataError, first_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# What tells one version of a file from the next, by the words of several stores
_VERSION = {
    *["ETag", "etag", "mtime", "created", "updated", "LastModified", "last_modified", "blob_id"]
}


def is_address(path: str) -> bool:
    """Return whether ``path`` may name something that does not lie on this disk."""
    return "://" in path or secrets.refers(path)


def is_there(path: str) -> bool:
    """Return whether a file or folder is there; of an address only its reader knows."""
    return is_address(path) or Path(path).expanduser().exists()


@cache
def fetched(address: str, setting: str, kept_in: Path) -> Path:
    """Return the copy of the file or the folder at ``address``. Raises DataError."""
    from fsspec.core import url_to_fs

    whole = secrets.revealed(address)
    try:
        files, root = url_to_fs(whole.rstrip("/"))
        names = files.find(root) if files.isdir(root) else [root]
        about = {name: _version(files, name) for name in names}
        digest = hashlib.sha256(json.dumps([address, about], default=str).encode()).hexdigest()
        copy = kept_in / "fetched" / digest[:32]
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with disk.draft_of(copy) as draft:
                for name in names:
                    inside = name[len(root) :].strip("/")
                    place = draft / _last(root) / inside
                    place.parent.mkdir(parents=True, exist_ok=True)
                    files.get_file(name, str(place))
                disk.put(draft, copy)
    except Exception as error:  # each store's library has its own
        raise DataError(
            f"{setting}={address}: cannot be read ({type(error).__name__}: {first_line(error)}); "
            f"check the address and the login, or fetch the data and name them: {setting}=FILE"
        ) from error
    return copy / _last(root)


def _version(files: AbstractFileSystem, name: str) -> JsonObject:
    """Return what a store says of a file, with its digest where that names no version."""
    info: JsonObject = files.info(name)
    if info.keys() & _VERSION:
        return info
    return {**info, "sha256": hashlib.sha256(files.cat_file(name)).hexdigest()}


def _last(path: str) -> str:
    """Return the last name of a path: without its parameters where one of them is a secret."""
    if secrets.secrets_in(path):
        path = path.partition("?")[0]
    return path.rpartition("/")[2]
