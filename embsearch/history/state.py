"""The state of a study, by its logs: the one place where events change anything.

The running study, a resumed one, ``embsearch status``, the recorders and the report ask the same
state. Events of a trial must come in their order; those of different logs may come in any.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from embsearch.history import events
from embsearch.history.board import Board
from embsearch.history.events import Event
from embsearch.history.trial import RETRIES, Run, Trial, failed_for_good
from embsearch.values import EarlierStudy, Outcome, Reading

SPEED_POINTS = 20  # training metrics over which texts a second are averaged
SPEED = "cost/texts_per_second"


class StudyState:
    """The trials of a study, and what its own log says. ``objective`` is the validation metric that
    is maximised.
    """

    def __init__(self, objective: str) -> None:
        self.objective = objective
        self.trials = Board()
        self.unsettled: dict[int, Trial] = {}  # their last event asks for another
        self.sessions: list[events.Opened] = []
        self.like: Sequence[EarlierStudy] = ()
        self.baseline: events.Baseline | None = None
        self.told: dict[int, events.Told] = {}
        self.judged: dict[int, events.Judged] = {}  # models, by trial
        self.tested: dict[str, events.Tested] = {}  # the last one of each label
        self.lost: dict[int, set[int]] = defaultdict(
            set
        )  # fresh seeds that failed for good, by trial
        self.confirmed: list[events.Confirmed] = []
        self.enough: events.Enough | None = None  # until something is measured
        self.closed: events.Closed | None = None
        self.promoted: events.Promoted | None = None
        self.spent = 0.0  # seconds of all sessions

    def apply(self, event: Event, number: int | None = None) -> None:
        """Take in an event of the study's log, or of the log of trial ``number``."""
        self.spent = max(self.spent, event.spent or 0.0)
        if number is not None:
            self._apply_to_trial(event, number)
            return
        match event:
            case events.Opened():
                before = self.sessions[-1] if self.sessions else event
                if (before.data, before.config) != (event.data, event.config):
                    self._judge_anew()
                self.sessions.append(event)
                self.like = self.like if event.like is None else event.like
                self.closed = self.enough = None
            case events.Enough():
                self.enough = event
            case events.Baseline():
                self.baseline = event
            case events.Told():
                self.told.setdefault(event.trial, event)
                trial = self.trials.get(event.trial)
                if trial is not None and trial.outcome is not None:  # else its log lost its end
                    self.unsettled.pop(event.trial, None)
            case events.Judged() if event.trial in self.trials:
                self.judged[event.trial] = event
                self.trials[event.trial].judged = event.metrics.get(self.objective, -math.inf)
            case events.Tested():
                self.tested[event.label] = event
            case events.Unconfirmed():
                self.lost[event.trial].add(event.seed)
            case events.Confirmed():
                self.confirmed.append(event)
            case events.Closed():
                self.closed = event
            case events.Promoted():
                self.promoted = event

    def apply_all(
        self, study: Iterable[Event], trials: Mapping[int, Iterable[Event]]
    ) -> StudyState:
        """Take in whole logs; return the state itself."""
        for number, log in trials.items():
            for event in log:
                self.apply(event, number)
        for event in study:
            self.apply(event)
        return self

    def release(self, number: int) -> None:
        """Note that nobody trains the trial any more: its worker halted, or its coordinator died."""
        trial = self.trials[number]
        if trial.state == "running":
            with self.trials.changing(trial):
                trial.state = "waiting"

    def release_all(self) -> None:
        """Note that no worker has anything to do."""
        for trial in self.trials.in_state("running"):
            self.release(trial.number)

    # ---- what is asked -----------------------------------------------------------------------

    @property
    def gain(self) -> float:
        """The gain that another trial promises, where it is too little; else infinity."""
        return math.inf if self.enough is None else self.enough.gain

    @property
    def damaged_logs(self) -> list[int]:
        """The trials whose logs are gone, or are not as they were when the study ended.

        No crash does it: a trial is in its log before another is begun, and before its end is told.
        """
        there = {*self.trials, *(soup.number for soup in self.trials.soups)}
        gone = {*range(max(there | self.told.keys(), default=-1))} | self.told.keys()
        ends = {} if self.closed is None else self.closed.ends
        changed = {n for n in there if str(n) in ends and self.trials[n].link != ends[str(n)]}
        return sorted(gone - there | changed)

    @property
    def ends(self) -> dict[str, str]:
        """The link of the last event of every trial."""
        every = (*self.trials.values(), *self.trials.soups)
        return {str(trial.number): trial.link for trial in every if trial.link}

    @property
    def readings(self) -> list[Reading]:
        """The rows that each evaluation of a trial reads; empty where all read all rows."""
        return [] if self.baseline is None else list(self.baseline.readings)

    def reads_all_rows(self, rows: int) -> bool:
        """Return whether an evaluation on so many rows can stand beside the untuned encoder's."""
        return not self.readings or rows >= self.readings[-1].rows

    @property
    def leader(self) -> Trial | None:
        """The winner; while the study goes on, the trial with the best value."""
        if self.closed is None or self.closed.best is None:
            return self.trials.best
        return self.trials.get(self.closed.best)

    @property
    def best_value(self) -> float | None:
        """The best value on all rows: nothing else says that ``stop.target`` is reached."""
        score = self.trials.best_score
        return score[1] if score is not None and self.reads_all_rows(score[0]) else None

    def validation(self, number: int) -> float | None:
        """Return a trial's value where it can stand beside the untuned encoder's: on all rows."""
        score = self.trials[number].best_score
        return score[1] if score is not None and self.reads_all_rows(score[0]) else None

    # ---- one trial ---------------------------------------------------------------------------

    def _judge_anew(self) -> None:
        """Forget what models were worth by other data or another config."""
        self.judged.clear()
        for trial in (*self.trials.values(), *self.trials.soups):
            trial.judged = None

    def _apply_to_trial(self, event: Event, number: int) -> None:
        if isinstance(event, events.Created):
            if number not in self.trials:
                created = Trial(
                    number,
                    params=event.params,
                    attributes=dict(event.attributes),
                    origin=event.origin,
                    members=tuple((trial, run) for trial, run in event.members),
                )
                if created.is_soup and created.averaged in self.trials:
                    created.costs = self.trials[created.averaged].costs
                created.link = event.link
                self.trials.add(created)
            return
        trial = self.trials.get(number)
        if trial is None:
            return  # the beginning of its log was lost
        trial.link = event.link
        if trial.outcome is not None:
            _apply_to_fresh_seed(trial, event, self.objective)
            return
        if isinstance(event, events.Measured) and not trial.is_soup:
            self.enough = None
        with self.trials.changing(trial):
            _apply(trial, event, self.objective)
        if trial.due or (trial.outcome is not None and number not in self.told):
            self.unsettled[number] = trial
        else:
            self.unsettled.pop(number, None)


