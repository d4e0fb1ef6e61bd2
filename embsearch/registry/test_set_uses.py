"""The models that were judged by the same test rows, counted in this home.

The figures of the best of many models flatter it, also on rows that nobody trained on. The untuned
encoder and the default configuration are not counted: nobody chooses by them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from embsearch.data.dataset import TaskData
from embsearch.disk import file_lock
from embsearch.history import events
from embsearch.history.log import EventLog, read_events
from embsearch.tasks.base import AnyTask

FILE = "looks.jsonl"
WARN_FROM = 3  # models


def digest_of_rows(task: AnyTask, data: TaskData) -> str:
    """Return a sha256 over the test rows alone: the same whatever else the data hold."""
    found = hashlib.sha256()
    for line in task.row_lines(data, task.rows(data, "test")):
        found.update(f"{line}\n".encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def note_use(home: Path, rows: str, model: str, by: str) -> int:
    """Note that the model with this digest was judged by these rows, once.

    Return how many models have been.
    """
    path = home / FILE
    with file_lock(path.with_suffix(".lock")):
        seen = models_judged_by(home, rows)
        if model not in seen:
            EventLog(path).append(events.TestSetUsed(rows=rows, model=model, by=by))
        return len(seen | {model})


def models_judged_by(home: Path, rows: str) -> set[str]:
    """Return the digests of the models that were judged by these rows."""
    every = events.of_kind(read_events(home / FILE), events.TestSetUsed)
    return {used.model for used in every if used.rows == rows}


def warning(count: int) -> str:
    """Return a warning from the third model on that the same rows have judged; empty before."""
    if count < WARN_FROM:
        return ""
    return (
        f"{count} models have been judged by these test rows by now: the best of many is partly the luckiest; "
        "take fresh rows (data.test=FILE) before the figures decide anything costly"
    )
