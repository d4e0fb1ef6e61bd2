"""The models that were judged by the same test rows, counted in this home.

The figures of the best of many models flatter it, also on rows that nobody trained on. The untuned
encoder and the default configuration are not counted: nobody chooses by them. A model that was
trained alone, without a search, counts once there is another such model to choose it over.
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


def note_use(home: Path, rows: str, model: str, by: str, alone: bool = False) -> int:
    """Note that the model with this digest was judged by these rows, once. ``alone``: trained
    without a search.

    Return how many models have been.
    """
    path = home / FILE
    with file_lock(path.with_suffix(".lock")):
        seen = {(used.model, used.alone) for used in _uses(home, rows)}
        if not seen & {(model, alone), (model, False)}:
            use = events.TestSetUsed(rows=rows, model=model, by=by, alone=alone)
            EventLog(path).append(use)
        return len(models_judged_by(home, rows))


def models_judged_by(home: Path, rows: str) -> set[str]:
    """Return the digests of the models that were judged by these rows and could be chosen."""
    uses = _uses(home, rows)
    alone = {used.model for used in uses if used.alone}
    chosen = {used.model for used in uses if not used.alone}
    return chosen | alone if len(alone) > 1 else chosen


def _uses(home: Path, rows: str) -> list[events.TestSetUsed]:
    every = events.of_kind(read_events(home / FILE), events.TestSetUsed)
    return [used for used in every if used.rows == rows]


def warning(count: int) -> str:
    """Return a warning from the third model on that the same rows have judged; empty before."""
    if count < WARN_FROM:
        return ""
    return (
        f"{count} models have been judged by these test rows by now: the best of many is partly the luckiest; "
        "take fresh rows (data.test=FILE) before the figures decide anything costly"
    )
