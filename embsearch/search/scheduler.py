"""Schedulers: what happens to a trial that was measured, and which paused one goes on.

``Board`` is what they see: every trial's state and values by rung. Rungs are counted in
evaluations, which lie at equal shares of texts seen, so batch size does not confound them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import optuna

from embsearch.config.schema import Config
from embsearch.search.promotion import Promotion
from embsearch.values import Decision, State

__all__ = ["Board", "OptunaPruner", "Scheduler", "Standing", "make"]


@dataclass
class Standing:
    """One trial as schedulers see it: objective by rung, and its handle in Optuna."""

    number: int
    state: State = "waiting"
    values: dict[int, float] = field(default_factory=dict)
    optuna: Any = None

    @property
    def rung(self) -> int:
        return max(self.values, default=0)

    @property
    def best(self) -> float | None:
        return max(self.values.values(), default=None)


Board = Mapping[int, Standing]


class Scheduler(Protocol):
    """A scheduler decides by the board alone, so that a resumed study decides the same."""

    def decide(self, trial: Standing, board: Board) -> Decision:
        """What to do with ``trial``, just measured and not at its end."""

    def promotable(self, board: Board) -> Decision | None:
        """The reason why a paused trial may go on, as a "continue"; None where none may."""

    def next_paused(self, board: Board) -> int | None:
        """The paused trial that goes on next."""


class OptunaPruner:
    """Stop-only: one of Optuna's pruners, asked at every evaluation."""

    def __init__(self, pruner: optuna.pruners.BasePruner, name: str, min_rung: int) -> None:
        self.pruner, self.name, self.min_rung = pruner, name, min_rung

    def decide(self, trial: Standing, board: Board) -> Decision:
        """Reports to Optuna and asks it. The reason quotes the value and those it stands among."""
        rung, value = trial.rung, trial.values[trial.rung]
        trial.optuna.report(value, rung)
        if rung >= self.min_rung and trial.optuna.should_prune():
            others = sorted((t.values[rung] for t in board.values() if rung in t.values), reverse=True)
            place = others.index(value) + 1
            return Decision("stop", f"{self.name}: {value:.4f} at rung {rung}, place {place} of {len(others)}")
        return Decision("continue", f"{self.name}: {value:.4f} at rung {rung} may go on")

    def promotable(self, board: Board) -> Decision | None:
        return None

    def next_paused(self, board: Board) -> int | None:
        """Nothing pauses here but a stopped study: its trials go on in order."""
        return min((t.number for t in board.values() if t.state == "paused"), default=None)


def make(config: Config) -> Scheduler:
    """The scheduler of ``config.scheduler``."""
    scheduler, at = config.scheduler, config.evaluate.at
    name, top = scheduler.name, len(at)
    if name == "promotion":
        return Promotion(at, scheduler.reduction, scheduler.min_rung)
    pruners: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
        "none": lambda: optuna.pruners.NopPruner(),
        "median": lambda: optuna.pruners.MedianPruner(scheduler.startup_trials, scheduler.min_rung - 1),
        "asha": lambda: optuna.pruners.SuccessiveHalvingPruner(scheduler.min_rung, scheduler.reduction, 0),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(scheduler.min_rung, top, scheduler.reduction),
        "wilcoxon": lambda: optuna.pruners.WilcoxonPruner(p_threshold=scheduler.threshold, n_startup_steps=2),
    }
    return OptunaPruner(pruners[name](), name, scheduler.min_rung)
