"""The records that cross rooms. Frozen, checked when made, and JSON all the way down.

``Suggestion -> Segment -> Measurement -> Decision -> Outcome -> ModelVersion``
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

Scalar = float | int | str | bool | None
FailureClass = Literal[
    "out_of_memory", "diverged", "hung", "killed", "checkpoint", "data", "disk_full", "bug"
]


class Clock(Protocol):
    """The clock that a study's hours are counted on: the module ``time``, or the virtual clock of a
    replay.
    """

    def time(self) -> float:
        """Unix seconds, as the event logs keep them."""

    def monotonic(self) -> float:
        """Seconds that never go back."""


# Who thought of a trial's point: ``study.defaults``, or (empty) the sampler. Trial 0 is the default
# configuration. A soup is the mean of a configuration's models (soup.py).
Origin = Literal["", "given", "soup"]


@dataclass(frozen=True)
class Suggestion:
    """A point to try. ``params`` maps config paths to values; only active ones. ``attributes``: what the sampler
    keeps in Optuna's trial. ``origin``: who thought of it."""

    trial: int
    params: Mapping[str, Scalar]
    attributes: Mapping[str, object] = field(default_factory=dict)
    origin: Origin = ""
    gain: float = math.inf  # expected improvement over the best so far, in the metric


@dataclass(frozen=True)
class Segment:
    """Work for one worker: train ``trial`` until its evaluation number ``until`` (counted from 1).

    ``from_checkpoint`` is the evaluation the trial stands at (0: from the base weights);
    ``attempt`` counts how often the trial has been given out after a failure; ``seed`` says which of its
    repeats this is (0: the trial itself, with ``train.seed``; 1: the same with the next seed).
    """

    trial: int
    attempt: int
    from_checkpoint: int
    until: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.from_checkpoint < self.until:
            raise ValueError(f"a segment runs forward: {self.from_checkpoint=} {self.until=}")


@dataclass(frozen=True)
class Measurement:
    """One evaluation of one trial.

    ``rung`` counts evaluations from 1; ``texts_seen`` is the budget spent so far in texts;
    ``seconds`` the training and evaluation time of this trial so far. ``last`` says that the
    trial has ended by itself, with ``why`` (budget spent, early stopping). ``rows``: so many were read;
    metrics on fewer are not compared with metrics on more. ``machine`` is what computed it, as
    the worker knows it (``host``, ``cpu``, ``device``, ``threads``, ``precision``); empty where nobody said.
    ``costs``: what its model costs (``evaluate.costs``), of a trial's first evaluation alone.
    """

    rung: int
    step: int
    texts_seen: int
    metrics: Mapping[str, float]
    seconds: float
    last: bool = False
    why: str = ""
    rows: int = 0
    machine: Mapping[str, Scalar] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rung < 1 or self.step < 0 or self.texts_seen < 0:
            raise ValueError(f"a measurement counts forward: {self}")
        if self.last and not self.why:
            raise ValueError("a trial that ends says why")


@dataclass(frozen=True)
class Decision:
    """The fate of a measured trial, with its reason. ``attributes``: what a pruner of Optuna keeps of the trial."""

    kind: Literal["continue", "pause", "stop"]
    reason: str
    attributes: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError("a decision carries a reason")


State = Literal["waiting", "running", "paused", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class Outcome:
    """The end of a trial. ``value`` is its best measured objective, None where it has none."""

    state: Literal["complete", "pruned", "failed"]
    reason: str
    value: float | None = None
    failure: FailureClass | None = None

    def __post_init__(self) -> None:
        if (self.state == "failed") != (self.failure is not None):
            raise ValueError("a failed trial, and only a failed trial, has a failure class")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"an outcome's value is finite, not {self.value}")


@dataclass(frozen=True)
class Interval:
    """A score with its bootstrap interval."""

    value: float
    low: float
    high: float
    level: float = 0.95
    draws: int = 0


# The field of messages, events and result tables that holds the primary metric's interval. It bears the name
# of the first task's metric, because old logs have it.
PRIMARY = "auc"


def primary_interval(scored: object) -> Interval:
    """Return the primary metric's interval in ``scored``: an event or message, or its JSON object."""
    found = scored[PRIMARY] if isinstance(scored, Mapping) else getattr(scored, PRIMARY)
    return found if isinstance(found, Interval) else Interval(**found)


@dataclass(frozen=True)
class EarlierStudy:
    """The trials of another study that came to their end: ``points`` of its ``space``, as its
    config has it, and their ``values``. ``own``: the point of that config.
    """

    name: str
    space: Mapping[str, object]
    own: Mapping[str, Scalar]
    points: Sequence[Mapping[str, Scalar]]
    values: Sequence[float]


@dataclass(frozen=True)
class Reading:
    """The rows that one evaluation of every trial reads; ``error``: the standard error of the
    untuned encoder's primary metric there.
    """

    queries: int
    rows: int
    error: float


@dataclass(frozen=True)
class ModelVersion:
    """A registered model version."""

    name: str
    version: int
    digest: str
    uri: str
    aliases: tuple[str, ...] = ()


def record(value: Any) -> dict[str, Any]:
    """Return a record as plain JSON types."""
    return asdict(value)
