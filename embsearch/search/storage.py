"""Optuna's study as a view of ours: asked for suggestions, told outcomes, nothing else."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.trial import Trial, TrialState

from embsearch.config.schema import Config
from embsearch.search.sampler import make as make_sampler
from embsearch.search.space import Space
from embsearch.values import Outcome, Scalar, Suggestion


class OptunaView:
    """One study in ``home/optuna.db``; optuna-dashboard opens it unchanged."""

    def __init__(self, path: Path, config: Config, space: Space) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path, timeout=60) as database:
            database.execute("PRAGMA journal_mode=WAL")
        self._config, self._space = config, space
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
        self.study = optuna.create_study(
            study_name=config.study.name,
            storage=storage,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),  # Optuna's own default would be a median pruner
        )

    def enqueue(self, points: list[dict[str, Scalar]]) -> None:
        """Known points as the first trials; those already there are left alone."""
        for point in points[len(self.study.get_trials(deepcopy=False)) :]:
            self.study.enqueue_trial(self._space.to_optuna(point))

    def ask(self, number: int) -> tuple[Suggestion, Trial]:
        """Trial ``number``, new or left unfinished by a process that died: the same either way."""
        self.study.sampler = make_sampler(self._config.sampler, self._space, number)
        there = self.study.get_trials(deepcopy=False)
        if number < len(there) and there[number].state == TrialState.RUNNING:
            trial = Trial(self.study, there[number]._trial_id)
        else:
            trial = self.study.ask()
        if trial.number != number:
            raise RuntimeError(f"Optuna's trial {trial.number} came where trial {number} was due")
        return Suggestion(number, self._space.suggest(trial)), trial

    def trial(self, number: int, pruner: optuna.pruners.BasePruner | None) -> Trial:
        """The handle of a trial that exists; reports go through ``pruner``."""
        if pruner is not None:
            self.study.pruner = pruner
        return Trial(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)

    def tell(self, number: int, outcome: Outcome, values: Mapping[int, float]) -> None:
        """How a trial ended; telling twice changes nothing.

        A failure that the parameters caused (diverged, out of memory) is told as pruned without
        a value, which TPE ranks below every other trial: the sampler moves away from it. Other
        failures say nothing about the parameters.
        """
        there = self.study.get_trials(deepcopy=False)[number]
        if there.state.is_finished():
            return
        trial = Trial(self.study, there._trial_id)
        blamed = outcome.failure in ("diverged", "out_of_memory")
        if not blamed:
            for rung, value in values.items():
                if rung not in there.intermediate_values:
                    trial.report(value, rung)
        trial.set_user_attr("reason", outcome.reason)
        if outcome.failure:
            trial.set_user_attr("failure", outcome.failure)
        if outcome.state == "complete":
            self.study.tell(trial, outcome.value)
        else:
            state = TrialState.PRUNED if outcome.state == "pruned" or blamed else TrialState.FAIL
            self.study.tell(trial, state=state)
