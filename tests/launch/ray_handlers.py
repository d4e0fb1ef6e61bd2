"""What stands in for a worker in tests of the launcher on Ray: imported by its actors."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Echo:
    """Answers at once, hangs, dies or asks for a file, as its task says."""

    halting = False
    outbox = None

    def __call__(self, task):
        if task["do"] == "hang":
            time.sleep(600)
        if task["do"] == "die":
            os._exit(3)
        if task["do"] == "segment":
            yield from self.segment(task)
            return
        yield {"kind": "evaluated", "metrics": {"pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}}

    def segment(self, task):
        """Writes a checkpoint a step; dies at step ``die_at``."""
        checkpoint = Path(task["folder"]) / "checkpoint.safetensors"
        step = int(checkpoint.read_text()) if checkpoint.exists() else 0
        while step < task["until"]:
            step += 1
            checkpoint.write_text(str(step))
            self.outbox({"kind": "points", "points": [[step, 0, {}]]})
            time.sleep(0.1)
            if step == task.get("die_at"):
                os._exit(1)
        yield {"kind": "measured", "measurement": {"step": step}}


class Broken:
    """A worker that cannot start, as where a package is missing."""

    def __init__(self):
        raise ModuleNotFoundError("No module named 'torch'")
