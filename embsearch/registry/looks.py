"""How often the same test rows have been looked at: which models were judged by them, in this home.

The figures of the best of many models flatter it, also on rows that nobody trained on. The untuned encoder and the
default configuration are not counted: nobody chooses by them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from embsearch.data.dataset import Dataset
from embsearch.disk import file_lock
from embsearch.track.events import EventLog, read_events

FILE = "looks.jsonl"
LOOKS = 3  # from which on there is a warning


def test_rows(data: Dataset) -> str:
    """A sha256 over the test rows alone: the same whatever else the data hold."""
    found = hashlib.sha256()
    for text, title, grade in zip(data.test.text, data.test.title, data.test.grade, strict=True):
        found.update(f"{data.texts[text]}\0{data.texts[title]}\0{grade:g}\n".encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def look(home: Path, rows: str, model: str, by: str) -> int:
    """Note that the model with this digest was judged by these rows, once; how many models have been by now."""
    path = home / FILE
    with file_lock(path.with_suffix(".lock")):
        seen = models(home, rows)
        if model not in seen:
            EventLog(path).append("looked", rows=rows, model=model, by=by)
        return len(seen | {model})


def models(home: Path, rows: str) -> set[str]:
    """The digests of the models that were judged by these rows."""
    return {event["model"] for event in read_events(home / FILE) if event["rows"] == rows}


def warning(count: int) -> str:
    """A warning from the third model on that the same test rows have judged; empty before."""
    if count < LOOKS:
        return ""
    return (
        f"{count} models have been judged by these test rows by now: the best of many is partly the luckiest; "
        "take fresh rows (data.test=FILE) before the figures decide anything costly"
    )
