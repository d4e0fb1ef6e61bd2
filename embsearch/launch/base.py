"""The launching seam: slots that take one job at a time and answer with messages.

Only the coordinator decides; a launcher carries. Moving a study to other machines changes
the launcher and nothing else. Between processes jobs and messages travel as JSON, made by
``encode`` and read by ``decode_job`` and ``decode_message``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from embsearch.codec import Json, JsonObject, from_json, to_json
from embsearch.values import FailureClass, Interval, Measurement, Reading, Segment

T = TypeVar("T")
Point = tuple[int, int, Mapping[str, float]]  # step, Unix milliseconds, metrics

# Workers that may each report points every second: each report is one line that is synced to disk.
REPORTING = 100


@dataclass(frozen=True)
class TrainJob:
    """A trial's way to the next evaluation, from the checkpoint in ``folder``; or, with
    ``members``, the mean of these saved models. Answered by Points and Measured.
    """

    kind = "segment"
    segment: Segment
    config: Json
    folder: str  # of the trial's run: its checkpoint and model
    cache: str  # of the prepared data
    queries: tuple[int, ...] = ()  # how many validation queries each evaluation reads; empty: all
    points_every: float = 1.0  # seconds between two messages about the loss
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluateJob:
    """A model to measure on one split. Answered by Evaluated."""

    kind = "evaluate"
    split: str
    config: Json
    cache: str
    model: str | None = None  # a saved model's folder; None: the untuned encoder
    full: bool = False  # with the interval, the segments and the pool
    # About so many rows. None: all with ``full``, else as many as trials are measured on.
    most: int | None = None
    keep: str | None = None  # a file for what the model says of every row
    others: tuple[Json, ...] = ()  # configs whose untuned encoders must do too


@dataclass(frozen=True)
class ProbeJob:
    """A measurement of a machine for ``embsearch plan``. Answered by Probed."""

    kind = "probe"
    what: str  # a function of probe.py
    config: Json
    folder: str
    cache: str


Job = TrainJob | EvaluateJob | ProbeJob


@dataclass(frozen=True)
class Ready:
    """The slot's worker has begun to listen."""

    kind = "ready"


@dataclass(frozen=True)
class Note:
    """A line for whoever watches, as that workers wait in a queue."""

    kind = "note"
    text: str


@dataclass(frozen=True)
class Points:
    """Training metrics since the last message."""

    kind = "points"
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Measured:
    """The end of a TrainJob."""

    kind = "measured"
    measurement: Measurement


@dataclass(frozen=True)
class Evaluated:
    """The end of an EvaluateJob.

    ``auc`` and ``segments`` are there where all was asked for, ``readings`` where not. ``encoders``:
    what each of several encoders is untuned (metrics, parameters, milliseconds a text), by its path.
    """

    kind = "evaluated"
    metrics: Mapping[str, float]
    compute: str
    seconds: float
    auc: Interval | None = None
    segments: Json = field(default_factory=dict)
    readings: tuple[Reading, ...] = ()
    encoders: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Probed:
    """The end of a ProbeJob."""

    kind = "probed"
    values: Json


@dataclass(frozen=True)
class Halted:
    """The end of a TrainJob whose checkpoint was saved on request."""

    kind = "halted"


@dataclass(frozen=True)
class Failed:
    """The end of any job: it raised an error."""

    kind = "failed"
    failure: FailureClass
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class Died:
    """The end of any job: its worker is gone, and the slot gets a fresh one.

    ``idle``: the worker had no job.
    """

    kind = "died"
    failure: Literal["killed", "hung"]
    message: str
    idle: bool = False


Message = Ready | Note | Points | Measured | Evaluated | Probed | Halted | Failed | Died
# A message after which the slot is free.
Ending = Measured | Evaluated | Probed | Halted | Failed | Died

JOBS: Mapping[str, type[Job]] = {job.kind: job for job in (TrainJob, EvaluateJob, ProbeJob)}
MESSAGES: Mapping[str, type[Message]] = {
    message.kind: message
    for message in (
        Ready, Note, Points, Measured, Evaluated, Probed, Halted, Failed, Died,
    )
}  # fmt: skip


def encode(value: Job | Message) -> JsonObject:
    """Return a job or a message as a JSON object."""
    return {"kind": value.kind, **to_json(value)}


def decode_job(content: object) -> Job:
    """Return the job that ``encode`` made JSON of. Raises ValueError where it is none."""
    return _decode(JOBS, content)


def decode_message(content: object) -> Message:
    """Return the message that ``encode`` made JSON of. Raises ValueError where it is none."""
    return _decode(MESSAGES, content)


def _decode(kinds: Mapping[str, type[T]], content: object) -> T:
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(kinds)}")
    try:
        return from_json(kinds[kind], content)
    except (TypeError, KeyError) as error:
        raise ValueError(f"kind={kind}: {error}") from error


class Launcher(Protocol):
    """A place where jobs run."""

    @property
    def workers(self) -> int:
        """Return the number of slots, also of those whose worker is still to come."""

    @property
    def idle(self) -> list[int]:
        """Return slots that can take a job now: their worker is there and has nothing to do."""

    def submit(self, slot: int, job: Job) -> None:
        """Start ``job`` in ``slot``, which must be idle."""

    def wait(self, timeout: float) -> list[tuple[int, Message]]:
        """Return messages that came, oldest first; after ``timeout`` seconds an empty list."""

    def halt(self) -> None:
        """Ask every running segment to save its checkpoint now and end as ``Halted``. No slot takes
        jobs any more. Returns at once; may be called by a signal handler."""

    def close(self) -> None:
        """Stop every worker now. Unfinished jobs are lost; their checkpoints are not."""


def points_every(workers: int) -> float:
    """Return the seconds between two reports of points by one of ``workers`` workers."""
    return max(1.0, workers / REPORTING)
