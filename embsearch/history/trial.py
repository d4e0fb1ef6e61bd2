"""One trial as its log tells it. Only ``history.state`` changes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from embsearch.codec import JsonObject
from embsearch.values import FailureClass, Origin, Outcome, Scalar, State

# How often a job goes out again that made no progress meanwhile, by failure.
RETRIES = {"killed": 3, "hung": 1, "checkpoint": 3}
MENDED_BY_USER = ("data", "disk_full")  # failures that stop the study and not the trial

Due = Literal["", "compare", "decide", "complete", "stop", "fail"]


@dataclass
class Run:
    """One of a trial's runs: the same parameters, another seed."""

    values: dict[int, float] = field(default_factory=dict)  # the objective by evaluation
    rows: int = 0  # that its last evaluation read
    last: str = ""  # why it ended by itself
    last_point: int = -1  # step of the last training metrics

    @property
    def rung(self) -> int:
        """The last evaluation it has been at."""
        return max(self.values, default=0)


@dataclass
class Trial:
    """One trial.

    ``values`` are what is compared: at evaluations that several seeds are due at (``study.seeds``), the mean of
    all ``runs``, once it is known.
    """

    number: int
    state: State = "waiting"
    values: Mapping[int, float] = field(default_factory=dict)  # the objective by evaluation
    rows: Mapping[int, int] = field(default_factory=dict)  # that were read at an evaluation
    params: Mapping[str, Scalar] = field(default_factory=dict)
    attributes: JsonObject = field(
        default_factory=dict
    )  # what samplers and pruners keep in Optuna's trial
    origin: Origin = ""  # who thought of it
    members: tuple[tuple[int, int], ...] = ()  # of a soup: trial and run of each
    outcome: Outcome | None = None
    costs: Mapping[str, float] = field(default_factory=dict)  # of its model, by evaluate.costs
    runs: list[Run] = field(default_factory=lambda: [Run()])
    seed: int = 0  # of the run that trains, or did last
    searched: int = (
        1  # runs of the search; further ones are of fresh seeds, by which it was confirmed
    )
    attempt: int = 0
    deaths: list[str] = field(default_factory=list)  # failures since it last made progress
    failures: list[str] = field(default_factory=list)  # all there were
    failure: FailureClass | None = None  # the last one
    texts_seen: int = 0
    step: int = 0
    seconds: float = 0.0
    speed: float = 0.0  # texts a second, lately
    slot: int | None = None  # where it runs, or ran last: that worker is still warm
    why: str = ""
    due: Due = ""  # what must follow the last event
    link: str = ""  # of the last event
    # the objective of its model on all validation rows; -inf where that could not be measured
    judged: float | None = None

    @property
    def rung(self) -> int:
        """The last evaluation that it has a value at."""
        return max(self.values, default=0)

    @property
    def given(self) -> bool:
        """True of the default configuration and of what ``study.defaults`` names."""
        return self.number == 0 or self.origin == "given"

    @property
    def is_soup(self) -> bool:
        """True of a model that is the mean of others; nothing was tried for it."""
        return self.origin == "soup"

    @property
    def averaged(self) -> int:
        """The number of the trial whose runs a soup is the mean of."""
        return self.members[0][0]

    @property
    def recipe(self) -> str:
        """The recipe of a soup, in words."""
        return f"mean of {len(self.members)} runs of trial {self.averaged}"

    @property
    def best_score(self) -> tuple[int, float] | None:
        """Rows and value of its best evaluation. Values on fewer rows are not compared with values
        on more.
        """
        scores = ((self.rows.get(rung, 0), value) for rung, value in self.values.items())
        return max(scores, default=None)

    @property
    def best(self) -> float | None:
        """The value of its best evaluation."""
        score = self.best_score
        return None if score is None else score[1]

    @property
    def run(self) -> Run:
        """The run that trains, or did last."""
        return self.runs[self.seed]

    @property
    def until(self) -> int:
        """The evaluation that the trial is on its way to, or that some of its runs are at."""
        return (
            max(self.runs[0].rung, self.rung + 1)
            if self.runs[0].rung > self.rung
            else self.rung + 1
        )

    def failed_by(self, failures: Sequence[str]) -> bool:
        """Return whether it ended by one of these failures."""
        return self.outcome is not None and self.outcome.failure in failures

    def next_seed(self, seeds: int) -> int | None:
        """Return which of ``seeds`` runs trains next on the way to ``until``; None where all are
        there.
        """
        for seed in range(seeds):
            if seed >= len(self.runs):
                return seed
            if self.runs[seed].rung < self.until and not self.runs[seed].last:
                return seed
        return None

    def position(self, seed: int) -> int:
        """Return the last evaluation of the run with a seed; 0 where it has not begun."""
        return self.runs[seed].rung if seed < len(self.runs) else 0

    def ended_by_itself(self, seed: int) -> bool:
        """Return whether the run with a seed came to its end."""
        return seed < len(self.runs) and bool(self.runs[seed].last)

    def last_point(self, seed: int) -> int:
        """Return the last step whose training metrics are known of the run with a seed."""
        return self.runs[seed].last_point if seed < len(self.runs) else -1

    def values_at(self, rung: int, seeds: int) -> list[float]:
        """Return what the runs measured there; of one that ended before, at its end."""
        return [run.values[min(rung, run.rung)] for run in self.runs[:seeds]]


def failed_for_good(failure: str, deaths: Sequence[str]) -> bool:
    """Return whether a job that failed like this is given up, or goes out again.

    ``deaths``: its failures since it last made progress, this one included.
    """
    if failure in RETRIES:
        return deaths.count(failure) > RETRIES[failure]
    return failure not in MENDED_BY_USER


def common_rung(trials: Iterable[Trial]) -> int:
    """Return the highest evaluation that half of the measured trials came to, eight at least where
    there are as many: values there can be compared. 0 where nothing was measured.
    """
    rungs = sorted((trial.rung for trial in trials if trial.rung), reverse=True)
    return rungs[min(max(8, (len(rungs) + 1) // 2), len(rungs)) - 1] if rungs else 0
