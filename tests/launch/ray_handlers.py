"""What stands in for a worker in tests of the launcher on Ray: imported by its actors."""

from __future__ import annotations

import os
import time
from pathlib import Path

from embsearch.launch.base import Measured, Points, Probed, TrainJob
from embsearch.values import Measurement


class Echo:
    """Answers at once, hangs, dies or trains steps, as its job says."""

    halting = False

    def __init__(self, send):
        self.send = send

    def __call__(self, job):
        if isinstance(job, TrainJob):
            yield from self.train(job)
            return
        if job.what == "hang":
            time.sleep(600)
        if job.what == "die":
            os._exit(3)
        yield Probed({"pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]})

    def train(self, job):
        """Writes a checkpoint a step; dies at step ``die_at``."""
        checkpoint = Path(job.folder) / "checkpoint.safetensors"
        step = int(checkpoint.read_text()) if checkpoint.exists() else 0
        while step < job.segment.until:
            step += 1
            checkpoint.write_text(str(step))
            self.send(Points(((step, 0, {}),)))
            time.sleep(0.1)
            if step == job.config.get("die_at"):
                os._exit(1)
        yield Measured(Measurement(1, step, step, {}, 1.0))


class Broken:
    """A worker that cannot start, as where a package is missing."""

    def __init__(self, send):
        raise ModuleNotFoundError("No module named 'torch'")
