"""An Optuna study in memory that knows given trials: what samplers and pruners are asked through.

Nothing is kept between two questions, so the answer depends on the event logs alone.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from embsearch.history.trial import Trial
from embsearch.hpo import budget
from embsearch.hpo.space import Space

BLAMED = ("diverged", "out_of_memory")  # failures that the parameters caused


class KnownTrials(optuna.storages.InMemoryStorage):
    """A storage that holds given trials as they are, and one more that gets ``number``."""

    def __init__(self, known: Sequence[FrozenTrial], number: int) -> None:
        super().__init__()
        self._known, self._number = known, number

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add the one trial that is asked about."""
        trial_id = super().create_new_trial(study_id, template_trial)
        self.get_trial(trial_id).number = self._number
        return trial_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the known trials, then the new one."""
        known = [trial for trial in self._known if states is None or trial.state in states]
        return known + super().get_all_trials(study_id, deepcopy, states)

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Return the best of all, and not of the new one alone."""
        return optuna.storages.BaseStorage.get_best_trial(self, study_id)


def memory_study(
    known: Sequence[FrozenTrial],
    number: int,
    name: str,
    sampler: optuna.samplers.BaseSampler | None = None,
) -> optuna.Study:
    """Return a study of the known trials, to which trial ``number`` may be added."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        storage=KnownTrials(known, number),
        study_name=name,
        direction="maximize",
        sampler=sampler or optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.NopPruner(),  # Optuna's own default would be a median pruner
    )


def frozen(trial: Trial, space: Space, **standing: Any) -> FrozenTrial:
    """Return a trial of ours as Optuna's, with the given state, value and the like."""
    known = {d.name: d.distribution for d in space.dimensions if d.path in trial.params}
    made = create_trial(params=space.to_optuna(trial.params), distributions=known, **standing)
    made.number = trial.number
    return made


def as_told(trial: Trial, space: Space, at: Sequence[float]) -> FrozenTrial:
    """Return a trial as its own log has it, with what samplers and pruners keep in it.

    A failure that the parameters caused (diverged, out of memory) stands as pruned without a value, which TPE
    ranks below every other trial. Other failures say nothing about the parameters.
    """
    state, value = told_state(trial, at)
    steps = values_by_step(trial.values, at)
    attributes = dict(trial.attributes)
    return frozen(
        trial, space, state=state, value=value, intermediate_values=steps, system_attrs=attributes
    )


def told_state(trial: Trial, at: Sequence[float]) -> tuple[TrialState, float | None]:
    """Return the state and value by which Optuna knows a trial."""
    outcome = trial.outcome
    if outcome is None:
        return TrialState.RUNNING, None
    if outcome.failure in BLAMED:
        return TrialState.PRUNED, None
    if outcome.state == "complete":
        return TrialState.COMPLETE, outcome.value
    if outcome.state == "failed":
        return TrialState.FAIL, None
    return TrialState.PRUNED, trial.values[
        trial.rung
    ] if trial.values else None  # as Optuna itself has it


def values_by_step(values: Mapping[int, float], at: Sequence[float]) -> dict[int, float]:
    """Return the values of evaluations by Optuna's steps."""
    return {budget.step(at, rung): value for rung, value in values.items()}
