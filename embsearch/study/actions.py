"""The actions that the policy of a study may return, and the moment that it is asked about."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from embsearch.history.events import Event
from embsearch.history.final_table import UNTUNED
from embsearch.hpo.confirm import Confirmed
from embsearch.values import Segment

Name = tuple[str, int, int] | tuple[str, str]  # ("train", trial, seed) or ("evaluate", label)
BASELINE: Name = ("evaluate", "baseline")


def describe(name: Name) -> str:
    """Return what a job does, for whoever watches."""
    if name == BASELINE:
        return f"evaluating the {UNTUNED}"
    if name[0] == "evaluate":
        return f"evaluating the {name[1]}"
    return f"trial {name[1]} with seed {name[2]}"  # type: ignore[misc]


@dataclass(frozen=True)
class Suggest:
    """Ask the sampler for a trial."""

    number: int


@dataclass(frozen=True)
class Train:
    """Give a segment to a slot. ``fresh``: it is of a seed by which the study confirms a trial that has ended."""

    slot: int
    segment: Segment
    fresh: bool = False


@dataclass(frozen=True)
class Average:
    """Begin the soup of a trial's ``runs``, as a trial with a number of its own."""

    number: int
    trial: int
    runs: tuple[int, ...]


@dataclass(frozen=True)
class Evaluate:
    """Give the untuned encoder (``trial`` is None) or a trial's model to a slot, for a row of the final table.
    ``label`` is "baseline" for the validation rows."""

    slot: int
    label: str
    trial: int | None = None


@dataclass(frozen=True)
class Log:
    """Write an event into the study's log, or into the log of a trial."""

    event: Event
    trial: int | None = None


@dataclass(frozen=True)
class Wait:
    """Hear what the workers say."""


@dataclass(frozen=True)
class Stop:
    """End the session: somebody asked for it."""


@dataclass(frozen=True)
class Close:
    """End the study."""

    why: str
    best: int | None
    confirmed: tuple[Confirmed, ...]


Action = Suggest | Average | Train | Evaluate | Log | Wait | Stop | Close


@dataclass(frozen=True)
class Moment:
    """Facts that no log says: the time, the slots and the jobs that were given to them."""

    elapsed: float  # seconds of all sessions
    idle: Sequence[int] = ()
    given: Collection[Name] = ()  # names of jobs that slots have
    unheard: bool = False  # messages have come that were not looked at yet
    stopping: bool = False
    late: bool = False  # the time that segments got for their checkpoint is over
