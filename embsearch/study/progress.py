"""Lines for whoever watches a study, by its events."""

from __future__ import annotations

from embsearch.config.schema import ConfirmConfig
from embsearch.history import events
from embsearch.history.events import Event
from embsearch.history.state import StudyState
from embsearch.hpo.confirm import Confirmed, too_small
from embsearch.report.live import reads


def lines(
    event: Event, state: StudyState, number: int | None = None, verbose: bool = False
) -> list[str]:
    """Return what is said of an event of the study, or of trial ``number``, once the state has it. ``verbose``:
    decisions too."""
    name = state.objective
    match event:
        case events.Baseline():
            untuned = f"untuned encoder: {name} {event.metrics[name]:.4f}"
            others = [
                f"untuned {path}: {name} {one['metrics'][name]:.4f}, {one['parameters']:,} parameters, "
                f"{one['milliseconds']:.2g} ms a text"
                for path, one in event.encoders.items()
            ]
            return [f"computing in {event.compute}", untuned, *others, reads(event.readings)]
        case events.Measured() | events.Repeated():
            return [_measured(event, state, name, number)]
        case events.Compared() if len(event.values) > 1:
            spread = max(event.values) - min(event.values)
            return [
                f"trial {number} at rung {event.rung}: {name} {event.value:.4f}, the mean of "
                f"{len(event.values)} seeds that lie within {spread:.4f}"
            ]
        case events.Decided() if verbose:
            return [f"trial {number}: {event.decision}: {event.reason}"]
        case events.Failed():
            return [
                f"trial {number} {event.failure.replace('_', ' ')}: {event.message.splitlines()[0]}"
            ]
        case events.Unconfirmed():
            reason = event.message.splitlines()[0]
            return [f"trial {event.trial} with seed {event.seed}: {event.failure}: {reason}"]
        case events.Judged():
            said = event.failure.split("\n")[0] or f"{name} {event.metrics[name]:.4f}"
            return [f"trial {event.trial} on all {event.rows:,} validation rows: {said}"]
        case events.Confirmed():
            one = Confirmed(event.trial, event.value, tuple(event.values), event.failed)
            return [f"trial {event.trial}: {name} {one.words}"]
    return []


def _measured(event: events.Evaluated, state: StudyState, name: str, number: int | None) -> str:
    value = event.metrics[f"val/{name}"]
    assert number is not None
    if state.trials[number].outcome is not None:
        return f"trial {number}, seed {event.run} at rung {event.rung}: {name} {value:.4f}"
    assert isinstance(event, (events.Measured, events.Repeated))
    if state.trials[number].is_soup:
        return f"trial {number}, the {state.trials[number].recipe}: {name} {value:.4f}"
    seed = ""
    if event.seeds > 1:
        seed = f", seed {event.run}"
    return f"trial {number} at rung {event.rung}{seed}: {name} {value:.4f} after {event.texts_seen:,} texts"


def about_confirming(top: int, seeds: int, asked: ConfirmConfig) -> str:
    """Return how the best are trained once more, or why they are not."""
    if not top:
        return f"the best are not trained again: {too_small(asked)}"
    which = "the best one"
    if top > 1:
        which = f"the best {top}"
    return f"training {which} again with {seeds} fresh seeds"
