"""One stretch of memory for what layers keep for their backward pass.

A step keeps hundreds of blocks until its backward pass, and every step's are of other sizes. On the
heap they come to lie among freed blocks that none of them fits into: with 2.5 GiB kept a worker
took 4.6 GB after five steps. Here each lies right behind the one before. Pages that no step has
needed yet take no memory (docs/decisions/0030-attention-in-pieces.md).
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from math import prod

import torch
from torch import Tensor

New = Callable[..., Tensor]  # an empty tensor of the type of another and a shape
SIZE = 9 * 2**28  # a sixth more than a step keeps (train/memory_budget.py); the rest is on the heap
ALIGNED = 64  # bytes: a vector of AVX-512


class Arena:
    """Blocks from one mapping, given out in a row.

    They come from the heap where the system has no mapping to give. ``top``: where the next block
    begins, in bytes.
    """

    def __init__(self, size: int = SIZE) -> None:
        # a lease may end, collected as garbage, while this thread holds the lock
        self._lock = threading.RLock()
        self._size = size
        self._ends = list[int | None]()  # of the leases in their order; None: over
        self.top = 0

    @cached_property
    def _map(self) -> mmap.mmap | None:
        return _mapped(self._size)

    @cached_property
    def _bytes(self) -> Tensor | None:
        return None if self._map is None else torch.frombuffer(self._map, dtype=torch.uint8)

    @property
    def mapped(self) -> bool:
        """Return true where there is such a mapping; the first to ask makes it."""
        return self._map is not None

    def lease(self) -> Lease:
        """Return a lease; what is taken through it lies here until it ends."""
        with self._lock:
            self._ends.append(self.top)
            number = len(self._ends) - 1
        return Lease(self, number)

    def take(self, lease: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a block, its content undefined, for the lease of that number."""
        size = prod(shape) * dtype.itemsize
        with self._lock:
            begin = -(-self.top // ALIGNED) * ALIGNED
            if self._bytes is None or begin + size > len(self._bytes):
                return torch.empty(shape, dtype=dtype)
            self.top = self._ends[lease] = begin + size
        return self._bytes[begin : begin + size].view(dtype).view(shape)

    def end(self, lease: int) -> None:
        """End the lease of that number: its blocks may be given out again."""
        with self._lock:
            self._ends[lease] = None
            while self._ends and self._ends[-1] is None:
                self._ends.pop()
            self.top = max((end for end in self._ends if end is not None), default=0)

    def release_unused(self) -> None:
        """Return pages that nothing lies in to the system."""
        with self._lock:
            made = self.__dict__.get("_map")
            if made is not None and not self._ends and hasattr(mmap, "MADV_DONTNEED"):
                made.madvise(mmap.MADV_DONTNEED)


class Lease:
    """The blocks of one chunk's layers, given out again once ``end`` was called or it is gone."""

    def __init__(self, arena: Arena, number: int) -> None:
        self._arena, self._number = arena, number

    def __call__(self, like: Tensor, *shape: int) -> Tensor:
        """Return a block of that shape and of the type of ``like``.

        Raises RuntimeError once the lease is over.
        """
        if self._number < 0:
            raise RuntimeError(
                "a block was asked of a lease that is over: its memory may be another's by now"
            )
        if like.device.type != "cpu":
            return like.new_empty(shape)
        return self._arena.take(self._number, shape, like.dtype)

    def end(self) -> None:
        """End the lease; a second time does nothing."""
        if self._number >= 0:
            self._arena.end(self._number)
            self._number = -1

    def __del__(self) -> None:
        self.end()


def _mapped(size: int) -> mmap.mmap | None:
    if not hasattr(mmap, "MAP_ANONYMOUS"):  # Windows counts addresses as memory
        return None
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    try:
        found = mmap.mmap(-1, size, flags=flags)
    except (OSError, ValueError, OverflowError):  # a limit on addresses
        return None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system without them
            found.madvise(mmap.MADV_HUGEPAGE)
    return found
