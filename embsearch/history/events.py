"""Every kind of event that a log may hold, once. docs/reference/events.md describes them for readers.

An event's fields, in their order, are its JSON. A field marked ``OPTIONAL`` is written only where it
differs from its default. Logs of older versions lack the fields that have defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeVar

from embsearch.codec import Json, JsonObject, from_json, to_json
from embsearch.values import (
    EarlierStudy,
    FailureClass,
    Measurement,
    Origin,
    Reading,
    Scalar,
    Segment,
)

OPTIONAL = {"optional": True}
Point = Sequence[Any]  # [step, Unix milliseconds, {metric: value}]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of a log. ``spent`` counts the seconds of all sessions of the study by then.

    ``link`` is a digest of the line and of all before it (history/log.py); logs of older versions
    have none.
    """

    kind: ClassVar[str] = ""
    seq: int = -1
    time: int = 0  # Unix milliseconds
    spent: float | None = None
    link: str = ""

    def at(self, seq: int, time: int, spent: float | None) -> Event:
        """Return the event with its place in a log."""
        return replace(self, seq=seq, time=time, spent=spent)


# ---- of a trial ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Created(Event):
    """A trial was suggested. ``attributes``: what the sampler keeps in Optuna's trial. ``origin``: who thought
    of it. ``members``: trial and run of each model that a soup is the mean of."""

    kind = "created"
    trial: int
    params: Mapping[str, Scalar]
    attempt: int = 0
    axes: Mapping[str, Scalar] = field(default_factory=dict)
    attributes: Json = field(default_factory=dict, metadata=OPTIONAL)
    origin: Origin = field(default="", metadata=OPTIONAL)
    members: Sequence[tuple[int, int]] = field(default=(), metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """A segment was given to a worker."""

    kind = "segment"
    segment: Segment
    slot: int = 0


@dataclass(frozen=True, kw_only=True)
class Trained(Event):
    """Training metrics, each step once."""

    kind = "points"
    points: Sequence[Point]
    seed: int = field(default=0, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    """An evaluation of one of a trial's runs: the fields of ``values.Measurement``."""

    rung: int
    step: int
    texts_seen: int
    metrics: Mapping[str, float]
    seconds: float
    last: bool = False
    why: str = ""
    rows: int = 0
    machine: Mapping[str, Scalar] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict, metadata=OPTIONAL)

    @property
    def run(self) -> int:
        """The seed of the run: 0 for the trial's own."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Measured(Evaluated):
    """An evaluation of a trial's own run. ``seeds`` says how many runs are compared there."""

    kind = "measured"
    seeds: int = 1


@dataclass(frozen=True, kw_only=True)
class Repeated(Evaluated):
    """An evaluation of a run with another seed."""

    kind = "repeated"
    seed: int
    seeds: int = 1

    @property
    def run(self) -> int:
        return self.seed


@dataclass(frozen=True, kw_only=True)
class Compared(Event):
    """The mean of all runs of a trial at an evaluation, which is its value there."""

    kind = "compared"
    rung: int
    value: float
    values: Sequence[float]
    step: int


@dataclass(frozen=True, kw_only=True)
class Decided(Event):
    """A decision after a measurement, or that a paused trial goes on. ``attributes``: what a pruner of Optuna
    keeps in Optuna's trial."""

    kind = "decided"
    decision: Literal["continue", "pause", "stop"]
    reason: str
    attributes: Json = field(default_factory=dict, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """A failure of a segment, or the death of its worker."""

    kind = "failed"
    failure: FailureClass
    message: str
    traceback: str = ""
    attempt: int = 0


@dataclass(frozen=True, kw_only=True)
class Ended(Event):
    """The end of a trial: the fields of ``values.Outcome``, its best value, its model's folder and
    the sha256 over the files there."""

    kind = "ended"
    state: Literal["complete", "pruned", "failed"]
    reason: str
    value: float | None = None
    failure: FailureClass | None = None
    objective: float | None = None
    model: str | None = None
    digest: str = field(default="", metadata=OPTIONAL)


# ---- of a study ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Opened(Event):
    """The beginning of a session.

    ``like``: the studies of ``study.like``, as they were; None: those of the session before.
    """

    kind = "opened"
    name: str
    task: str = ""
    question: str = ""
    home_id: str = ""
    data: str = ""
    config: str = ""
    rows: Json = field(default_factory=dict)
    environment: Json = field(default_factory=dict)
    like: Sequence[EarlierStudy] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Enough(Event):
    """The gain that another trial promises, where it is less than ``stop.gain``."""

    kind = "enough"
    gain: float


@dataclass(frozen=True, kw_only=True)
class Baseline(Event):
    """The untuned encoder on the validation rows.

    ``encoders``: where several are searched, what each is by its path: ``metrics`` untuned,
    ``parameters``, ``milliseconds`` a text.
    """

    kind = "baseline"
    metrics: Mapping[str, float]
    readings: Sequence[Reading] = ()
    compute: str = ""
    seconds: float = 0.0
    config: str = ""
    data: str = ""
    encoders: Json = field(default_factory=dict, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Told(Event):
    """The end of a trial in the study's own log, which puts all ends into one order."""

    kind = "told"
    trial: int
    state: str
    value: float | None = None
    rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Tested(Event):
    """A row of the final table: a model on the test rows."""

    kind = "tested"
    label: str
    trial: int | None = None
    split: str = "test"
    metrics: Mapping[str, float] = field(default_factory=dict)
    auc: Json | None = None  # the interval of the primary metric
    segments: Json = field(default_factory=dict)
    seconds: float = 0.0
    files: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    data: str = ""


@dataclass(frozen=True, kw_only=True)
class Judged(Event):
    """A trial's model on all validation rows, where the search read some of them.

    ``failure`` says why it could not be measured; then there are no metrics.
    """

    kind = "judged"
    trial: int
    rows: int
    metrics: Mapping[str, float]
    seconds: float = 0.0
    failure: str = field(default="", metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Confirmed(Event):
    """The values of fresh seeds of one of the best configurations."""

    kind = "confirmed"
    trial: int
    value: float
    values: Sequence[float]
    failed: int = 0
    mean: float = 0.0
    luck: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Unconfirmed(Event):
    """A run with a fresh seed that failed for good."""

    kind = "unconfirmed"
    trial: int
    seed: int
    failure: FailureClass
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Closed(Event):
    """The end of a study. ``ends``: the link of the last event of each trial."""

    kind = "closed"
    why: str
    best: int | None
    result: Json
    ends: Mapping[str, str] = field(default_factory=dict, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Promoted(Event):
    """The verdict of the promotion gates."""

    kind = "promoted"
    version: Json | None = field(default=None, metadata=OPTIONAL)
    refused: str = field(default="", metadata=OPTIONAL)
    gates: Sequence[Json] = field(default=(), metadata=OPTIONAL)
    run: str | None = field(default=None, metadata=OPTIONAL)
    trial: int | None = None


@dataclass(frozen=True, kw_only=True)
class TestSetUsed(Event):
    """A model that was judged by test rows: an event of the home's own log."""

    kind = "looked"
    rows: str
    model: str
    by: str
    alone: bool = field(default=False, metadata=OPTIONAL)  # it was the only one of its study


@dataclass(frozen=True, kw_only=True)
class Registered(Event):
    """A registered version as MLflow had it: an event of the home's own log."""

    kind = "registered"
    name: str
    version: int
    tags: Json
    text: str = field(default="", metadata=OPTIONAL)  # its description


@dataclass(frozen=True, kw_only=True)
class Moved(Event):
    """A move of a champion as its history in MLflow had it: an event of the home's own log."""

    kind = "moved"
    name: str
    number: int  # of the history's entry
    entry: Json


@dataclass(frozen=True, kw_only=True)
class Unknown(Event):
    """An event of a kind that this version does not know. It is passed over."""

    name: str
    content: Json


E = TypeVar("E", bound=Event)


def of_kind(log: Iterable[Event], kind: type[E]) -> list[E]:
    """Return the events of one kind, in their order."""
    return [event for event in log if isinstance(event, kind)]


OF_TRIAL = (Created, Started, Trained, Measured, Repeated, Compared, Decided, Failed, Ended)
OF_STUDY = (
    *(Opened, Enough, Baseline, Told, Judged, Tested, Confirmed, Unconfirmed),
    *(Closed, Promoted),
)
OF_HOME = (TestSetUsed, Registered, Moved)
KINDS: dict[str, type[Event]] = {one.kind: one for one in (*OF_TRIAL, *OF_STUDY, *OF_HOME)}
PLACE = ("seq", "time", "spent", "link")


def encode(event: Event) -> JsonObject:
    """Return an event as a JSON object."""
    content: JsonObject = {"seq": event.seq, "time": event.time, "kind": event.kind}
    for one in fields(event):
        if one.name in PLACE:
            continue
        value = getattr(event, one.name)
        is_default = value is None if one.default is None else not value
        if not (is_default and one.metadata.get("optional")):
            content[one.name] = to_json(value)
    if event.spent is not None:
        content["spent"] = event.spent
    return content


def decode(content: Json) -> Event:
    """Make the event of a JSON object. Raises TypeError where a field that its kind needs is
    missing.
    """
    kind = KINDS.get(content["kind"])
    if kind is None:
        place = {name: content.get(name) for name in PLACE}
        return Unknown(name=content["kind"], content=content, **place)  # type: ignore[arg-type]
    return from_json(kind, content)


def evaluated(measurement: Measurement, seed: int, seeds: int) -> Measured | Repeated:
    """Return the event of a measurement by the run with ``seed``, one of ``seeds`` that are
    compared.
    """
    if seed:
        return Repeated(**vars(measurement), seed=seed, seeds=seeds)
    return Measured(**vars(measurement), seeds=seeds)
