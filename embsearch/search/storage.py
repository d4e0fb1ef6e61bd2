"""Optuna's study as a view of ours: asked for suggestions, told outcomes, nothing else.

Nobody else writes it, so what it holds is remembered here: Optuna reads every unfinished trial again
whenever it is asked for all of them, and under promotion most trials are unfinished.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from embsearch.config.schema import Config
from embsearch.errors import StudyError
from embsearch.search import budget, evidence
from embsearch.search.database import Database, Wait
from embsearch.search.sampler import make as make_sampler
from embsearch.search.scheduler import Scheduler, Trials
from embsearch.search.space import Space
from embsearch.values import Outcome, Scalar, Suggestion

STATEFUL = ("cmaes", "grid")  # they keep their state in Optuna's trials, and learn from those alone
TOLD = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass
class Row:
    """What is remembered of a trial in the database."""

    id: int
    state: TrialState


def sleep(line: str, seconds: float) -> None:
    """How a view waits that nobody watches."""
    time.sleep(seconds)


class OptunaView:
    """One study in Optuna's database; optuna-dashboard opens it unchanged.

    ``new`` says that our study begins: what Optuna knows of an earlier one of that name goes. ``wait`` passes the
    time while a database is away.
    """

    def __init__(
        self, database: Database, config: Config, space: Space, new: bool = False, wait: Wait = sleep
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._database, self._config, self._space = database, config, space
        with self.errors():
            self._storage = database.open(wait)
            self.notice = database.notice
            self._open(anew=new)
        self._check_kinds()

    def _open(self, anew: bool) -> None:
        name = self._database.name_of(self._config.study.name)
        if anew:
            with suppress(KeyError):  # there is none
                self._storage.delete_study(self._storage.get_study_id_from_name(name))
        self.study = optuna.create_study(
            study_name=name,
            storage=self._storage,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),  # Optuna's own default would be a median pruner
        )
        for key, value in self._database.notes().items():
            self.study.set_user_attr(key, value)
        self._id = self._storage.get_study_id_from_name(name)
        self._rows = [Row(t._trial_id, t.state) for t in self.study.get_trials(deepcopy=False)]
        self._kept: evidence.Kept = {}

    def errors(self) -> AbstractContextManager[None]:
        """While the context runs, what the database raises is a StudyError."""
        return self._database.explained()

    def _check_kinds(self) -> None:
        """Optuna keeps one kind of range and one list of choices a parameter. Raises StudyError."""
        mine = {d.name: (d.path, d.distribution) for d in self._space.dimensions}
        known = {n: d for t in self.study.get_trials(deepcopy=False) for n, d in t.distributions.items() if n in mine}
        faults = []
        for name, old in known.items():
            path, new = mine[name]
            try:
                check_distribution_compatibility(old, new)
            except ValueError as error:
                faults.append(
                    f"space.{path}: the study's trials were drawn from {old}, now it is {new}: {error} Put it back, "
                    "or start a new study with study.name=..."
                )
        if faults:
            raise StudyError(faults)

    def enqueue(self, points: list[dict[str, Scalar]]) -> None:
        """Known points as the first trials; those already there are left alone."""
        for point in points[len(self._rows) :]:
            self.study.enqueue_trial(self._space.to_optuna(point))
            self._remember(TrialState.WAITING)

    def ask(self, number: int, board: Trials, scheduler: Scheduler) -> tuple[Suggestion, Trial | None]:
        """Trial ``number``, new or left unfinished by a process that died: the same either way.

        With it comes Optuna's handle, where the scheduler reports to one of its pruners.
        """
        sampler = make_sampler(self._config.sampler, self._space, number)
        if number == len(self._rows):
            params, state = evidence.ask(self._known(board, scheduler), number, sampler, self._space)
            self._add(params, state if self._config.sampler.name in STATEFUL else {})
        else:
            self.study.sampler = sampler
            params = self._space.suggest(self._begin(number))
        prunes = hasattr(scheduler, "pruner")
        return Suggestion(number, params), self._handle(number) if prunes else None

    def _begin(self, number: int) -> Trial:
        """A trial that is there, with the values it was enqueued with or got before."""
        row = self._rows[number]
        if row.state == TrialState.WAITING:
            self._storage.set_trial_state_values(row.id, TrialState.RUNNING)
            row.state = TrialState.RUNNING
        return Trial(self.study, row.id)

    def _add(self, params: Mapping[str, Scalar], attributes: Mapping[str, Any]) -> None:
        """A running trial with its parameters, in one transaction."""
        known = {d.name: d.distribution for d in self._space.dimensions if d.path in params}
        made = create_trial(
            state=TrialState.RUNNING, params=self._space.to_optuna(params), distributions=known,
            system_attrs=dict(attributes),
        )  # fmt: skip
        made.datetime_start = datetime.now()
        self._rows.append(Row(self._storage.create_new_trial(self._id, made), TrialState.RUNNING))

    def _remember(self, state: TrialState) -> None:
        number = len(self._rows)
        self._rows.append(Row(self._storage.get_trial_id_from_study_id_trial_number(self._id, number), state))

    def _known(self, board: Trials, scheduler: Scheduler) -> list[FrozenTrial]:
        """What the sampler is told."""
        name = self._config.sampler.name
        if name == "tpe":
            return evidence.ranked(board, self._space, scheduler, self._config.evaluate.at, self._kept)
        if name == "gp":
            return evidence.comparable(board, self._space, scheduler, self._config.sampler.startup_trials)
        return self.study.get_trials(deepcopy=False) if name in STATEFUL else []

    def restore(self, board: Trials, pruner: optuna.pruners.BasePruner | None) -> None:
        """Bring the database to what the event logs say; where reports go through ``pruner``, every trial gets
        its handle. Where the two cannot both be right, the study is made again."""
        if not all(self._agrees(trial, board) for trial in self.study.get_trials(deepcopy=False)):
            self._open(anew=True)
        if pruner is not None:
            self.study.pruner = pruner
        for number, trial in sorted(board.items()):
            self._see(number, trial.params)
            trial.optuna = None if pruner is None else self._handle(number)

    def _agrees(self, there: FrozenTrial, board: Trials) -> bool:
        trial = board.get(there.number)
        if trial is None or there.state == TrialState.WAITING:
            return not there.state.is_finished()  # asked for by a process that died
        ahead = there.state.is_finished() and trial.outcome is None
        return not ahead and there.params == self._space.to_optuna(trial.params)

    def _see(self, number: int, params: Mapping[str, Scalar]) -> None:
        """See that a trial of ours is there."""
        while len(self._rows) < number:  # as many whose logs were lost: asked for again, see ``ask``
            self._add({}, {})
        if number == len(self._rows):
            self._add(params, {})
        elif self._rows[number].state == TrialState.WAITING:
            self.study.sampler = optuna.samplers.RandomSampler(seed=0)
            self._space.suggest(self._begin(number))

    def _handle(self, number: int) -> Trial:
        """Optuna's Trial samples when it is made; here there is nothing to sample."""
        sampler, self.study.sampler = self.study.sampler, optuna.samplers.RandomSampler(seed=0)
        try:
            return Trial(self.study, self._rows[number].id)
        finally:
            self.study.sampler = sampler

    def tell(self, number: int, outcome: Outcome, values: Mapping[int, float]) -> None:
        """How a trial ended; telling twice changes nothing.

        A failure that the parameters caused (diverged, out of memory) is told as pruned without
        a value, which TPE ranks below every other trial: the sampler moves away from it. Other
        failures say nothing about the parameters.
        """
        row = self._rows[number]
        if row.state.is_finished():
            return
        blamed = outcome.failure in evidence.BLAMED
        steps = {budget.step(self._config.evaluate.at, rung): value for rung, value in values.items()}
        if not blamed:
            for step, value in steps.items():
                self._storage.set_trial_intermediate_value(row.id, step, value)
        self._storage.set_trial_user_attr(row.id, "reason", outcome.reason)
        if outcome.failure:
            self._storage.set_trial_user_attr(row.id, "failure", outcome.failure)
        state = TrialState.PRUNED if blamed else TOLD[outcome.state]
        told = outcome.value if state == TrialState.COMPLETE else None
        if outcome.state == "pruned" and steps:  # as Optuna itself has it
            told = steps[max(steps)]
        self._storage.set_trial_state_values(row.id, state, None if told is None else [told])
        row.state = state
