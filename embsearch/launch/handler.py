"""The worker as a launcher sees it, and how a process that has one answers jobs in JSON."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Protocol

from embsearch.codec import JsonObject
from embsearch.launch.base import Failed, Job, Message, decode_job

Send = Callable[[Message], None]


class Handler(Protocol):
    """A worker: it answers one job at a time with messages, the last of which ends the job."""

    halting: bool  # set from outside: save a checkpoint after this step and end the job

    def __call__(self, job: Job, /) -> Iterator[Message]:
        """Yield the messages of a job. An error becomes ``Failed``."""

    def close(self) -> None:
        """End whatever the worker has started."""


# Makes the worker of a process, as ``worker.begin`` does. ``Send`` takes what is said during a job.
MakeHandler = Callable[[Send], Handler]


def answers(
    handler: Handler, content: JsonObject, decode: Callable[[JsonObject], Job] = decode_job
) -> Iterator[Message]:
    """Yield the messages of a job that came as JSON. One that cannot be read fails as a bug."""
    try:
        job = decode(content)
    except ValueError as error:
        yield Failed("bug", f"ValueError: {error}", traceback.format_exc())
        return
    yield from handler(job)
