"""What the event logs say of a study's trials: where each stands, and what was due when its log ends.

The coordinator goes on from here after any kill, ``embsearch status`` reads it while another process runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from embsearch.folder import StudyFolder
from embsearch.search.board import Standing
from embsearch.values import FailureClass, Outcome

RETRIES = {"killed": 3, "hung": 1, "checkpoint": 3}  # how often a task goes out again without having got on


@dataclass
class Trial(Standing):
    """One trial as the coordinator sees it; rebuilt from its event log."""

    attempt: int = 0
    deaths: list[str] = field(default_factory=list)  # since its last measurement
    texts_seen: int = 0
    step: int = 0
    seconds: float = 0.0
    speed: float = 0.0
    last_point: int = -1
    slot: int | None = None  # where it runs, or ran last: that worker is still warm
    why: str = ""
    failure: FailureClass | None = None  # the last one
    due: str = ""  # what must follow where the log ends before it: decide | complete | stop | fail


def read_trials(folder: StudyFolder, objective: str) -> dict[int, Trial]:
    """Every trial as its event log tells it."""
    trials: dict[int, Trial] = {}
    for number, events in folder.trial_logs():
        if not events or events[0]["kind"] != "created":
            continue
        trials[number] = Trial(number, params=events[0]["params"])
        for event in events[1:]:
            _replay(trials[number], event, objective)
    return trials


def _replay(trial: Trial, event: dict[str, Any], objective: str) -> None:
    kind = event["kind"]
    trial.due = ""
    if kind == "segment":
        trial.state, trial.attempt = "running", event["segment"]["attempt"]
    elif kind == "points":
        trial.last_point = event["points"][-1][0]
    elif kind == "measured":
        trial.values = {**trial.values, event["rung"]: event["metrics"][f"val/{objective}"]}
        trial.texts_seen, trial.step, trial.seconds = event["texts_seen"], event["step"], event["seconds"]
        trial.deaths.clear()
        trial.why, trial.due = event["why"], "complete" if event["last"] else "decide"
    elif kind == "decided":
        trial.state = "waiting" if event["decision"] == "continue" else "paused"
        trial.why = event["reason"]
        trial.due = "stop" if event["decision"] == "stop" else ""
    elif kind == "failed":
        failure = trial.failure = event["failure"]
        trial.state, trial.why = "waiting", event["message"].splitlines()[0]
        if failure in RETRIES:
            trial.attempt = event["attempt"] + 1
            trial.deaths.append(failure)
        if is_final(failure, trial.deaths):
            trial.due = "fail"
    elif kind == "ended":
        trial.outcome = Outcome(event["state"], event["reason"], event["value"], event["failure"])
        trial.state, trial.why = event["state"], event["reason"]


def is_final(failure: str, deaths: list[str]) -> bool:
    """Whether a task that failed like this has failed for good, or is given out again."""
    if failure in RETRIES:
        return deaths.count(failure) > RETRIES[failure]
    return failure not in ("data", "disk_full")
