"""A trial's model on its way to the registry, and what its study's record says of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from embsearch.config.build import build, to_dict
from embsearch.config.schema import Config, ModelConfig
from embsearch.data.dataset import Rows, TaskData
from embsearch.errors import EmbsearchError, Refused, StudyError
from embsearch.history import events
from embsearch.history.folder import StudyFolder
from embsearch.history.log import read_events
from embsearch.history.state import StudyState
from embsearch.history.trial import Trial
from embsearch.hpo.costs import rivals
from embsearch.model.base_model import UNKNOWN, base_of
from embsearch.registry import mlflow_registry as registry
from embsearch.registry import test_set_uses
from embsearch.registry.judge import Judge, JudgedModel
from embsearch.tasks.base import AnyTask
from embsearch.tasks.catalogue import task_of
from embsearch.track.digest import digest, manifest
from embsearch.track.mirror import study_uid
from embsearch.track.mlflow import MlflowRecorder
from embsearch.values import Interval

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel


@dataclass(frozen=True)
class Candidate:
    """A trial's model with everything that its study's record says of it."""

    asked: Config
    config: Config  # the study's
    folder: StudyFolder
    trial: int
    model: Path
    data: TaskData  # as its task loads them
    judge: Judge
    client: MlflowClient
    recorded: dict[str, dict[str, str]]  # manifests, by who kept them before today

    @staticmethod
    def of(asked: Config, folder: StudyFolder, trial: int | None) -> Candidate:
        """Return the candidate that is asked for. Raises StudyError, Refused."""
        closed = folder.state().closed
        if closed is None:
            raise StudyError(
                f"study {asked.study.name} has not ended in {folder.home}; run 'embsearch search' for it first, "
                "or see 'embsearch status'"
            )
        now = {"track": to_dict(asked)["track"], "home": asked.home, "device": asked.device}
        config = build(folder.read_locked()["config"] | now)
        trial = closed.best if trial is None else trial
        model = None if trial is None else folder.trial(trial) / "model"
        if trial is None or model is None or not model.exists():
            raise StudyError(f"study {asked.study.name}: trial {trial} has no model to promote")
        task = task_of(config)
        cache = task.prepare(config.data, folder.home / "cache")
        data = task.load(cache)
        if lacking := task.lacking(task.rows(data, "test")):
            raise Refused(
                f"study {asked.study.name} has no test {lacking}: nothing proves the "
                "gain; give a test split (data.test=FILE, or data.split.test above 0)"
            )
        client = registry.registry(config)
        MlflowRecorder(config, folder.path, live=False).sync()
        judge, recorded = Judge(config, data, cache), recorded_files(folder, trial)
        return Candidate(asked, config, folder, trial, model, data, judge, client, recorded)

    @cached_property
    def digest(self) -> str:
        return digest(manifest(self.model))

    @property
    def task(self) -> AnyTask:
        """The task that it was trained for."""
        return self.judge.task

    @property
    def rows(self) -> Rows:
        """The test rows."""
        rows: Rows = self.judge.rows
        return rows

    @property
    def name(self) -> str:
        return registered_name(self.config)

    @property
    def models(self) -> Path:
        """The folder that keeps files of remote models."""
        return self.folder.home / "cache" / "models"

    @cached_property
    def opened(self) -> events.Opened:
        """The session in which it was trained; where its data changed meanwhile, one whose data are
        not today's.
        """
        log = read_events(self.folder.trial(self.trial) / "events.jsonl")
        ends = [event.time for event in events.of_kind(log, events.Ended)]
        began, ended = log[0].time, ends[0] if ends else log[-1].time
        every = self.folder.of_kind(events.Opened)
        until = [session for session in every if session.time <= ended] or every[:1]
        first = max((i for i, session in enumerate(until) if session.time <= began), default=0)
        trained = until[first:]
        return next((one for one in trained if one.data != self.data.fingerprint), trained[-1])

    @cached_property
    def state(self) -> StudyState:
        """The standing of its study, by the logs."""
        return self.folder.state()

    @property
    def best_given(self) -> Trial | None:
        """The trial with the best validation value of those that were given to its study; where it
        names costs, of those that cost no more.
        """
        every = self.state.trials
        values = {
            trial.number: value
            for trial in rivals(every, every[self.trial], self.config.evaluate.costs).values()
            if trial.given and (value := self.state.validation(trial.number)) is not None
        }
        return self.state.trials[max(values, key=values.__getitem__)] if values else None

    @cached_property
    def uid(self) -> str:
        """The study's id."""
        return study_uid(self.folder.of_kind(events.Opened)[0])

    @cached_property
    def model_config(self) -> ModelConfig:
        """The encoder's settings of its trial, which may be searched."""
        content = dict(self.folder.trial_configs()).get(self.trial)
        return self.config.model if content is None else build(content).model

    @cached_property
    def licence(self) -> str | None:
        """The base model's licence, as asked or as its own files name it."""
        named = base_of(self.model_config).license
        return self.asked.promote.licence or (None if named == UNKNOWN else named)

    def logged_model(self) -> LoggedModel:
        """Return its model in MLflow. Raises EmbsearchError where the recorder has not sent it."""
        logged = registry.model_of_trial(self.client, self.config, self.uid, self.trial)
        if logged is None:
            raise EmbsearchError(
                f"MLflow does not have the model of trial {self.trial} yet; is it reachable (track.uri), and was "
                "the model recorded (track.model_artifacts)? Run the same command again"
            )
        return logged

    def note_test_use(self) -> int:
        """Note that the test rows have judged it.

        Return how many models they have judged by now.
        """
        by = f"study {self.config.study.name}, trial {self.trial}"
        rows = test_set_uses.digest_of_rows(self.task, self.data)
        return test_set_uses.note_use(self.folder.home, rows, self.digest, by)

    def note(self, decided: events.Promoted) -> None:
        """Write into the study's log, which the caller holds, what was decided of it."""
        self.folder.log.append(replace(decided, trial=self.trial))
        MlflowRecorder(self.config, self.folder.path, live=False).sync()

    def interval(self, found: JudgedModel) -> Interval:
        """Return the primary metric on the test rows."""
        return self.task.interval(
            self.rows, found.answers, self.asked.promote.draws, self.config.seed
        )


def registered_name(config: Config) -> str:
    """Return the name of the registered model: one for each task of a study."""
    return config.track.registered_model or config.study.task


def recorded_files(folder: StudyFolder, trial: int) -> dict[str, dict[str, str]]:
    """Return the manifest that the study kept when it tested the model. MLflow has its own."""
    every = folder.of_kind(events.Tested)
    tested = [event for event in every if event.trial == trial and event.files]
    return {"the study": dict(tested[-1].files)} if tested else {}
