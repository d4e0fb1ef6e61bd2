"""Schedulers: what happens to a trial that was measured, and which paused one goes on.

What they see is every trial's state and values by rung: a ``Board``, or any mapping of them. Rungs are counted in
evaluations, which lie at the same shares of the texts for every trial, so batch size does not
confound them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import optuna

from embsearch.config.schema import Config
from embsearch.errors import ConfigError
from embsearch.search import budget
from embsearch.search.board import Board, Standing
from embsearch.search.promotion import Promotion
from embsearch.values import Decision

__all__ = ["Board", "OptunaPruner", "Scheduler", "Standing", "Trials", "make"]


Trials = Mapping[int, Standing]


class Scheduler(Protocol):
    """A scheduler decides by the board alone, so that a resumed study decides the same."""

    def decide(self, trial: Standing, board: Trials) -> Decision:
        """What to do with ``trial``, just measured and not at its end."""

    def promotable(self, board: Trials) -> Decision | None:
        """The reason why a paused trial may go on, as a "continue"; None where none may."""

    def next_paused(self, board: Trials) -> int | None:
        """The paused trial that goes on next."""

    def proved(self, trial: Standing, board: Trials) -> Mapping[int, float]:
        """The trial's values by rung, as far as its own results brought it: what a sampler may learn."""


class OptunaPruner:
    """Stop-only: one of Optuna's pruners, asked at every evaluation."""

    def __init__(self, pruner: optuna.pruners.BasePruner, name: str, at: Sequence[float], min_rung: int) -> None:
        self.pruner, self.name, self.at, self.min_rung = pruner, name, at, min_rung

    def decide(self, trial: Standing, board: Trials) -> Decision:
        """Reports to Optuna and asks it. The reason quotes the value and its place at this rung."""
        rung, value = trial.rung, trial.values[trial.rung]
        trial.optuna.report(value, budget.step(self.at, rung))
        there = Board.of(board)
        place = 1 + there.above(value, rung)
        words = f"{self.name}: place {place} of {there.reached(rung)} at rung {rung} ({value:.4f})"
        if rung >= self.min_rung and trial.optuna.should_prune():
            return Decision("stop", words)
        return Decision("continue", words)

    def promotable(self, board: Trials) -> Decision | None:
        return None

    def next_paused(self, board: Trials) -> int | None:
        """Nothing pauses here but a stopped study: its trials go on in order."""
        return min((t.number for t in Board.of(board).in_state("paused")), default=None)

    def proved(self, trial: Standing, board: Trials) -> Mapping[int, float]:
        return trial.values


def repeats_from(config: Config) -> int:
    """The first evaluation at which all seeds of a trial are compared: the first that not every trial comes to."""
    return min(config.scheduler.min_rung + 1, len(config.evaluate.at))


def make(config: Config) -> Scheduler:
    """The scheduler of ``config.scheduler``. Raises ConfigError for a rung that no trial reaches."""
    scheduler, at = config.scheduler, config.evaluate.at
    name, reduction = scheduler.name, scheduler.reduction
    faults = []
    if not 1 <= scheduler.min_rung <= len(at):
        faults.append(
            f"scheduler.min_rung={scheduler.min_rung}: a trial is evaluated {len(at)} times (evaluate.at); "
            f"expected 1 to {len(at)}"
        )
    if reduction < 2:
        faults.append(f"scheduler.reduction={reduction}: one in this many goes up a rung; expected 2 or more")
    if faults:
        raise ConfigError(faults)
    if name == "promotion":
        counted = config.stop.seconds is None and config.stop.target is None
        return Promotion(at, reduction, scheduler.min_rung, config.stop.trials if counted else None)
    first, top = budget.step(at, scheduler.min_rung), budget.step(at, len(at))
    pruners: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
        "none": lambda: optuna.pruners.NopPruner(),
        "median": lambda: optuna.pruners.MedianPruner(scheduler.startup_trials, first),
        "asha": lambda: optuna.pruners.SuccessiveHalvingPruner(first, reduction, 0),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(first, top, reduction),
        "wilcoxon": lambda: optuna.pruners.WilcoxonPruner(p_threshold=scheduler.threshold, n_startup_steps=2),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return OptunaPruner(pruners[name](), name, at, scheduler.min_rung)
