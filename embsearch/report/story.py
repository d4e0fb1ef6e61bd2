"""How one trial went, as its log tells it: what was tried, measured and decided, with every reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embsearch.report.live import clock, short
from embsearch.track.events import Event


def story(events: Sequence[Event], objective: str) -> Iterator[str]:
    """A line for everything that happened to a trial, with the study's time at which it did."""
    for event in events:
        if line := _line(event, objective):
            yield f"{clock(event.get('spent', 0.0)):>8}  {line}"


def _line(event: Event, objective: str) -> str:
    kind = event["kind"]
    if kind == "created":
        return "suggested: " + " ".join(f"{path}={short(value)}" for path, value in event["params"].items())
    if kind == "segment":
        segment = event["segment"]
        start = segment["from_checkpoint"]
        begins = f"from the checkpoint of evaluation {start}" if start else "from the base weights"
        seed = f", seed {segment['seed']}" if segment.get("seed") else ""
        return f"trains to evaluation {segment['until']} {begins} on slot {event['slot']}{seed}"
    if kind in ("measured", "repeated"):
        value = event["metrics"][f"val/{objective}"]
        why = f"; ends: {event['why']}" if event["last"] else ""
        seed = f", seed {event['seed']}" if event.get("seed") else ""
        return f"evaluation {event['rung']}{seed}: {objective} {value:.4f} after {event['texts_seen']:,} texts{why}"
    if kind == "compared":
        values = ", ".join(f"{value:.4f}" for value in event["values"])
        return f"evaluation {event['rung']}: mean of the seeds {event['value']:.4f} ({values})"
    if kind == "decided":
        return f"{event['decision']}: {event['reason']}"
    if kind == "failed":
        return f"failed, {event['failure'].replace('_', ' ')}: {event['message'].splitlines()[0]}"
    if kind == "ended":
        best = "" if event.get("objective") is None else f", best {objective} {event['objective']:.4f}"
        return f"{event['state']}{best}: {event['reason']}"
    return ""
