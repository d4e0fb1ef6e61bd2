"""The answer of a study: what fresh seeds confirm, who won, the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from embsearch.codec import JsonObject
from embsearch.config.build import to_dict
from embsearch.config.schema import Config
from embsearch.history import events
from embsearch.history.folder import StudyFolder
from embsearch.history.state import StudyState
from embsearch.history.trial import Run, Trial
from embsearch.search import budget
from embsearch.search.confirm import Confirmed, choose
from embsearch.values import State, record

UNTUNED, DEFAULT, BEST = (
    "untuned encoder",
    "default configuration",
    "best trial",
)  # rows of the table
ENDED: tuple[State, ...] = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Result:
    """The findings of a study. ``table`` rows: label, trial, metrics on validation and test rows."""

    name: str
    why: str
    best: int | None
    table: list[JsonObject]
    counts: dict[str, int]
    seconds: float
    finished: bool
    confirmed: list[JsonObject] = field(default_factory=list)  # search.confirm.Confirmed

    @property
    def highest(self) -> float | None:
        """The highest validation value: of the winner, or of one that fresh seeds put behind it."""
        values = [row["validation"] for row in self.table if row["label"] == "best trial"]
        values += [one["value"] for one in self.confirmed]
        return max((value for value in values if value is not None), default=None)


def result_of(
    name: str,
    state: StudyState,
    why: str,
    best: Trial | None,
    found: Sequence[Confirmed],
    seconds: float,
) -> Result:
    """Return the result of a study whose test rows were read."""
    table = [_row(label, number, state) for label, number in table_rows(state, best)]
    counts: dict[str, int] = {one: state.trials.count(one) for one in ENDED}
    number = None if best is None else best.number
    again = [record(one) for one in found]
    return Result(name, why, number, table, counts, seconds, finished=True, confirmed=again)


def _row(label: str, number: int | None, state: StudyState) -> JsonObject:
    tested = state.tested[label]
    if number is None:
        value = None if state.baseline is None else state.baseline.metrics.get(state.objective)
    else:
        value = state.validation(number)
    return {
        "label": label,
        "trial": number,
        "validation": value,
        "split": tested.split,
        "test": tested.metrics,
        "auc": tested.auc,
    }


def confirmed(state: StudyState, config: Config) -> list[Confirmed]:
    """Return the best configurations with the values of fresh seeds, the best by their mean first. Those of a
    study that was extended are among them with what they have."""
    if config.launcher.name == "replay":
        return []
    found = []
    for trial in by_value(state):
        runs = trial.runs[trial.searched :]
        values = tuple(_best_of(run, state) for run in runs if run.last)
        if values and trial.best is not None:
            found.append(
                Confirmed(trial.number, trial.best, values, failed=len(state.lost[trial.number]))
            )
    return sorted(found, key=lambda one: (one.failed > 0, -one.mean, one.trial))


def winner(state: StudyState, config: Config) -> Trial | None:
    """Return the trial with the best mean of fresh seeds; where there are none, with the best value."""
    number = choose(confirmed(state, config))
    return state.trials.best if number is None else state.trials[number]


def table_rows(state: StudyState, best: Trial | None) -> list[tuple[str, int | None]]:
    """Return the rows of the final table: label and trial."""
    rows: list[tuple[str, int | None]] = [(UNTUNED, None)]
    if 0 in state.trials and state.trials[0].best is not None:
        rows.append((DEFAULT, 0))
    if best is not None:
        rows.append((BEST, best.number))
    return rows


def by_value(state: StudyState) -> list[Trial]:
    """Return the complete trials, the best first."""
    trials = [trial for trial in state.trials.in_state("complete") if trial.best is not None]
    return sorted(trials, key=lambda trial: (-(trial.best or 0.0), trial.number))


def _best_of(run: Run, state: StudyState) -> float:
    """Return the best that a run measured, of what was measured on as many rows as any."""
    rows = [reading.rows for reading in state.readings]
    if not rows:
        return max(run.values.values())
    most = max(rows[rung - 1] for rung in run.values)
    return max(value for rung, value in run.values.items() if rows[rung - 1] == most)


def nothing_left(config: Config, folder: StudyFolder, closed: events.Closed) -> bool:
    """Return whether neither the budget nor what confirms the best was extended since the study ended."""
    asked = folder.read_locked()["config"].get("confirm")
    if asked is not None and asked != to_dict(config)["confirm"]:
        return False
    result = Result(**closed.result)
    count = sum(result.counts.values())
    return bool(budget.spent(config.stop, count, result.seconds, result.highest))
