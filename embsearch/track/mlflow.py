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

import getpass
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embsearch.config.schema import Config
from embsearch.disk import file_lock
from embsearch.track import mlflow_model, mlflow_view
from embsearch.track.follower import Followed, Follower, Logs, one_line
from embsearch.track.mirror import TrialMirror, validation
from embsearch.track.mlflow_store import connect, find_experiment, quoted, slug
from embsearch.track.run_fields import RunFields, data_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "running": "RUNNING"}


@dataclass
class _View:
    """A run in MLflow and what it already has."""

    run_id: str = ""
    sent: int = 0  # events wholly in MLflow
    parts: set[str] = field(default_factory=set)  # params, dataset, artifacts: sent once
    tags: dict[str, str] = field(default_factory=dict)
    status: str = ""
    deleted: bool = False  # by hand


@dataclass
class _Trial(Followed):
    view: _View = field(default_factory=_View)


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
        self._objective = validation(config.evaluate.objective)
        self._fields = RunFields(config)
        self._logs = Logs(study_folder, self._objective, _Trial)
        self._study, self._trials = self._logs.study, self._logs.trials
        self._study_view = _View()
        self._known: dict[str, Run] | None = None  # while this process was the last to sync
        self._token = uuid.uuid4().hex
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._shown: dict[str, str] = {}  # experiment tags that are set
        self._refusals: dict[str, str] = {}  # by trial: what MLflow will never take

    # The seam

    def close(self, timeout: float = 30.0) -> int:
        """A last sync, then no more; the number of events that MLflow lacks."""
        self._live = False
        if self._was_away:
            self._known = (
                None  # a request that was given up may have made a run since: look once more
            )
        return super().close(timeout)

    @property
    def pending(self) -> int:
        """Events read that MLflow lacks, and one for a log not read yet."""
        trials = sum(t.mirror.events - t.view.sent for t in list(self._trials.values()))
        return trials + self._study.events - self._study_view.sent + self._logs.unread

    def _lost(self) -> None:
        self._was_away = True
        self._client, self._experiment = None, ""
        self._study_view.run_id = ""  # perhaps deleted by hand: look again

    # One sync

    def _sync(self) -> str:
        self._logs.read()
        if self._study.opened is None:
            return ""
        if not self._client:
            self._client = connect(self._config)
            self._known = None
        lock = self._folder / "mlflow.lock"
        with file_lock(lock):
            if lock.read_text() != self._token:  # another process has synced, perhaps made runs
                self._known = None
                lock.write_text(self._token)
            if not self._experiment:
                self._experiment = find_experiment(self._client, self._config) or ""
            if self._known is None:
                self._known = self._find_runs()
            self._send_study(self._client)
            failed: Exception | None = None
            for trial in self._trials.values():
                if trial.view.sent == trial.mirror.events and not self._interrupted(trial):
                    continue
                try:
                    self._send_trial(self._client, trial)
                except OSError as error:  # a file of this trial; the others go on
                    failed = error
                except Exception as error:
                    if not _refused(error):
                        raise
                    self._refusals[trial.mirror.name] = one_line(error)
                    trial.view.sent = trial.mirror.events
            self._send_chosen_models(self._client)
            self._show_view(self._client)
            self._show_note(self._client)
            if failed is not None:
                raise failed
        return "; ".join(f"{k}: {v}" for k, v in list(self._refusals.items())[:3])

    def _interrupted(self, trial: _Trial) -> bool:
        return not self._live and trial.view.status == "RUNNING"

    def _find_runs(self) -> dict[str, Run]:
        """The study's runs that MLflow has, by uid: one search instead of one a trial.

        A request whose answer was lost may have made a run all the same, and the next one its twin;
        the one that has less is deleted.
        """
        from mlflow.entities import ViewType

        assert self._client is not None
        found: dict[str, list[Run]] = {}
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                f"tags.`embsearch.study_uid` = {quoted(self._study.uid)}",
                ViewType.ALL,
                1000,
                page_token=token,
            )
            for run in page:
                if "embsearch.uid" in run.data.tags:
                    found.setdefault(run.data.tags["embsearch.uid"], []).append(run)
            token = page.token
            if not token:
                break
        for twins in found.values():
            twins.sort(
                key=lambda r: (
                    r.info.lifecycle_stage != "active",
                    -len(r.data.metrics),
                    r.info.run_id,
                )
            )
            for twin in twins[1:]:
                if twin.info.lifecycle_stage == "active":
                    self._client.delete_run(twin.info.run_id)
        return {uid: twins[0] for uid, twins in found.items()}

    def _run_of(
        self,
        client: MlflowClient,
        view: _View,
        uid: str,
        name: str,
        begun: int,
        tags: Mapping[str, str],
    ) -> str:
        """The run with this uid, found or made."""
        if view.run_id:
            return view.run_id
        assert self._known is not None
        run = self._known.get(uid)
        if run is None:
            fixed = {
                "embsearch.uid": uid,
                "embsearch.study": self._config.study.name,
                "embsearch.study_uid": self._study.uid,
                "mlflow.user": _user(),
                "mlflow.source.type": "LOCAL",
                "mlflow.source.name": f"embsearch search study={self._config.study.name}",
            }
            known = {k: v for k, v in {**fixed, **tags}.items() if v}
            run = client.create_run(self._experiment, start_time=begun, tags=known, run_name=name)
        view.deleted = run.info.lifecycle_stage == "deleted"
        view.run_id, view.tags, view.status = run.info.run_id, dict(run.data.tags), run.info.status
        return view.run_id

    # The study

    def _send_study(self, client: MlflowClient) -> None:
        study, view = self._study, self._study_view
        events, points = study.events, list(study.points.waiting)
        tags = self._fields.study_tags(
            study, [trial.mirror for trial in self._trials.values()], self._live
        )
        run = self._run_of(
            client, view, study.uid, f"study/{self._config.study.name}", study.created, tags
        )
        if (
            view.deleted
        ):  # trials that are deleted by hand stay so; without the parent nobody finds the others
            client.restore_run(run)
            view.deleted = False
        self._send(client, view, points, {}, tags)
        study.points.waiting = study.points.waiting[len(points) :]
        if "artifacts" not in view.parts:
            if (self._folder / "study.yaml").exists():
                client.log_artifact(run, str(self._folder / "study.yaml"))
            environment = study.environment
            if environment:
                client.log_text(
                    run, json.dumps(environment, indent=1, ensure_ascii=False), "environment.json"
                )
            if packages := environment.get("packages"):
                pins = "".join(f"{name}=={version}\n" for name, version in packages.items())
                client.log_text(run, pins, "packages.txt")
            view.parts.add("artifacts")
        self._send_page(client, view)
        self._send_dataset(client, view)
        closed = study.state == "closed"
        status = "FINISHED" if closed else "RUNNING" if self._live else "SCHEDULED"
        self._send_status(client, view, status, study.ended)
        view.sent = events

    def _send_page(self, client: MlflowClient, view: _View) -> None:
        """The study page, once there is one, and again when it was written again."""
        page = self._folder / "report.html"
        if not page.exists() or (part := f"page of {page.stat().st_mtime_ns}") in view.parts:
            return
        client.log_artifact(view.run_id, str(page))
        link = mlflow_view.artifact_link(self._experiment, view.run_id, page.name)
        view.tags["embsearch.report"] = f"[{page.name}]({link})"
        client.set_tag(view.run_id, "embsearch.report", view.tags["embsearch.report"])
        view.parts.add(part)

    # A trial

    def _send_trial(self, client: MlflowClient, trial: _Trial) -> None:
        mirror, view = trial.mirror, trial.view
        if mirror.number < 0:
            return  # created, but not a whole line of its log yet
        events, points = mirror.events, list(mirror.points.waiting)
        tags = self._fields.trial_tags(mirror, self._study, trial.folder, self._live)
        tags |= {"mlflow.parentRunId": self._study_view.run_id}
        run = self._run_of(client, view, self._uid(mirror), mirror.name, mirror.created, tags)
        whole = str(events) if mirror.ended else ""
        if not view.deleted and not (whole and view.tags.get("embsearch.events") == whole):
            self._send(client, view, points, self._fields.params(mirror), tags)
            status = _STATUS.get(mirror.state, "SCHEDULED")
            if status == "RUNNING" and not self._live:
                status = "SCHEDULED"
            self._send_status(client, view, status, mirror.ended)
            self._send_dataset(client, view)
            config = trial.folder / "config.yaml"
            if "artifacts" not in view.parts and config.exists():
                client.log_artifact(run, str(config))
                view.parts.add("artifacts")
            if mirror.ended and self._config.track.model_artifacts == "all":
                self._send_model(client, trial)
            if whole:
                client.set_tag(run, "embsearch.events", whole)
                view.tags["embsearch.events"] = whole
        mirror.points.waiting = mirror.points.waiting[len(points) :]
        if mirror.ended:
            mirror.points.forget()
        view.sent = events

    def _uid(self, mirror: TrialMirror) -> str:
        return f"{self._study.uid}/{mirror.name}"

    # Parts

    def _send(
        self,
        client: MlflowClient,
        view: _View,
        points: list[Any],
        params: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        """Points, parameters (once) and the tags that changed, in one batch."""
        from mlflow.entities import Metric, Param, RunTag

        changed = {k: v for k, v in tags.items() if view.tags.get(k, "") != v}
        fresh = {} if "params" in view.parts else params
        client.log_batch(
            view.run_id,
            metrics=[Metric(p.key, p.value, p.time, p.step) for p in points],
            params=[Param(k, str(v)) for k, v in fresh.items()],
            tags=[RunTag(k, v) for k, v in changed.items()],
            synchronous=True,
        )
        view.tags |= changed
        view.parts.add("params")

    def _send_status(self, client: MlflowClient, view: _View, status: str, ended: int) -> None:
        if status == view.status:
            return
        if ended:
            client.set_terminated(view.run_id, status, ended)
        else:
            client.update_run(view.run_id, status)
        view.status = status

    def _send_dataset(self, client: MlflowClient, view: _View) -> None:
        """The data with our own fingerprint: MLflow's digests read 10,000 rows at most."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest = data_digest(self._study)
        if "dataset" in view.parts or not digest:
            return
        data = self._config.data
        source = {k: v for k in ("path", "train", "valid", "test") if (v := getattr(data, k))}
        profile = self._study.opened.rows if self._study.opened is not None else {}
        dataset = Dataset(
            self._fields.dataset,
            digest,
            "local",
            json.dumps({"uri": next(iter(source.values()), ""), **source}, ensure_ascii=False),
            profile=json.dumps(profile, ensure_ascii=False) if profile else None,
        )
        tag = InputTag("mlflow.data.context", "training")
        client.log_inputs(view.run_id, [DatasetInput(dataset, [tag])])
        view.parts.add("dataset")

    def _send_model(self, client: MlflowClient, trial: _Trial) -> None:
        """The trial's model, once. A folder that is gone and was never sent stays unsent."""
        mirror, view = trial.mirror, trial.view
        folder = self._model_folder(trial)
        part = f"model and {len(mirror.test)} test scores"
        if folder is None or part in view.parts:
            return
        metrics = list(mirror.best_metrics.values())
        if mirror.best is not None and metrics:
            metrics.append(metrics[0]._replace(key="objective", value=mirror.best))
        metrics += mirror.test.values()
        mlflow_model.log_model(
            client,
            self._experiment,
            view.run_id,
            uid=self._uid(mirror),
            folder=folder,
            name=slug(f"{self._config.study.name}-{mirror.name}"),
            params={k: str(v) for k, v in self._fields.params(mirror).items()},
            tags={
                "embsearch.study": self._config.study.name,
                "embsearch.study_uid": self._study.uid,
                "embsearch.trial": str(mirror.number),
                "embsearch.state": mirror.state,
                "embsearch.data_digest": data_digest(self._study),
            },
            metrics=metrics,
            step=mirror.step,
        )
        view.parts.add(part)

    def _model_folder(self, trial: _Trial) -> Path | None:
        model = trial.mirror.model
        if not model:
            return None
        for folder in (Path(model), trial.folder / Path(model).name):  # a home may have moved
            if (folder / "modules.json").exists():
                return folder
        return None

    def _send_chosen_models(self, client: MlflowClient) -> None:
        """``top_k`` and ``best`` are known when the study closes."""
        track = self._config.track
        if self._study.state != "closed" or track.model_artifacts == "all":
            return
        ended = [
            t for t in self._trials.values() if t.mirror.best is not None and self._model_folder(t)
        ]
        winner = self._study.best_trial  # the one that promotion asks for
        ended.sort(
            key=lambda t: (t.mirror.number != winner, -(t.mirror.best or 0.0), t.mirror.number)
        )
        for trial in ended[: track.top_k if track.model_artifacts == "top_k" else 1]:
            self._send_model(client, trial)

    # What is seen first

    def _show_view(self, client: MlflowClient) -> None:
        seen = (list(t.mirror.axes) for t in self._trials.values() if t.mirror.axes)
        columns, plotted = self._fields.columns(next(seen, None))
        key = mlflow_view.TAG + mlflow_view.view_id(self._study.uid)
        made = self._study.created
        view = mlflow_view.saved_view(
            self._config.study.name, self._study.uid, columns, plotted, self._objective, made, made
        )
        self._show(client, key, view["state"], lambda _: json.dumps(view | {"updatedAt": _now()}))

    def _show_note(self, client: MlflowClient) -> None:
        tags = self._study_view.tags
        self._show(
            client,
            "mlflow.note.content",
            json.dumps(tags, sort_keys=True),
            lambda _: self._note(client),
        )

    def _note(self, client: MlflowClient) -> str:
        studies = client.search_runs(
            [self._experiment], "tags.`embsearch.role` = 'study'", max_results=20
        )
        return mlflow_view.experiment_note(self._experiment, [run.data.tags for run in studies])

    def _show(
        self, client: MlflowClient, key: str, content: str, make: Callable[[str], str]
    ) -> None:
        """Set an experiment tag when what it says has changed."""
        if self._shown.get(key) == content:
            return
        try:
            client.set_experiment_tag(self._experiment, key, make(content))
        except Exception as error:
            if not _refused(error):
                raise
            self._refusals[key] = one_line(error)
        self._shown[key] = content


def _refused(error: Exception) -> bool:
    """Whether MLflow answered and will say no for ever, as when a run was deleted by hand."""
    code = getattr(error, "error_code", "")
    return code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user name
        return "unknown"


def _now() -> int:
    return int(time.time() * 1000)
