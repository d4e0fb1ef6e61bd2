"""What tests ask of processes that others started."""

from __future__ import annotations

import time

import psutil


def gone(pids, seconds=20):
    """Whether every process ends in time (a zombie has)."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        alive = [
            p
            for p in pids
            if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE
        ]
        if not alive:
            return True
        time.sleep(0.1)
    return False
