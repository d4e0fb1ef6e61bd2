"""A trial's model on its way to the registry, and what its study's record says of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embsearch.config.build import build, to_dict
from embsearch.config.schema import Config
from embsearch.data.dataset import Dataset
from embsearch.data.load import prepare_dataset
from embsearch.errors import EmbsearchError, Refused, StudyError
from embsearch.evaluate.bootstrap import auc_interval
from embsearch.folder import StudyFolder
from embsearch.model.base_model import UNKNOWN, base_of
from embsearch.registry import looks
from embsearch.registry import mlflow_registry as registry
from embsearch.registry.evidence import Judge, Judged
from embsearch.track.digest import digest, manifest
from embsearch.track.events import read_events
from embsearch.track.mirror import study_uid
from embsearch.track.mlflow import MlflowRecorder
from embsearch.values import Interval

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel


@dataclass(frozen=True)
class Candidate:
    """A trial's model and all that its study's record says of it."""

    asked: Config
    config: Config  # the study's
    folder: StudyFolder
    trial: int
    model: Path
    data: Dataset
    judge: Judge
    client: Any
    recorded: dict[str, dict[str, str]]  # manifests, by who kept them before today

    @staticmethod
    def of(asked: Config, folder: StudyFolder) -> Candidate:
        """The one that is asked for. Raises StudyError, Refused."""
        result = folder.result()
        if result is None:
            raise StudyError(
                f"study {asked.study.name} has not ended in {folder.home}; run 'embsearch search' for it first, "
                "or see 'embsearch status'"
            )
        now = {"track": to_dict(asked)["track"], "home": asked.home, "device": asked.device}
        config = build(folder.read_locked()["config"] | now)
        trial = result["best"] if asked.trial is None else asked.trial
        model = None if trial is None else folder.trial(trial) / "model"
        if trial is None or model is None or not model.exists():
            raise StudyError(f"study {asked.study.name}: trial {trial} has no model to promote")
        cache = prepare_dataset(config.data, folder.home / "cache")
        data = Dataset.load(cache)
        if not data.test.relevant.any() or data.test.relevant.all():
            raise Refused(
                f"study {asked.study.name} has no test rows with relevant and irrelevant titles: nothing proves the "
                "gain; give a test split (data.test=FILE, or data.split.test above 0)"
            )
        client = registry.registry(config)
        MlflowRecorder(config, folder.path, live=False).sync()
        judge, recorded = Judge(config, data, cache), _recorded(folder, trial)
        return Candidate(asked, config, folder, trial, model, data, judge, client, recorded)

    @cached_property
    def digest(self) -> str:
        return digest(manifest(self.model))

    @property
    def name(self) -> str:
        return registered_name(self.config)

    @property
    def models(self) -> Path:
        """Where files of remote models are kept."""
        return self.folder.home / "cache" / "models"

    @cached_property
    def opened(self) -> dict[str, Any]:
        """A session in which it was trained; where those had several data, one whose data are not today's."""
        log = read_events(self.folder.trial(self.trial) / "events.jsonl")
        began, ended = log[0]["time"], next((e["time"] for e in log if e["kind"] == "ended"), log[-1]["time"])
        every = self.folder.log_of_kind("opened")
        until = [e for e in every if e["time"] <= ended] or every[:1]
        first = max((i for i, e in enumerate(until) if e["time"] <= began), default=0)
        trained = until[first:]
        return next((e for e in trained if e["data"] != self.data.fingerprint), trained[-1])

    @cached_property
    def uid(self) -> str:
        """Of the study."""
        return study_uid(self.folder.log_of_kind("opened")[0])

    @cached_property
    def licence(self) -> str | None:
        """Of the base model, as asked or as its own files name it."""
        named = base_of(self.config.model).license
        return self.asked.promote.licence or (None if named == UNKNOWN else named)

    def logged_model(self) -> LoggedModel:
        """Its model in MLflow. Raises EmbsearchError where the recorder has not sent it."""
        logged = registry.model_of_trial(self.client, self.config, self.uid, self.trial)
        if logged is None:
            raise EmbsearchError(
                f"MLflow does not have the model of trial {self.trial} yet; is it reachable (track.uri), and was "
                "the model recorded (track.model_artifacts)? Run the same command again"
            )
        return logged

    def looked(self) -> int:
        """Note that the test rows have judged it; how many models they have judged by now."""
        by = f"study {self.config.study.name}, trial {self.trial}"
        return looks.look(self.folder.home, looks.test_rows(self.data), self.digest, by)

    def note(self, **what: Any) -> None:
        """Write into the study's log, which the caller holds, what was decided of it."""
        self.folder.log.append("promoted", **what, trial=self.trial)
        MlflowRecorder(self.config, self.folder.path, live=False).sync()

    def auc(self, found: Judged) -> Interval:
        """On the test rows."""
        rows = self.data.test
        return auc_interval(found.scores, rows.relevant, rows.query, self.asked.promote.draws, self.config.seed)


def registered_name(config: Config) -> str:
    """One registered model a task."""
    return config.track.registered_model or config.study.task


def _recorded(folder: StudyFolder, trial: int) -> dict[str, dict[str, str]]:
    """The manifest that the study kept when it tested the model. MLflow has its own."""
    tested = [e for e in folder.log_of_kind("tested") if e.get("trial") == trial and e.get("files")]
    return {"the study": tested[-1]["files"]} if tested else {}