def _apply(trial: Trial, event: Event, objective: str) -> None:
    """Change a trial by an event of its log before its end."""
    if not isinstance(event, events.Trained):
        trial.due = ""
    match event:
        case events.Started():
            segment = event.segment
            trial.state, trial.slot = "running", event.slot
            trial.attempt, trial.seed = segment.attempt, segment.seed
            _run(trial, segment.seed)
        case events.Trained():
            _train(trial, event)
        case events.Measured():
            trial.texts_seen, trial.step = event.texts_seen, event.step
            trial.seconds = event.seconds
            trial.costs = event.costs or trial.costs
            _measure(trial, event, objective)
            if event.seeds == 1:
                _compare(trial, event.rung, event.metrics[f"val/{objective}"])
        case events.Repeated():
            _measure(trial, event, objective)
        case events.Compared():
            _compare(trial, event.rung, event.value)
        case events.Decided():
            if event.decision == "continue" and trial.state == "paused":
                trial.slot = None  # others trained there since
            trial.state = "waiting" if event.decision == "continue" else "paused"
            trial.due = "stop" if event.decision == "stop" else ""
            trial.why = event.reason
            trial.attributes.update(event.attributes)
        case events.Failed():
            _fail(trial, event)
        case events.Ended():
            trial.outcome = Outcome(event.state, event.reason, event.value, event.failure)
            trial.state, trial.why, trial.searched = event.state, event.reason, len(trial.runs)


def _apply_to_fresh_seed(trial: Trial, event: Event, objective: str) -> None:
    """Change a run by which the study confirms a trial that has ended."""
    if isinstance(event, events.Repeated):
        _take_evaluation(_run(trial, event.seed), event, objective)
    elif isinstance(event, events.Trained):
        _run(trial, event.seed).last_point = event.points[-1][0]


def _run(trial: Trial, seed: int) -> Run:
    """Return the run with a seed, a new one where there was none."""
    while len(trial.runs) <= seed:
        trial.runs.append(Run())
    return trial.runs[seed]


def _train(trial: Trial, event: events.Trained) -> None:
    run = _run(trial, event.seed)
    run.last_point = event.points[-1][0]
    # It made progress, so its position is not what kills its workers.
    trial.deaths = [failure for failure in trial.deaths if failure != "killed"]
    speeds = [point[2][SPEED] for point in event.points[-SPEED_POINTS:] if SPEED in point[2]]
    trial.speed = sum(speeds) / len(speeds) if speeds else trial.speed


def _measure(trial: Trial, event: events.Evaluated, objective: str) -> None:
    _take_evaluation(_run(trial, event.run), event, objective)
    trial.deaths.clear()
    trial.state, trial.due = "waiting", "compare"


def _take_evaluation(run: Run, event: events.Evaluated, objective: str) -> None:
    run.values[event.rung] = event.metrics[f"val/{objective}"]
    run.rows = event.rows
    run.last = event.why if event.last else ""


def _compare(trial: Trial, rung: int, value: float) -> None:
    """Give the trial its value at an evaluation."""
    if rung not in trial.values:
        trial.values = {**trial.values, rung: value}
        trial.rows = {**trial.rows, rung: trial.runs[0].rows}
    trial.why = trial.runs[0].last
    trial.due = "complete" if trial.runs[0].last else "decide"


def _fail(trial: Trial, event: events.Failed) -> None:
    trial.failure = event.failure
    trial.failures.append(event.failure)
    trial.state, trial.why = "waiting", event.message.splitlines()[0]
    if event.failure in RETRIES:
        trial.attempt = event.attempt + 1
        trial.deaths.append(event.failure)
    if failed_for_good(event.failure, trial.deaths):
        trial.due = "fail"
