"""Optuna's database as a view of the event logs: optuna-dashboard opens it unchanged.

The search asks nothing of it. It may be away, be deleted or be damaged: it is made again from the logs.
"""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from embsearch.codec import Json
from embsearch.config.schema import Config
from embsearch.errors import StudyError
from embsearch.history.folder import StudyFolder
from embsearch.history.trial import Trial
from embsearch.hpo.memory_study import as_told, told_state, values_by_step
from embsearch.hpo.space import Space, parse
from embsearch.track import optuna_database
from embsearch.track.follower import Followed, Follower, Logs


class OptunaFollower(Follower):
    """Keeps one study in Optuna's database up to date."""

    view = "Optuna's database"

    def __init__(self, config: Config, study_folder: Path) -> None:
        super().__init__()
        self._config = config
        folder = StudyFolder(config)
        self._database = optuna_database.of(config.study.storage, folder.home, folder.home_id)
        self._logs = Logs(study_folder, config.evaluate.metric, Followed)
        self._storage: optuna.storages.BaseStorage | None = None
        self._study_id = -1
        self._there: list[FrozenTrial] = []  # as the database has them, by number

    @property
    def pending(self) -> int:
        """Events that the database lacks."""
        return self._logs.pending

    @cached_property
    def _space(self) -> Space:
        """Return the search space. Raises ConfigError: the problem of this follower alone."""
        return parse(self._config.space, self._config)

    def _lost(self) -> None:
        # What a call did whose answer was lost is looked up when the database is opened again.
        self._storage = None

    def _sync(self) -> str:
        self._logs.read()
        if self._logs.study.opened is None:
            return ""
        with self._database.explained():
            if self._storage is None:
                self._open()
            trials = self._logs.state.trials
            for followed in self._logs.trials.values():
                mirror = followed.mirror
                if followed.sent != mirror.events and mirror.number in trials:
                    self._bring(trials[mirror.number])
                    followed.sent = mirror.events
        self._logs.sent = self._logs.study.events
        return ""

    def _open(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._storage = self._database.open()
        name = self._database.name_of(self._config.study.name)
        self._make_study(name)
        if not all(map(self._agrees, self._there)):  # of an earlier study with this name
            self._storage.delete_study(self._study_id)
            self._make_study(name)
        for followed in self._logs.trials.values():
            followed.sent = 0

    def _make_study(self, name: str) -> None:
        """Open the study in the database, a new one where there is none."""
        assert self._storage is not None
        study = optuna.create_study(
            study_name=name, storage=self._storage, direction="maximize", load_if_exists=True
        )
        for key, value in self._database.notes().items():
            study.set_user_attr(key, value)
        self._study_id = study._study_id
        self._there = study.get_trials(deepcopy=False)

    def _agrees(self, there: FrozenTrial) -> bool:
        """Return whether a trial in the database may be one of ours."""
        trial = self._logs.state.trials.get(there.number)
        if trial is None:  # it holds the place of a lost log
            return not there.params and not there.state.is_finished()
        if there.state.is_finished() and trial.outcome is None:
            return False
        ours = values_by_step(trial.values, self._config.evaluate.at)
        if not there.intermediate_values.items() <= ours.items():
            return False
        if not self._space.has(trial.params):
            return True  # an extended study may have narrowed its space
        return there.params == self._space.to_optuna(trial.params)

    def _bring(self, trial: Trial) -> None:
        """Bring one trial to what its log says."""
        storage = self._storage
        assert storage is not None
        while len(self._there) < trial.number:  # logs of these were lost
            self._add(create_trial(state=TrialState.RUNNING))
        if len(self._there) == trial.number:
            self._add(self._made(trial), running=True)
        there = self._there[trial.number]
        if there.state.is_finished():
            return
        for step, measured in values_by_step(trial.values, self._config.evaluate.at).items():
            if step not in there.intermediate_values:
                storage.set_trial_intermediate_value(there._trial_id, step, measured)
                there.intermediate_values[step] = measured
        state, value = told_state(trial, self._config.evaluate.at)
        if state.is_finished():
            for key, told in _notes(trial).items():
                storage.set_trial_user_attr(there._trial_id, key, told)
            storage.set_trial_state_values(
                there._trial_id, state, None if value is None else [value]
            )
            self._there[trial.number] = storage.get_trial(there._trial_id)

    def _made(self, trial: Trial) -> FrozenTrial:
        """Return a trial for the database; without parameters where they left the space since."""
        if not self._space.has(trial.params):
            return create_trial(state=TrialState.RUNNING)
        return as_told(trial, self._space, self._config.evaluate.at)

    def _add(self, trial: FrozenTrial, running: bool = False) -> None:
        assert self._storage is not None
        if running:
            trial.state, trial.values = TrialState.RUNNING, None
            trial.datetime_complete = None
        trial_id = self._storage.create_new_trial(self._study_id, trial)
        made = self._storage.get_trial(trial_id)
        expected = len(self._there)
        if made.number != expected:
            # Optuna asks again where an answer is lost, and so makes a trial twice. The next sync
            # opens the database again and finds that it differs from the logs.
            raise StudyError(
                f"trial {expected} has the number {made.number} there: the answer to a first request "
                "was lost, or another process writes the same study"
            )
        self._there.append(made)


def _notes(trial: Trial) -> Json:
    """Return what others who look at a trial that has ended should know."""
    outcome = trial.outcome
    assert outcome is not None
    notes = {"reason": outcome.reason}
    if trial.is_soup:
        notes["soup"] = trial.recipe
    if outcome.failure:
        notes["failure"] = outcome.failure
    return notes


def ready(config: Config) -> str:
    """Make Optuna's database usable; return what was mended.

    Raises StudyError, ConfigError where it cannot be used.
    """
    folder = StudyFolder(config)
    database = optuna_database.of(config.study.storage, folder.home, folder.home_id)
    database.check()
    return database.notice
