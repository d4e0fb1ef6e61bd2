"""The record of one trial that is to be trained again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from embsearch.codec import Json
from embsearch.config.build import build
from embsearch.config.schema import Config
from embsearch.errors import StudyError
from embsearch.history import events
from embsearch.history.events import E
from embsearch.history.folder import LOADER
from embsearch.history.log import read_events
from embsearch.report.record import Record
from embsearch.track.environment import changes, machine_changes


@dataclass(frozen=True)
class Past:
    """The record of one trial, as far as it was measured. ``notes`` is what a reader should know
    first.
    """

    study: str
    number: int
    config: Config
    measured: tuple[events.Measured, ...]
    opened: events.Opened  # of the session in which it was measured last
    machine: Json  # empty in records made before embsearch noted it
    model: Path
    notes: tuple[str, ...]
    queries: tuple[int, ...] = ()  # that each evaluation read the rows of; empty: all
    runs: tuple[int, ...] = ()  # of its configuration, whose mean it is; empty: it is no soup

    @property
    def objective(self) -> str:
        """The metric that was maximised, as measurements name it."""
        return f"val/{self.config.evaluate.metric}"

    @property
    def threads(self) -> int:
        """The threads of its worker; where the record does not say, those that were asked for."""
        return int(self.machine.get("threads") or self.config.launcher.threads or 1)


def past(study: Record, number: int) -> Past:
    """Return what there is to compare with. Raises StudyError where there is nothing, or not yet."""
    study.check_trial(number)
    where = f"trial={number}: study {study.name}"
    if study.config.launcher.name == "replay":
        raise StudyError(
            f"{where} is a replay: nothing was trained, so there is nothing to train again"
        )
    if study.running and study.trials[number].outcome is None:
        raise StudyError(
            f"{where} is {study.running}, and this trial goes on in it; wait for its end"
        )
    folder = study.folder.trial(number)
    measured: dict[int, events.Measured] = {}
    for event in events.of_kind(read_events(folder / "events.jsonl"), events.Measured):
        measured.setdefault(event.rung, event)
    if not measured:
        why = study.trials[number].why or "it never came so far"
        raise StudyError(
            f"{where}: the trial was never measured ({why}), so there is nothing to compare with"
        )
    last = measured[max(measured)]
    sessions = study.of_kind(events.Opened)
    began, opened = _in_force(sessions, measured[min(measured)]), _in_force(sessions, last)
    if began is None or opened is None:
        raise StudyError(
            f"{where}: its log does not say on which data, in which environment it was begun"
        )
    config = _config_of(folder / "config.yaml")
    evaluations = tuple(measured[rung] for rung in sorted(measured))
    notes = tuple(_notes(config, evaluations, began, opened))
    machine = last.machine
    baseline = _in_force(study.of_kind(events.Baseline), last)
    readings = baseline.readings if baseline else ()
    queries = tuple(reading.queries for reading in readings)
    runs = tuple(run for _, run in study.trials[number].members)
    model = folder / "model"
    return Past(
        study.name, number, config, evaluations, opened, machine, model, notes, queries, runs
    )


def _config_of(path: Path) -> Config:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), LOADER)
        return build(dict(content))
    except FileNotFoundError:
        raise StudyError(
            f"{path}: not there; without its config a trial cannot be trained again"
        ) from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise StudyError(
            f"{path}: not the config that embsearch wrote ({type(error).__name__}); put it back from a copy"
        ) from error


def _in_force(sessions: Sequence[E], at: events.Event) -> E | None:
    """Return the session in which something was logged; by the clock, so the first one where that
    was set back.
    """
    before = [e for e in sessions if e.time <= at.time]
    return before[-1] if before else sessions[0] if sessions else None


def _notes(
    config: Config, measured: Sequence[events.Measured], began: events.Opened, opened: events.Opened
) -> Iterator[str]:
    if config.study.seeds > 1:
        yield f"study.seeds={config.study.seeds}: this is its first run, with train.seed={config.train.seed}"
    machines = [event.machine for event in measured]
    if not machines[-1]:
        yield (
            "an older embsearch made the record, which does not say on which CPU and by how many threads it was "
            f"trained: taken to be {config.launcher.threads or 1}"
        )
    for change in dict.fromkeys(c for one in machines for c in machine_changes(one, machines[-1])):
        yield f"it was resumed on another machine: {change}; compared with the last one"
    if since := changes(began.environment, opened.environment):
        yield f"it was resumed in another environment: {', '.join(since)}; compared with the last one"
    if opened.environment.get("git_dirty"):
        yield "embsearch's code had changes then that no commit holds"
