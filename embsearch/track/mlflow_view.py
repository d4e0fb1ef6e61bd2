"""The first thing people see in MLflow: a saved view of a study's trials, and the experiment's note.

The view is MLflow's own (its pull request 24360), kept as an experiment tag in a format that is
not documented; tests/track/test_browser.py opens it in a real browser.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

TAG = "mlflow.sharedViewState."
_SECTION = "embsearch-search"
_RUNS = 1000  # charts show this many of the trials at most


def view_id(uid: str) -> str:
    """The view of the study with this uid."""
    return hashlib.sha256(uid.encode()).hexdigest()[:20]


def deep_link(base_url: str, experiment_id: str, view: str) -> str:
    """The address that opens a saved view on its charts. ``base_url`` may be empty: a link inside MLflow."""
    return (
        f"{base_url.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs"
        f"?viewStateShareKey={quote(view)}&compareRunsMode=CHART&workflowType=machine_learning"
    )


def saved_view(
    name: str, uid: str, axes: Sequence[str], objective: str, created: int, updated: int
) -> dict[str, Any]:
    """The view as MLflow stores it. ``axes`` are the searched parameters' short names, ``objective``
    the metric that is maximised (``val/auc``), times are in Unix milliseconds."""
    return {
        "name": f"{name}: what won and why",
        "createdAt": created,
        "updatedAt": updated,
        "state": json.dumps(_state(uid, list(axes), objective), separators=(",", ":")),
    }


def _state(uid: str, axes: list[str], objective: str) -> dict[str, Any]:
    charts = [
        _parallel("Every trial: its parameters and its objective", axes),
        _line("Learning curves", objective),
        _line("Training loss", "train/loss"),
        _scatter("Best so far", ("search/trial", "METRIC"), ("search/best", "METRIC")),
    ]
    if "lr" in axes:
        charts.append(_scatter("Learning rate against objective", ("lr", "PARAM"), ("objective", "METRIC")))
    columns = [
        *(f"params.`{axis}`" for axis in axes),
        "metrics.`objective`",
        f"metrics.`{objective}`",
        "metrics.`train/loss`",
        "metrics.`cost/seconds`",
        "tags.`embsearch.state`",
        "tags.`embsearch.reason`",
    ]
    return {
        "searchFilter": f"tags.`embsearch.role` = 'trial' AND tags.`embsearch.study_uid` = '{uid}'",
        "orderByKey": "metrics.`objective`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [
            {"uuid": _SECTION, "name": "Search", "display": True, "isReordered": False, "deleted": False,
             "isGenerated": False},
            {"uuid": "embsearch-model", "name": "Model metrics", "display": False, "isReordered": False,
             "deleted": False, "isGenerated": True},
            {"uuid": "embsearch-system", "name": "System metrics", "display": False, "isReordered": False,
             "deleted": False, "isGenerated": True},
        ],
        "compareRunCharts": [{**chart, "uuid": f"embsearch-{i}"} for i, chart in enumerate(charts)],
        "isAccordionReordered": True,
        "autoRefreshEnabled": True,
        "hideEmptyCharts": True,
    }  # fmt: skip


def _chart(kind: str, title: str) -> dict[str, Any]:
    return {"type": kind, "metricSectionId": _SECTION, "deleted": False, "isGenerated": False,
            "runsCountToCompare": _RUNS, "displayName": title}  # fmt: skip


def _parallel(title: str, axes: list[str]) -> dict[str, Any]:
    return _chart("PARALLEL", title) | {
        "selectedParams": axes,
        "selectedMetrics": ["objective"],
        "showAllRuns": True,
    }


def _line(title: str, metric: str) -> dict[str, Any]:
    return _chart("LINE", title) | {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "lineSmoothness": 0,
        "yAxisKey": "metric",
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "selectedXAxisMetricKey": "",
        "range": {},
        "yAxisExpressions": [],
    }


def _scatter(title: str, x: tuple[str, str], y: tuple[str, str]) -> dict[str, Any]:
    return _chart("SCATTER", title) | {
        "xaxis": {"key": x[0], "type": x[1]},
        "yaxis": {"key": y[0], "type": y[1]},
    }


def experiment_note(experiment_id: str, studies: Sequence[Mapping[str, str]]) -> str:
    """The experiment's header in MLflow, as markdown: every study of the task, the newest first.

    A study is its parent run's tags.
    """
    lines = []
    for tags in studies:
        name, uid = tags.get("embsearch.study", "?"), tags.get("embsearch.uid", "")
        link = deep_link("", experiment_id, view_id(uid))
        lines.append(f"### [{name}: compare its trials]({link})")
        if tags.get("embsearch.question"):
            lines.append(f"\n{tags['embsearch.question']}")
        lines.append("\n" + " · ".join(facts(tags)) + "\n")
    return "\n".join(lines).strip()[:18_000]


def facts(tags: Mapping[str, str]) -> list[str]:
    """What a study's tags say, in a few words each."""
    found = [f"**{tags.get('embsearch.state', '?')}**"]
    if tags.get("embsearch.best"):
        against = tags.get("embsearch.baseline")
        found.append(
            f"best {tags.get('embsearch.objective', 'objective')} **{tags['embsearch.best']}** "
            f"({tags.get('embsearch.best_trial', '?')}" + (f"; untuned {against})" if against else ")")
        )
    for key, label in (
        ("embsearch.trials", "trials"),
        ("embsearch.data", "data"),
        ("embsearch.promoted", "promoted"),
        ("embsearch.report", "study page"),
    ):
        if tags.get(key):
            found.append(f"{label}: {tags[key]}")
    return found
