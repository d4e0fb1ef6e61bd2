"""The coordinator's second thread: signs of life for the jobs, and what squeue says of them.

Nothing of it waits for the study, which may be busy for minutes, nor does the study wait for
Slurm's controller, which may be away.
"""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from embsearch.launch.slurm.mailbox import put
from embsearch.launch.slurm.queue import NotAnswering, Queue, State

LOOK_EVERY = 0.1  # seconds between looks at what there is to do
BEAT_EVERY = 10.0  # seconds between two signs of life

# When squeue was asked, on the monotonic clock, and what it said.
Seen = tuple[float, dict[str, State]]


class Heartbeat:
    """One session of the coordinator in ``folder``; asks squeue every so many seconds."""

    def __init__(self, folder: Path, queue: Queue, every: float) -> None:
        self.session = uuid.uuid4().hex
        # Set from outside, also by a signal handler: every job is to save and end.
        self.over = False
        self.away = ""  # why Slurm does not answer
        self._file, self._queue, self._every = folder / "coordinator.json", queue, every
        self._beats, self._stopped = 0, False
        self._seen: Seen | None = None
        self._thread = threading.Thread(target=self._run, name="slurm", daemon=True)
        self.beat()

    def start(self) -> None:
        """Go on by itself."""
        self._thread.start()

    def stop(self) -> None:
        """End the session. Returns soon, also where squeue hangs."""
        self.over = self._stopped = True
        if self._thread.is_alive():
            self._thread.join(1.0)
        with suppress(OSError):
            self.beat()

    def take(self) -> Seen | None:
        """Return what squeue said since the last call."""
        seen, self._seen = self._seen, None
        return seen

    def beat(self) -> None:
        """Write a sign of life. Raises OSError."""
        self._beats += 1
        put(self._file, {"session": self.session, "beat": self._beats, "over": self.over})

    def _run(self) -> None:
        beaten, over, asked = time.monotonic(), False, 0.0
        while not self._stopped:
            if self.over != over or time.monotonic() - beaten > BEAT_EVERY:
                with suppress(OSError):
                    self.beat()
                    beaten, over = time.monotonic(), self.over
            if time.monotonic() - asked > self._every:
                asked = time.monotonic()
                try:
                    self._seen, self.away = (asked, self._queue.states()), ""
                except NotAnswering as error:
                    self.away = str(error)
            time.sleep(LOOK_EVERY)
