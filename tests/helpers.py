"""What tests of several rooms ask of a study's folder."""

from __future__ import annotations

from typing import Any

from embsearch.history.events import Event, decode
from embsearch.history.folder import StudyFolder
from embsearch.history.log import EventLog
from embsearch.history.trial import Trial


def read_trials(folder: StudyFolder, objective: str) -> dict[int, Trial]:
    """Return every trial as its log tells it."""
    state = folder.state()
    assert state.objective == objective
    return dict(state.trials)


def event(kind: str, /, **content: Any) -> Event:
    """Return an event by the names of its JSON."""
    return decode({"kind": kind, **content})


def append(log: EventLog, kind: str, /, **content: Any) -> Event:
    """Append an event by the names of its JSON."""
    return log.append(event(kind, **content), content.get("spent"))
