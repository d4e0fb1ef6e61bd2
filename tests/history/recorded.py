"""Eight studies that embsearch recorded before its events had types (commit eb88ed8), played on a virtual clock:
every event of every log, in the order in which they were written, and how each trial stood after each.

plain; seeds (study.seeds=2); confirm (fresh seeds after the search); deaths (15 % of segments killed, two seeds,
three slots); halt (stopped with SIGTERM and resumed, two slots); extended (12, then 18 trials); drift (extended with
another config); median (an Optuna pruner, two slots).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "logs"
NAMES = ("plain", "seeds", "confirm", "deaths", "halt", "extended", "drift", "median")


def lines(name: str) -> list[tuple[int | None, str]]:
    """Return the lines of all logs in the order of writing, each with its trial (None: the study's own log)."""
    with gzip.open(FOLDER / name / "order.jsonl.gz", "rt", encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    return [(None if one["log"] == "study" else int(one["log"][1:]), one["line"]) for one in found]


def standings(name: str) -> list[dict[str, Any] | None]:
    """Return how the trial of each line stood after it, by the code that recorded it."""
    with gzip.open(FOLDER / "expected.json.gz", "rt") as file:
        return list(json.load(file)[name])


def write(study: Path, prefix: list[tuple[int | None, str]]) -> None:
    """Write the logs of a study as they were when its process died after ``prefix``."""
    for number, line in prefix:
        folder = study if number is None else study / f"trials/t{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "events.jsonl").open("a", encoding="utf-8") as log:
            log.write(line + "\n")


def events_by_log(study: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield every log's events without what depends on the moment."""
    moment = (
        "seq",
        "time",
        "spent",
        "environment",
        "points",
        "seconds",
        "result",
        "home_id",
        "axes",
        "link",
        "ends",
    )
    for path in sorted([study / "events.jsonl", *study.glob("trials/*/events.jsonl")]):
        events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        yield (
            path.parent.name,
            [{k: v for k, v in event.items() if k not in moment} for event in events],
        )
