"""What this process keeps of memory that it has freed.

glibc gives large freed blocks back to the system at once and the next step asks for them again, page by page, each of
which the system fills with zeros: 23,500 page faults a step of MiniLM-L6 with 32 triplets of 32 tokens a text, 4 % of
its time. So a worker keeps what a step frees. It gives it back when it begins something else, and in the middle of a
step that keeps much when it has grown large.
"""

from __future__ import annotations

import ctypes
from typing import Any

import psutil

from embsearch.model.arena import ARENA

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # malloc.h: mallopt(3)
# Bytes: of free memory at the end of the heap that is kept (-1: all of it); by which the heap grows; of a block from
# which on it stands alone and goes back when it is freed, and the most that older versions take for that.
KEPT, GROWN, ALONE, ALONE_BEFORE = -1, 64 * 2**20, 2**30, 32 * 2**20


def keep() -> bool:
    """Let freed memory stay with this process from now on; whether its C library, glibc, can."""
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    alone = mallopt(MMAP_THRESHOLD, ALONE) or mallopt(MMAP_THRESHOLD, ALONE_BEFORE)
    return bool(alone and mallopt(TRIM_THRESHOLD, KEPT) and mallopt(TOP_PAD, GROWN))


def give_back() -> None:
    """Return what is free to the system, the arena where nothing lies in it."""
    ARENA.give_back()
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def resident() -> int:
    """Bytes of main memory that this process takes."""
    return int(psutil.Process().memory_info().rss)


def _glibc(name: str) -> Any:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such handle
        return None
    # others may know the name and do nothing: this one is glibc's alone
    return getattr(library, name, None) if hasattr(library, "gnu_get_libc_version") else None
