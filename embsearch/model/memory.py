"""What this process keeps of memory that it has freed.

glibc gives large freed blocks back to the system at once and the next step asks for them again, page by page, each of
which the system fills with zeros: 23,500 page faults a step of MiniLM-L6 with 32 triplets of 32 tokens a text, 4 % of
its time. So a worker keeps what a step frees, and gives it back when another trial begins.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Any

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # malloc.h: mallopt(3)
# Bytes: free ones at the end of the heap that are kept (no more fit into an int), by which it grows, and of a block
# from which on it stands alone and goes back when it is freed.
KEPT, GROWN, ALONE = 2**31 - 1, 64 * 2**20, 2**30


def keep() -> bool:
    """Let freed memory stay with this process from now on; whether its C library, glibc, can."""
    mallopt = _glibc("mallopt")
    settings = ((MMAP_THRESHOLD, ALONE), (TRIM_THRESHOLD, KEPT), (TOP_PAD, GROWN))
    return mallopt is not None and all(mallopt(*setting) for setting in settings)


def give_back() -> None:
    """Return what is free to the system."""
    gc.collect()
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _glibc(name: str) -> Any:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such handle
        return None
    # others may know the name and do nothing: this one is glibc's alone
    return getattr(library, name, None) if hasattr(library, "gnu_get_libc_version") else None
