"""MLflow as a view of the event logs: one experiment a task, a study its parent run, trials its children.

The recorder reads the logs and brings MLflow to what they say. Every step can be repeated: runs
are found by the tag ``embsearch.uid`` before they are made, points carry the time they were
logged at (MLflow stores equal points once), and a trial that is wholly there is marked with
the number of its events, so that a resumed study does not send it again.

The study never waits: it starts a thread here and asks it to close at the end. When MLflow
does not answer, the thread tries again later and later, and whatever is missing by then is
brought by the next sync.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from embsearch.config.schema import Config
from embsearch.disk import file_lock
from embsearch.history.trial import common_rung
from embsearch.hpo.costs import front
from embsearch.track import mlflow_model, mlflow_view
from embsearch.track.follower import Followed, Follower, Logs, one_line
from embsearch.track.mirror import TrialMirror, objective_at, validation
from embsearch.track.mlflow_runs import RunView, StudyRuns
from embsearch.track.mlflow_store import connect, slug
from embsearch.track.run_fields import RunFields, data_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARETO = "embsearch.pareto"
_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "running": "RUNNING"}


@dataclass
class _Trial(Followed):
    view: RunView = field(default_factory=RunView)


class MlflowRecorder(Follower):
    """Keeps MLflow up to date with one study.

    ``live`` says that this process runs the study: its open trials are running. Otherwise
    (``embsearch sync``, a study that was killed) a trial that has not ended waits to be resumed.
    """

    view = "MLflow"

    def __init__(self, config: Config, study_folder: Path, live: bool = True) -> None:
        super().__init__()
        self._was_away = False
        self._config = config
        self._folder = study_folder
        self._live = live
        self._objective = validation(config.evaluate.metric)
        self._fields = RunFields(config)
        self._logs = Logs(study_folder, self._objective, _Trial)
        self._study, self._trials = self._logs.study, self._logs.trials
        self._study_view = RunView()
        self._token = uuid.uuid4().hex
        self._runs: StudyRuns | None = None  # None: not connected
        self._shown: dict[str, str] = {}  # experiment tags that are set
        self._refusals: dict[str, str] = {}  # by trial: what MLflow will never take

    # The seam

    def close(self, timeout: float = 30.0) -> int:
        """Sync a last time, then no more; return the number of events that MLflow lacks."""
        self._live = False
        if self._was_away and self._runs is not None:
            self._runs.forget()  # a request that was given up may have made a run since
        return super().close(timeout)

    @property
    def pending(self) -> int:
        """Events read that MLflow lacks, and one for a log not read yet."""
        return self._logs.pending

    def _lost(self) -> None:
        self._was_away = True
        self._runs = None
        self._study_view.run_id = ""  # perhaps deleted by hand: look again

    # One sync

    def _sync(self) -> str:
        self._logs.read()
        if self._study.opened is None:
            return ""
        if self._runs is None:
            client = connect(self._config)
            self._runs = StudyRuns(client, self._config, self._study, self._fields)
        runs = self._runs
        lock = self._folder / "mlflow.lock"
        with file_lock(lock):
            if lock.read_text() != self._token:  # another process has synced, perhaps made runs
                runs.forget()
                lock.write_text(self._token)
            runs.look()
            self._send_study(runs)
            failed: Exception | None = None
            for trial in self._trials.values():
                interrupted = not self._live and trial.view.status == "RUNNING"
                if trial.sent == trial.mirror.events and not interrupted:
                    continue
                try:
                    self._send_trial(runs, trial)
                except OSError as error:  # a file of this trial; the others go on
                    failed = error
                except Exception as error:
                    if not _refused(error):
                        raise
                    self._refusals[trial.mirror.name] = one_line(error)
                    trial.sent = trial.mirror.events
            self._send_chosen_models(runs)
            _mark_front(runs, [*self._trials.values()], self._config)
            self._show_view(runs)
            self._show_note(runs)
            if failed is not None:
                raise failed
        return "; ".join(f"{k}: {v}" for k, v in list(self._refusals.items())[:3])

    # The study

    def _send_study(self, runs: StudyRuns) -> None:
        study, view = self._study, self._study_view
        events, points = study.events, list(study.points.waiting)
        mirrors = [trial.mirror for trial in self._trials.values()]
        tags = self._fields.study_tags(study, mirrors, self._live)
        name = f"study/{self._config.study.name}"
        run = runs.open(view, study.uid, name, study.created, tags)
        if view.deleted:
            # Trials that are deleted by hand stay so; without the parent nobody finds the others.
            runs.client.restore_run(run)
            view.deleted = False
        runs.send(view, points, {}, tags)
        study.points.waiting = study.points.waiting[len(points) :]
        if "artifacts" not in view.parts:
            self._send_artifacts(runs.client, run)
            view.parts.add("artifacts")
        self._send_page(runs)
        runs.send_dataset(view)
        closed = study.state == "closed"
        status = "FINISHED" if closed else "RUNNING" if self._live else "SCHEDULED"
        runs.set_status(view, status, study.ended)
        self._logs.sent = events

    def _send_artifacts(self, client: MlflowClient, run: str) -> None:
        """Send the study's config and what it runs on."""
        if (self._folder / "study.yaml").exists():
            client.log_artifact(run, str(self._folder / "study.yaml"))
        if environment := self._study.environment:
            words = json.dumps(environment, indent=1, ensure_ascii=False)
            client.log_text(run, words, "environment.json")
        if packages := environment.get("packages"):
            pins = "".join(f"{name}=={version}\n" for name, version in packages.items())
            client.log_text(run, pins, "packages.txt")

    def _send_page(self, runs: StudyRuns) -> None:
        """Send the study page once there is one, and again when it was written again."""
        page, view = self._folder / "report.html", self._study_view
        if not page.exists() or (part := f"page of {page.stat().st_mtime_ns}") in view.parts:
            return
        runs.client.log_artifact(view.run_id, str(page))
        link = mlflow_view.artifact_link(runs.experiment, view.run_id, page.name)
        runs.tag(view, "embsearch.report", f"[{page.name}]({link})")
        view.parts.add(part)

    # A trial

    def _send_trial(self, runs: StudyRuns, trial: _Trial) -> None:
        mirror, view = trial.mirror, trial.view
        if mirror.number < 0:
            return  # created, but not a whole line of its log yet
        events, points = mirror.events, list(mirror.points.waiting)
        tags = self._fields.trial_tags(mirror, self._study, trial.folder, self._live)
        tags |= {"mlflow.parentRunId": self._study_view.run_id}
        run = runs.open(view, self._uid(mirror), mirror.name, mirror.created, tags)
        whole = str(events) if mirror.ended else ""
        if not view.deleted and not (whole and view.tags.get("embsearch.events") == whole):
            runs.send(view, points, self._fields.params(mirror), tags)
            status = _STATUS.get(mirror.trial.state, "SCHEDULED")
            if status == "RUNNING" and not self._live:
                status = "SCHEDULED"
            runs.set_status(view, status, mirror.ended)
            runs.send_dataset(view)
            config = trial.folder / "config.yaml"
            if "artifacts" not in view.parts and config.exists():
                runs.client.log_artifact(run, str(config))
                view.parts.add("artifacts")
            if mirror.ended and self._config.track.model_artifacts == "all":
                self._send_model(runs, trial)
            if whole:
                runs.tag(view, "embsearch.events", whole)
        mirror.points.waiting = mirror.points.waiting[len(points) :]
        if mirror.ended:
            mirror.points.forget()
        trial.sent = events

    def _uid(self, mirror: TrialMirror) -> str:
        return f"{self._study.uid}/{mirror.name}"

    def _send_model(self, runs: StudyRuns, trial: _Trial) -> None:
        """Send the trial's model once. A folder that is gone and was never sent stays unsent."""
        mirror, view = trial.mirror, trial.view
        folder = _model_folder(trial)
        part = f"model and {len(mirror.test)} test scores"
        if folder is None or part in view.parts:
            return
        metrics = list(mirror.best_metrics.values())
        if mirror.trial.best is not None and metrics:
            metrics.append(metrics[0]._replace(key="objective", value=mirror.trial.best))
        metrics += mirror.test.values()
        mlflow_model.log_model(
            runs.client,
            runs.experiment,
            view.run_id,
            uid=self._uid(mirror),
            folder=folder,
            name=slug(f"{self._config.study.name}-{mirror.name}"),
            params={k: str(v) for k, v in self._fields.params(mirror).items()},
            tags={
                "embsearch.study": self._config.study.name,
                "embsearch.study_uid": self._study.uid,
                "embsearch.trial": str(mirror.number),
                "embsearch.state": mirror.trial.state,
                "embsearch.data_digest": data_digest(self._study),
            },
            metrics=metrics,
            step=mirror.trial.step,
        )
        view.parts.add(part)

    def _send_chosen_models(self, runs: StudyRuns) -> None:
        """Send the models that ``top_k`` or ``best`` names, which the end of the study decides."""
        track = self._config.track
        if self._study.state != "closed" or track.model_artifacts == "all":
            return
        leader = self._study.leader  # the one that promotion asks for
        ended = [
            t for t in self._trials.values() if t.mirror.trial.best is not None and _model_folder(t)
        ]
        ended.sort(key=lambda t: (-(t.mirror.trial.best or 0.0), t.mirror.number))
        ended.sort(key=lambda t: t.mirror.trial is not leader)
        for trial in ended[: track.top_k if track.model_artifacts == "top_k" else 1]:
            self._send_model(runs, trial)

    # What is seen first

    def _show_view(self, runs: StudyRuns) -> None:
        seen = (list(t.mirror.axes) for t in self._trials.values() if t.mirror.axes)
        columns, plotted = self._fields.columns(next(seen, None))
        key = mlflow_view.TAG + mlflow_view.view_id(self._study.uid)
        made = self._study.created
        rung = common_rung(trial.mirror.trial for trial in self._trials.values()) or 1
        at = self._config.evaluate.at  # an extended study may have fewer evaluations
        shared = objective_at(rung), f"{at[min(rung, len(at)) - 1]:.0%} of the texts"
        name, uid = self._config.study.name, self._study.uid
        view = mlflow_view.saved_view(
            name, uid, columns, plotted, self._objective, shared, made, made
        )
        self._show(
            runs,
            key,
            view["state"],
            lambda: json.dumps(view | {"updatedAt": int(time.time() * 1000)}),
        )

    def _show_note(self, runs: StudyRuns) -> None:
        tags = json.dumps(self._study_view.tags, sort_keys=True)
        self._show(runs, "mlflow.note.content", tags, lambda: self._note(runs))

    def _note(self, runs: StudyRuns) -> str:
        studies = runs.client.search_runs(
            [runs.experiment], "tags.`embsearch.role` = 'study'", max_results=20
        )
        return mlflow_view.experiment_note(runs.experiment, [run.data.tags for run in studies])

    def _show(self, runs: StudyRuns, key: str, content: str, make: Callable[[], str]) -> None:
        """Set an experiment tag when what it says has changed."""
        if self._shown.get(key) == content:
            return
        try:
            runs.client.set_experiment_tag(runs.experiment, key, make())
        except Exception as error:
            if not _refused(error):
                raise
            self._refusals[key] = one_line(error)
        self._shown[key] = content


def _mark_front(runs: StudyRuns, every: Sequence[_Trial], config: Config) -> None:
    """Tag the runs of the Pareto front as it is now; a run that left it has an empty tag."""
    if not config.evaluate.costs:
        return
    trials = {one.mirror.number: one.mirror.trial for one in every}
    on_front = front(trials, config)
    for one in every:
        view = one.view
        if not view.run_id or view.deleted:
            continue
        marked = view.tags.get(PARETO, "")
        wanted = "true" if one.mirror.trial in on_front else ""
        if marked != wanted:
            runs.tag(view, PARETO, wanted)


def _model_folder(trial: _Trial) -> Path | None:
    """Return the folder of a trial's model, where it is there."""
    model = trial.mirror.model
    if not model:
        return None
    for folder in (Path(model), trial.folder / Path(model).name):  # a home may have moved
        if (folder / "modules.json").exists():
            return folder
    return None


def _refused(error: Exception) -> bool:
    """Return True where MLflow answered and will say no for ever, as for a run deleted by hand."""
    code = getattr(error, "error_code", "")
    return code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
