"""The memory that this process has freed and keeps.

glibc gives large freed blocks back to the system at once and the next step asks for them again,
page by page, each of which the system fills with zeros: 23,500 page faults a step of MiniLM-L6 with
32 triplets of 32 tokens a text, 4 % of its time. So a worker retains what a step frees. It releases
that when it begins something else, and in the middle of a step that keeps much when it has grown
large.
"""

from __future__ import annotations

import ctypes
from typing import Any

import psutil

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # malloc.h: mallopt(3)
KEPT = -1  # bytes of free memory at the end of the heap that are kept: all
GROWTH = 64 * 2**20  # bytes by which the heap grows
# Bytes of a block from which on it stands alone and goes back when it is freed, and the most that
# older versions take for that.
ALONE, ALONE_BEFORE = 2**30, 32 * 2**20


def retain_freed() -> bool:
    """Let freed memory stay with this process from now on.

    Returns false where its C library cannot: it is not glibc.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    alone = mallopt(MMAP_THRESHOLD, ALONE) or mallopt(MMAP_THRESHOLD, ALONE_BEFORE)
    return bool(alone and mallopt(TRIM_THRESHOLD, KEPT) and mallopt(TOP_PAD, GROWTH))


def release_freed() -> None:
    """Return free memory to the system."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def resident() -> int:
    """Return the bytes of main memory that this process takes."""
    return int(psutil.Process().memory_info().rss)


def _glibc(name: str) -> Any:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such handle
        return None
    # others may know the name and do nothing: this one is glibc's alone
    return getattr(library, name, None) if hasattr(library, "gnu_get_libc_version") else None
