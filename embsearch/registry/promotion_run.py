"""A promotion as a run in MLflow, refusals too: gates, paired scores, pictures, what the model was
trained on.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from embsearch.codec import from_json
from embsearch.config.schema import Config
from embsearch.data.dataset import JudgedRows
from embsearch.history import events
from embsearch.registry import plots, trained_rows
from embsearch.registry.examination import Examination
from embsearch.registry.gates import Gate
from embsearch.registry.origin import Origin
from embsearch.tasks.base import Answers, Metric
from embsearch.tasks.catalogue import task_of
from embsearch.track.mlflow_model import UID, local_path
from embsearch.track.mlflow_store import find_experiment, quoted
from embsearch.values import record

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from embsearch.registry.candidate import Candidate


def keep(candidate: Candidate, found: Examination) -> str:
    """Find or make the run of this decision and write it; return its id.

    The same call again writes the same.
    """
    # Each decision has its run, one that died none of its own.
    before = len(candidate.folder.of_kind(events.Promoted))
    of = Origin(candidate.config.study.name, candidate.trial, candidate.uid)
    primary = candidate.task.primary
    with tempfile.TemporaryDirectory(prefix="promotion.") as folder:
        _write(Path(folder), found, candidate)
        return _send(candidate.client, candidate.config, of, before, found, primary, Path(folder))


def restore(
    client: MlflowClient, config: Config, of: Origin, before: int, event: events.Promoted
) -> str:
    """Make the run of a decision again, from the study's log and the files that the old run left;
    return its id.

    ``before``: how many decisions its study had before.
    """
    found = Examination(tuple(from_json(Gate, gate) for gate in event.gates))
    experiment = find_experiment(client, config)
    assert experiment is not None, "the study is in it"
    root = local_path(client.get_experiment(experiment).artifact_location)
    assert root is not None, "only a home's own database is restored"
    left = root / str(event.run) / "artifacts"
    return _send(client, config, of, before, found, task_of(config).primary, left)


def _send(
    client: MlflowClient,
    config: Config,
    of: Origin,
    before: int,
    found: Examination,
    primary: Metric,
    folder: Path,
) -> str:
    """Find or make the run of a decision and write it, with the files of ``folder``."""
    experiment = find_experiment(client, config)
    assert experiment is not None, "the study is in it"
    uid = f"{of.uid}/t{of.trial:04d}/promotion/{before}"
    runs = client.search_runs([experiment], f"tags.`{UID}` = {quoted(uid)}", max_results=1)
    tags = _tags(client, of, experiment, uid)
    run = runs[0] if runs else client.create_run(experiment, tags=tags)
    run_id = str(run.info.run_id)
    client.set_tag(run_id, "embsearch.refused_by", ", ".join(gate.name for gate in found.refused))
    client.set_tag(
        run_id,
        "mlflow.note.content",
        "\n\n".join(
            f"**{gate.name}** {'passed' if gate.passed else 'refused'}: {gate.words}"
            for gate in found.gates
        ),
    )
    for key, value in _metrics(found, primary).items():
        client.log_metric(run_id, key, value, timestamp=run.info.start_time, step=0)
    if folder.is_dir():
        client.log_artifacts(run_id, str(folder))
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _tags(client: MlflowClient, of: Origin, experiment: str, uid: str) -> dict[str, str]:
    title = f"promotion of {of.study}, trial {of.trial}"
    tags = {
        UID: uid,
        "embsearch.role": "promotion",
        "embsearch.study_uid": of.uid,
        "mlflow.runName": title,
    }
    study = client.search_runs([experiment], f"tags.`{UID}` = {quoted(of.uid)}", max_results=1)
    return tags | ({"mlflow.parentRunId": study[0].info.run_id} if study else {})


def _metrics(found: Examination, primary: Metric) -> dict[str, float]:
    metrics = {}
    if found.interval is not None:
        metrics[f"test/{primary.name}"] = found.interval.value
    for gate in found.gates:
        if gate.name == "gain":
            against = gate.facts["against"].split(" (")[0]
            metrics |= {f"gain over the {against}": gate.facts["gain"]["value"]}
            metrics |= {f"gain over the {against} at least": gate.facts["gain"]["low"]}
    return metrics


def _write(folder: Path, found: Examination, candidate: Candidate) -> None:
    gates = [record(gate) for gate in found.gates]
    (folder / "gates.json").write_text(
        json.dumps(gates, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    keys = candidate.task.training_keys(candidate.data)
    (folder / trained_rows.FILE).write_bytes(trained_rows.content_of(keys))
    if not found.answers:
        return
    rows, primary = candidate.rows, candidate.task.primary
    (folder / "gains.png").write_bytes(plots.gains_plot(found.gates, primary.label))
    if isinstance(rows, JudgedRows):  # the pictures of other tasks are not drawn
        cosines = {k: candidate.task.cosines(answers) for k, answers in found.answers.items()}
        mine, *rivals = cosines
        (folder / "scores.csv").write_text(_table(rows, cosines), encoding="utf-8")
        pairs = plots.pairs_plot(rows, cosines[mine], cosines[rivals[-1]], rivals[-1])
        (folder / "pairs.png").write_bytes(pairs)


def _table(rows: JudgedRows, cosines: Mapping[str, Answers]) -> str:
    segments = np.array([*rows.segments, ""])  # -1: none
    table = {
        "query": rows.query,
        "relevant": rows.relevant.astype(int),
        "segment": segments[rows.segment],
    }
    text = io.StringIO()
    pd.DataFrame(table | dict(cosines)).to_csv(text, index_label="row", float_format="%.6f")
    return text.getvalue()
