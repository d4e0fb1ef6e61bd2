"""The runs of one study in MLflow: found by ``embsearch.uid`` or made, and brought up to date part by part.

Every part can be sent again: MLflow stores equal points once, and a run is looked for before it is made.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embsearch.config.command import same_study
from embsearch.config.schema import Config
from embsearch.track.mirror import Point, StudyMirror
from embsearch.track.mlflow_store import find_experiment, quoted
from embsearch.track.run_fields import RunFields, data_digest
from embsearch.values import Scalar

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass
class RunView:
    """A run in MLflow and what it already has."""

    run_id: str = ""
    parts: set[str] = field(default_factory=set)  # params, dataset, artifacts: sent once
    tags: dict[str, str] = field(default_factory=dict)
    status: str = ""
    deleted: bool = False  # by hand


class StudyRuns:
    """The parent run of a study and the runs of its trials, by one client.

    ``experiment``: MLflow's id, empty before ``look``.
    """

    def __init__(
        self, client: MlflowClient, config: Config, study: StudyMirror, fields: RunFields
    ) -> None:
        self.client, self.experiment = client, ""
        self._config, self._study, self._fields = config, study, fields
        self._known: dict[str, Run] | None = None  # while this process was the last to sync

    def forget(self) -> None:
        """Have the next ``look`` ask MLflow again: another process may have made runs."""
        self._known = None

    def look(self) -> None:
        """Find the experiment and the study's runs, where they are not known."""
        if not self.experiment:
            self.experiment = find_experiment(self.client, self._config) or ""
        if self._known is None:
            self._known = self._found()

    def _found(self) -> dict[str, Run]:
        """Return the study's runs that MLflow has, by uid: one search instead of one a trial.

        A request whose answer was lost may have made a run all the same, and the next one its twin;
        the one that has less is deleted.
        """
        found: dict[str, list[Run]] = {}
        for run in self._search():
            if "embsearch.uid" in run.data.tags:
                found.setdefault(run.data.tags["embsearch.uid"], []).append(run)
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
                    self.client.delete_run(twin.info.run_id)
        return {uid: twins[0] for uid, twins in found.items()}

    def _search(self) -> list[Run]:
        """Return all runs with the study's uid, deleted ones too."""
        from mlflow.entities import ViewType

        wanted = f"tags.`embsearch.study_uid` = {quoted(self._study.uid)}"
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment], wanted, ViewType.ALL, 1000, page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def open(self, view: RunView, uid: str, name: str, begun: int, tags: Mapping[str, str]) -> str:
        """Find or make the run with this uid, and return its id."""
        if view.run_id:
            return view.run_id
        assert self._known is not None, "look() comes first"
        run = self._known.get(uid)
        if run is None:
            study = self._config.study.name
            fixed = {
                "embsearch.uid": uid,
                "embsearch.study": study,
                "embsearch.study_uid": self._study.uid,
                "mlflow.user": _user(),
                "mlflow.source.type": "LOCAL",
                "mlflow.source.name": f"embsearch search {same_study(self._config)}",
            }
            given = {k: v for k, v in {**fixed, **tags}.items() if v}
            run = self.client.create_run(
                self.experiment, start_time=begun, tags=given, run_name=name
            )
        view.deleted = run.info.lifecycle_stage == "deleted"
        view.run_id, view.tags, view.status = run.info.run_id, dict(run.data.tags), run.info.status
        return view.run_id

    def send(
        self,
        view: RunView,
        points: Sequence[Point],
        params: Mapping[str, Scalar],
        tags: Mapping[str, str],
    ) -> None:
        """Send points, parameters (once) and the tags that changed, in one batch."""
        from mlflow.entities import Metric, Param, RunTag

        changed = {k: v for k, v in tags.items() if view.tags.get(k, "") != v}
        fresh = {} if "params" in view.parts else params
        self.client.log_batch(
            view.run_id,
            metrics=[Metric(p.key, p.value, p.time, p.step) for p in points],
            params=[Param(k, str(v)) for k, v in fresh.items()],
            tags=[RunTag(k, v) for k, v in changed.items()],
            synchronous=True,
        )
        view.tags |= changed
        view.parts.add("params")

    def tag(self, view: RunView, key: str, value: str) -> None:
        """Set one tag."""
        self.client.set_tag(view.run_id, key, value)
        view.tags[key] = value

    def set_status(self, view: RunView, status: str, ended: int) -> None:
        """Set the status where it changed; ``ended``: the end in Unix milliseconds, 0 before it."""
        if status == view.status:
            return
        if ended:
            self.client.set_terminated(view.run_id, status, ended)
        else:
            self.client.update_run(view.run_id, status)
        view.status = status

    def send_dataset(self, view: RunView) -> None:
        """Send the data once, with our own fingerprint: MLflow's digests read 10,000 rows at most."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest = data_digest(self._study)
        if "dataset" in view.parts or not digest:
            return
        data = self._config.data
        source = {k: v for k in ("path", "train", "valid", "test") if (v := getattr(data, k))}
        source |= {name: room.path or room.train for name, room in data.sets.items()}
        profile = self._study.opened.rows if self._study.opened is not None else {}
        dataset = Dataset(
            self._fields.dataset,
            digest,
            "local",
            json.dumps({"uri": next(iter(source.values()), ""), **source}, ensure_ascii=False),
            profile=json.dumps(profile, ensure_ascii=False) if profile else None,
        )
        tag = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(view.run_id, [DatasetInput(dataset, [tag])])
        view.parts.add("dataset")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user name
        return "unknown"
