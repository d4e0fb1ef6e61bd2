"""What the event logs say of a study's trials: where each stands, and what was due when its log ends.

The coordinator goes on from here after any kill, ``embsearch status`` reads it while another process runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from embsearch.folder import StudyFolder
from embsearch.search.board import Standing
from embsearch.track.events import Event
from embsearch.values import FailureClass, Outcome

RETRIES = {"killed": 3, "hung": 1, "checkpoint": 3}  # how often a task goes out again without having got on


@dataclass
class Run:
    """One of a trial's runs: the same parameters, another seed."""

    values: dict[int, float] = field(default_factory=dict)  # the objective by evaluation
    rows: int = 0  # that its last evaluation read
    last: str = ""  # why it ended by itself
    last_point: int = -1

    @property
    def rung(self) -> int:
        return max(self.values, default=0)


@dataclass
class Trial(Standing):
    """One trial as the coordinator sees it; rebuilt from its event log.

    ``values`` are what is compared: at evaluations that several seeds are due at (``study.seeds``), the mean of
    all ``runs``, once it is known.
    """

    runs: list[Run] = field(default_factory=lambda: [Run()])
    seed: int = 0  # the run that trains, or did last

    searched: int = 1  # runs of the search; further ones are of fresh seeds, by which it was confirmed
    attempt: int = 0
    deaths: list[str] = field(default_factory=list)  # since it last got on
    texts_seen: int = 0
    step: int = 0
    seconds: float = 0.0
    speed: float = 0.0
    slot: int | None = None  # where it runs, or ran last: that worker is still warm
    why: str = ""
    failure: FailureClass | None = None  # the last one
    due: str = ""  # what must follow where the log ends before it: decide | complete | stop | fail
    failures: list[str] = field(default_factory=list)  # all there were

    def got_on(self) -> None:
        """It trained steps that it had never trained before: nothing at its place is what kills its workers."""
        self.deaths = [failure for failure in self.deaths if failure != "killed"]

    @property
    def run(self) -> Run:
        """The one that trains, or did last."""
        return self.runs[self.seed]

    @property
    def until(self) -> int:
        """The evaluation that the trial is on its way to, or that some of its runs are at."""
        return self.runs[0].rung if self.runs[0].rung > self.rung else self.rung + 1

    def nth(self, seed: int) -> Run:
        """The run with a seed, new where there was none."""
        while len(self.runs) <= seed:
            self.runs.append(Run())
        return self.runs[seed]

    def next_seed(self, seeds: int) -> int | None:
        """Which of ``seeds`` runs trains next on the way to ``until``; None where all are there."""
        self.nth(seeds - 1)
        there = (seed for seed in range(seeds) if self.runs[seed].rung < self.until and not self.runs[seed].last)
        return next(there, None)

    def values_at(self, rung: int, seeds: int) -> list[float]:
        """What the runs measured there; one that ended before, at its end."""
        return [run.values[min(rung, run.rung)] for run in self.runs[:seeds]]


def read_trials(folder: StudyFolder, objective: str) -> dict[int, Trial]:
    """Every trial as its event log tells it."""
    read = (read_trial(number, events, objective) for number, events in folder.trial_logs())
    return {trial.number: trial for trial in read if trial is not None}


def read_trial(number: int, events: Sequence[Event], objective: str) -> Trial | None:
    """One trial; None where its log has lost the beginning."""
    if not events or events[0]["kind"] != "created":
        return None
    trial = Trial(number, params=events[0]["params"])
    for event in events[1:]:
        _replay(trial, event, objective)
    return trial


def _replay(trial: Trial, event: Event, objective: str) -> None:
    kind = event["kind"]
    if trial.outcome is not None:  # what follows is of fresh seeds, by which the study confirms its best
        if kind == "repeated":
            _ran(trial.nth(event["seed"]), event, objective)
        elif kind == "points":
            trial.nth(event["seed"]).last_point = event["points"][-1][0]
        return
    trial.due = ""
    if kind == "segment":
        trial.state, trial.attempt = "running", event["segment"]["attempt"]
        _turn_to(trial, event["segment"].get("seed", 0))
    elif kind == "points":
        trial.run.last_point = event["points"][-1][0]
        trial.got_on()
    elif kind == "measured":
        trial.texts_seen, trial.step, trial.seconds = event["texts_seen"], event["step"], event["seconds"]
        _ran(trial.run, event, objective)
        trial.deaths.clear()
        trial.state = "waiting"
        if event.get("seeds", 1) == 1:
            _compared(trial, event["rung"], event["metrics"][f"val/{objective}"])
    elif kind == "repeated":
        _ran(trial.run, event, objective)
        trial.deaths.clear()
        trial.state = "waiting"
    elif kind == "compared":
        _compared(trial, event["rung"], event["value"])
    elif kind == "decided":
        trial.state = "waiting" if event["decision"] == "continue" else "paused"
        trial.why = event["reason"]
        trial.due = "stop" if event["decision"] == "stop" else ""
    elif kind == "failed":
        failure = trial.failure = event["failure"]
        trial.failures.append(failure)
        trial.state, trial.why = "waiting", event["message"].splitlines()[0]
        if failure in RETRIES:
            trial.attempt = event["attempt"] + 1
            trial.deaths.append(failure)
        if is_final(failure, trial.deaths):
            trial.due = "fail"
    elif kind == "ended":
        trial.outcome = Outcome(event["state"], event["reason"], event["value"], event["failure"])
        trial.state, trial.why, trial.searched = event["state"], event["reason"], len(trial.runs)


def _turn_to(trial: Trial, seed: int) -> None:
    trial.nth(seed)
    trial.seed = seed


def _ran(run: Run, event: Event, objective: str) -> None:
    run.values[event["rung"]], run.rows = event["metrics"][f"val/{objective}"], event.get("rows", 0)
    run.last = event["why"] if event["last"] else ""


def _compared(trial: Trial, rung: int, value: float) -> None:
    trial.values, trial.rows = {**trial.values, rung: value}, {**trial.rows, rung: trial.runs[0].rows}
    trial.why, trial.due = trial.runs[0].last, "complete" if trial.runs[0].last else "decide"


def is_final(failure: str, deaths: list[str]) -> bool:
    """Whether a task that failed like this has failed for good, or is given out again."""
    if failure in RETRIES:
        return deaths.count(failure) > RETRIES[failure]
    return failure not in ("data", "disk_full")
