"""Variables that a worker's process finds in its environment, whoever starts it."""

from __future__ import annotations

import os


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environment(threads: int, sharers: int = 1) -> dict[str, str]:
    """Return the variables of a worker's process: ``threads`` for every library that computes.

    ``sharers``: workers on one GPU, this one among them.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) | {
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "EMBSEARCH_GPU_SHARERS": str(sharers),
    }
