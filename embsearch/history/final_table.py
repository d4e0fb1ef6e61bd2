"""The rows of a study's final table: the models that stand in it, and their labels."""

from __future__ import annotations

from embsearch.codec import Json
from embsearch.history.board import Board
from embsearch.history.trial import Trial

UNTUNED, DEFAULT, BEST = "untuned encoder", "default configuration", "best trial"
GIVEN = "given point"
JUDGED = "model on all validation rows of trial"  # no row of the table: what chooses its best


def rows(trials: Board, best: Trial | None) -> list[tuple[str, int | None]]:
    """Return label and trial of each row: the untuned encoder, what was given, the best. A given
    point that won has one row, as the best."""
    found: list[tuple[str, int | None]] = [(UNTUNED, None)]
    found += [
        (label_of(trial), trial.number)
        for number in sorted(trials)
        if (trial := trials[number]).given and trial.best is not None and trial is not best
    ]
    return found if best is None else [*found, (BEST, best.number)]


def label_of(trial: Trial) -> str:
    """Return the label of a given trial."""
    return f"{GIVEN} {trial.number}" if trial.number else DEFAULT


def shown(row: Json) -> str:
    """Return how tables name a row of ``study.Result.table``: by its label and its trial, and by
    what it is besides where a given point or a soup won."""
    label, trial = row["label"], row["trial"]
    if trial is None or label.startswith(GIVEN):
        return str(label)
    besides = row.get("given") or row.get("soup")
    return f"{label} ({trial}),\n{besides}" if besides else f"{label} ({trial})"
