"""The story of one trial, as its log tells it: what was tried, measured and decided, with every
reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embsearch.history import events
from embsearch.history.events import Event
from embsearch.report.live import clock, short


def story(log: Sequence[Event], objective: str) -> Iterator[str]:
    """Yield a line for everything that happened to a trial, with the study's time at which it did."""
    for event in log:
        line = _line(event, objective)
        if line:
            yield f"{clock(event.spent or 0.0):>8}  {line}"


def _line(event: Event, objective: str) -> str:
    match event:
        case events.Created():
            return "suggested: " + " ".join(
                f"{path}={short(value)}" for path, value in event.params.items()
            )
        case events.Started():
            return _started(event)
        case events.Measured() | events.Repeated():
            return _evaluated(event, objective)
        case events.Compared():
            values = ", ".join(f"{value:.4f}" for value in event.values)
            return f"evaluation {event.rung}: mean of the seeds {event.value:.4f} ({values})"
        case events.Decided():
            return f"{event.decision}: {event.reason}"
        case events.Failed():
            return f"failed, {event.failure.replace('_', ' ')}: {event.message.splitlines()[0]}"
        case events.Ended():
            best = "" if event.objective is None else f", best {objective} {event.objective:.4f}"
            return f"{event.state}{best}: {event.reason}"
    return ""


def _started(event: events.Started) -> str:
    segment = event.segment
    start = segment.from_checkpoint
    begins = f"from the checkpoint of evaluation {start}" if start else "from the base weights"
    seed = f", seed {segment.seed}" if segment.seed else ""
    return f"trains to evaluation {segment.until} {begins} on slot {event.slot}{seed}"


def _evaluated(event: events.Measured | events.Repeated, objective: str) -> str:
    value = event.metrics[f"val/{objective}"]
    why = f"; ends: {event.why}" if event.last else ""
    seed = f", seed {event.run}" if event.run else ""
    return f"evaluation {event.rung}{seed}: {objective} {value:.4f} after {event.texts_seen:,} texts{why}"
