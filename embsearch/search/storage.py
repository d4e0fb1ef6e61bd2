"""Optuna's study as a view of ours: asked for suggestions, told outcomes, nothing else."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from embsearch.config.schema import Config
from embsearch.disk import file_lock
from embsearch.errors import StudyError
from embsearch.search import budget, evidence
from embsearch.search.sampler import make as make_sampler
from embsearch.search.scheduler import Board, Scheduler
from embsearch.search.space import Space
from embsearch.values import Outcome, Scalar, Suggestion

PATIENCE = 60.0  # seconds to wait for another process that writes
REMEDIES = {
    "full": "free some space",
    "I/O": "free some space if the disk is full",
    "locked": "wait until no other process writes to it",
}


class OptunaView:
    """One study in ``home/optuna.db``; optuna-dashboard opens it unchanged.

    ``new`` says that our study begins: what Optuna knows of an earlier one of that name goes.
    """

    def __init__(self, path: Path, config: Config, space: Space, new: bool = False) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._path, self._config, self._space = path, config, space
        self.notice = ""
        with self.errors(), file_lock(path.with_suffix(".lock")):  # two that make the schema break it
            if damaged(path):
                self.notice = f"{path} is damaged: kept as {set_aside(path).name}, made again from the event logs"
            with closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
                database.execute("PRAGMA journal_mode=WAL")
            self._storage = optuna.storages.RDBStorage(
                f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": PATIENCE}}
            )
            self.study = self._open(anew=new)
        self._check_kinds()

    def _open(self, anew: bool) -> optuna.Study:
        name = self._config.study.name
        if anew and name in optuna.get_all_study_names(self._storage):
            optuna.delete_study(study_name=name, storage=self._storage)
        return optuna.create_study(
            study_name=name,
            storage=self._storage,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),  # Optuna's own default would be a median pruner
        )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What the database raises, as a StudyError: nothing but the view is lost."""
        try:
            yield
        except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
            cause: BaseException = error
            while cause.__cause__ is not None:  # Optuna's error, SQLAlchemy's, SQLite's
                cause = cause.__cause__
            do = next(
                (do for word, do in REMEDIES.items() if word in str(cause)), "delete the file if it comes again"
            )
            raise StudyError(
                f"{self._path}: {cause}; {do} and run the same command again. It is a view of the event logs, "
                "which have everything"
            ) from error

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
        for point in points[len(self.study.get_trials(deepcopy=False)) :]:
            self.study.enqueue_trial(self._space.to_optuna(point))

    def ask(self, number: int, board: Board, scheduler: Scheduler) -> tuple[Suggestion, Trial]:
        """Trial ``number``, new or left unfinished by a process that died: the same either way."""
        sampler = make_sampler(self._config.sampler, self._space, number)
        there = self.study.get_trials(deepcopy=False)
        if number == len(there) and (known := self._evidence(board, scheduler)) is not None:
            asked = optuna.create_study(direction="maximize", sampler=sampler)
            asked.add_trials(known)
            self.study.enqueue_trial(self._space.to_optuna(self._space.suggest(asked.ask())))
        self.study.sampler = sampler
        if number < len(there) and there[number].state == TrialState.RUNNING:
            trial = Trial(self.study, there[number]._trial_id)
        else:
            trial = self.study.ask()
        if trial.number != number:
            raise RuntimeError(f"Optuna's trial {trial.number} came where trial {number} was due")
        return Suggestion(number, self._space.suggest(trial)), trial

    def _evidence(self, board: Board, scheduler: Scheduler) -> list[FrozenTrial] | None:
        """What the samplers that learn from all trials are told; None for the others.

        CMA-ES keeps its state in Optuna's complete trials, so it is asked in the database.
        """
        if self._config.sampler.name == "tpe":
            return evidence.ranked(board, self._space, scheduler, self._config.evaluate.at)
        if self._config.sampler.name == "gp":
            return evidence.comparable(board, self._space, scheduler, self._config.sampler.startup_trials)
        return None

    def restore(self, board: Board, pruner: optuna.pruners.BasePruner | None) -> None:
        """Bring the database to what the event logs say and give every trial its handle; reports go
        through ``pruner``. Where the two cannot both be right, the study is made again."""
        if not all(self._agrees(trial, board) for trial in self.study.get_trials(deepcopy=False)):
            self.study = self._open(anew=True)
        if pruner is not None:
            self.study.pruner = pruner
        for trial in board.values():
            trial.optuna = self._trial(trial.number, trial.params)

    def _agrees(self, there: FrozenTrial, board: Board) -> bool:
        trial = board.get(there.number)
        if trial is None or there.state == TrialState.WAITING:
            return not there.state.is_finished()  # asked for by a process that died
        ahead = there.state.is_finished() and trial.outcome is None
        return not ahead and there.params == self._space.to_optuna(trial.params)

    def _trial(self, number: int, params: Mapping[str, Scalar]) -> Trial:
        """The handle of a trial of ours; where the database has lost it, it is made again."""
        there = self.study.get_trials(deepcopy=False)
        if number < len(there) and there[number].state != TrialState.WAITING:
            return self._handle(there[number])
        for _ in range(len(there), number):  # as many whose logs were lost: asked for again, see ``ask``
            self.study.add_trial(create_trial(state=TrialState.RUNNING))
        if number >= len(there):
            self.study.enqueue_trial(self._space.to_optuna(params))
        self.study.sampler = optuna.samplers.RandomSampler(seed=0)
        trial = self.study.ask()
        self._space.suggest(trial)
        return trial

    def _handle(self, there: FrozenTrial) -> Trial:
        """Optuna's Trial samples when it is made; here there is nothing to sample."""
        sampler, self.study.sampler = self.study.sampler, optuna.samplers.RandomSampler(seed=0)
        try:
            return Trial(self.study, there._trial_id)
        finally:
            self.study.sampler = sampler

    def tell(self, number: int, outcome: Outcome, values: Mapping[int, float]) -> None:
        """How a trial ended; telling twice changes nothing.

        A failure that the parameters caused (diverged, out of memory) is told as pruned without
        a value, which TPE ranks below every other trial: the sampler moves away from it. Other
        failures say nothing about the parameters.
        """
        there = self.study.get_trials(deepcopy=False)[number]
        if there.state.is_finished():
            return
        trial = self._handle(there)
        blamed = outcome.failure in evidence.BLAMED
        if not blamed:
            for rung, value in values.items():
                step = budget.step(self._config.evaluate.at, rung)
                if step not in there.intermediate_values:
                    trial.report(value, step)
        trial.set_user_attr("reason", outcome.reason)
        if outcome.failure:
            trial.set_user_attr("failure", outcome.failure)
        if outcome.state == "complete":
            self.study.tell(trial, outcome.value)
        else:
            state = TrialState.PRUNED if outcome.state == "pruned" or blamed else TrialState.FAIL
            self.study.tell(trial, state=state)


def damaged(path: Path) -> bool:
    """Whether this is no database any more. One that is locked, or a disk that is full, is another matter."""
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
            return database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return True


def set_aside(path: Path) -> Path:
    """Rename a damaged database and what belongs to it; its new name."""
    aside = path.with_name(f"{path.name}.damaged")
    for end in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.replace(f"{path}{end}", f"{aside}{end}")
    return aside
