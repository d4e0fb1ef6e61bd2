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
from optuna.trial import FrozenTrial

from embsearch.codec import JsonObject
from embsearch.config.schema import Config
from embsearch.errors import ConfigError
from embsearch.history.board import Board
from embsearch.history.trial import Trial
from embsearch.hpo import budget
from embsearch.hpo.costs import rivals
from embsearch.hpo.memory_study import as_told, memory_study
from embsearch.hpo.promotion import Promotion
from embsearch.hpo.space import Space
from embsearch.values import Decision

Trials = Mapping[int, Trial]
NO_SPACE = Space(())  # pruners look at no parameters


class Scheduler(Protocol):
    """A scheduler decides by the board alone, so that a resumed study decides the same."""

    def decide(self, trial: Trial, board: Trials) -> Decision:
        """Return what to do with ``trial``, just measured and not at its end."""

    def promotable(self, board: Trials) -> Decision | None:
        """Return the reason why a paused trial may go on, as a "continue"; None where none may."""

    def next_paused(self, board: Trials) -> int | None:
        """Return the paused trial that goes on next."""

    def proved(self, trial: Trial, board: Trials) -> Mapping[int, float]:
        """Return the trial's values by rung, as far as its own results brought it: what a sampler
        may learn.
        """


class OptunaPruner:
    """Stop-only: one of Optuna's pruners, asked at every evaluation.

    ``name`` is the study's, by which Hyperband spreads trials over its brackets. ``costs``: what
    shall be low; it sees the trials that cost no more.
    """

    def __init__(
        self,
        pruner: optuna.pruners.BasePruner,
        kind: str,
        at: Sequence[float],
        min_rung: int,
        name: str = "study",
        costs: Sequence[str] = (),
    ) -> None:
        self._pruner, self._kind, self._at = pruner, kind, at
        self._min_rung, self._name = min_rung, name
        self._costs = costs
        self._kept: dict[int, tuple[tuple[object, ...], FrozenTrial]] = {}

    def decide(self, trial: Trial, board: Trials) -> Decision:
        """Ask Optuna. The reason quotes the value and its place at this rung."""
        rung, value = trial.rung, trial.values[trial.rung]
        there = rivals(Board.of(board), trial, self._costs)
        place = 1 + there.above(value, rung)
        words = f"{self._kind}: place {place} of {there.reached(rung)} at rung {rung} ({value:.4f})"
        prune, attributes = self._ask(trial, there)
        stops = prune and rung >= self._min_rung
        return Decision("stop" if stops else "continue", words, attributes)

    def _ask(self, trial: Trial, board: Board) -> tuple[bool, JsonObject]:
        """Return whether Optuna would prune the trial, and what it keeps in it."""
        known = [self._as_told(board[number]) for number in sorted(board) if number != trial.number]
        study = memory_study(known, trial.number, self._name)
        asked = as_told(trial, NO_SPACE, self._at)
        study._storage.create_new_trial(study._study_id, asked)
        there = study.get_trials(deepcopy=False)[-1]
        prune = trial.rung >= self._min_rung and self._pruner.prune(study, there)
        kept = study.get_trials(deepcopy=False)[
            -1
        ].system_attrs  # the storage made a new trial of it
        return prune, {key: value for key, value in kept.items() if key not in trial.attributes}

    def _as_told(self, trial: Trial) -> FrozenTrial:
        standing = (trial.state, len(trial.values), len(trial.attributes))
        last = self._kept.get(trial.number)
        if last is None or last[0] != standing:
            last = (standing, as_told(trial, NO_SPACE, self._at))
            self._kept[trial.number] = last
        return last[1]

    def promotable(self, board: Trials) -> Decision | None:
        return None

    def next_paused(self, board: Trials) -> int | None:
        """Nothing pauses here but a stopped study: its trials go on in order."""
        return min((t.number for t in Board.of(board).in_state("paused")), default=None)

    def proved(self, trial: Trial, board: Trials) -> Mapping[int, float]:
        return trial.values


def repeats_from(config: Config) -> int:
    """Return the first evaluation at which all seeds of a trial are compared: the first that not
    every trial comes to.
    """
    return min(config.scheduler.min_rung + 1, len(config.evaluate.at))


def make(config: Config) -> Scheduler:
    """Return the scheduler of ``config.scheduler``. Raises ConfigError for a rung that no trial
    reaches.
    """
    scheduler, at, costs = config.scheduler, config.evaluate.at, config.evaluate.costs
    name, reduction = scheduler.name, scheduler.reduction
    faults = []
    if not 1 <= scheduler.min_rung <= len(at):
        faults.append(
            f"scheduler.min_rung={scheduler.min_rung}: a trial is evaluated {len(at)} times (evaluate.at); "
            f"expected 1 to {len(at)}"
        )
    if reduction < 2:
        faults.append(
            f"scheduler.reduction={reduction}: one in this many goes up a rung; expected 2 or more"
        )
    if faults:
        raise ConfigError(faults)
    if name == "promotion":
        counted = config.stop.seconds is None and config.stop.target is None
        return Promotion(at, reduction, scheduler.min_rung, config.stop.trials, counted, costs)
    first, top = budget.step(at, scheduler.min_rung), budget.step(at, len(at))
    pruners: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
        "none": lambda: optuna.pruners.NopPruner(),
        "median": lambda: optuna.pruners.MedianPruner(scheduler.startup_trials, first),
        "asha": lambda: optuna.pruners.SuccessiveHalvingPruner(first, reduction, 0),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(first, top, reduction),
        "wilcoxon": lambda: optuna.pruners.WilcoxonPruner(
            p_threshold=scheduler.threshold, n_startup_steps=2
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return OptunaPruner(pruners[name](), name, at, scheduler.min_rung, config.study.name, costs)
