"""The first thing people see in MLflow: a saved view of a study's trials, and the experiment's note.

The view is MLflow's own (its pull request 24360), kept as an experiment tag in a format that is
not documented; tests/track/test_browser.py opens it in a real browser.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from embsearch.codec import JsonObject

TAG = "mlflow.sharedViewState."
ORDER, BEST = (
    "search/trial number",
    "search/best so far",
)  # the charts show metrics' names as titles
_WON, _WENT = "embsearch-won", "embsearch-went"
_RUNS = 1000  # charts show this many of the trials at most


def view_id(uid: str) -> str:
    """Return the id of the view of the study with this uid."""
    return hashlib.sha256(uid.encode()).hexdigest()[:20]


def deep_link(base_url: str, experiment_id: str, view: str) -> str:
    """Return the address that opens a saved view on its charts. Empty ``base_url``: inside MLflow."""
    return (
        f"{base_url.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs"
        f"?viewStateShareKey={quote(view)}&compareRunsMode=CHART&workflowType=machine_learning"
    )


def artifact_link(experiment_id: str, run_id: str, path: str) -> str:
    """Return the address, inside MLflow, of a file of a run."""
    run = f"/#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}"
    return f"{run}/artifacts/{quote(path)}?workflowType=machine_learning"


def saved_view(
    name: str,
    uid: str,
    axes: Sequence[str],
    plotted: Sequence[str],
    objective: str,
    shared: tuple[str, str],
    created: int,
    updated: int,
) -> JsonObject:
    """Return the view as MLflow stores it.

    ``axes`` are the short names of the searched parameters, as columns; ``plotted`` the same as
    charts take them (``log10 lr``); ``objective`` is the metric that is maximised (``val/auc``);
    ``shared`` the metric of the evaluation where trials can be compared, and where that lies.
    Times are in Unix milliseconds.
    """
    return {
        "name": f"{name}: what won and why",
        "createdAt": created,
        "updatedAt": updated,
        "state": json.dumps(
            _state(uid, list(axes), list(plotted), objective, shared), separators=(",", ":")
        ),
    }


def _state(
    uid: str, axes: list[str], plotted: list[str], objective: str, shared: tuple[str, str]
) -> JsonObject:
    metric, where = shared
    charts = [
        _parallel(_WON, plotted, metric),
        _line(_WENT, objective),
        _line(_WENT, "train/loss"),
        _scatter(_WENT, (ORDER, "METRIC"), (BEST, "METRIC")),
    ]
    rate = next((name for name in plotted if name in ("lr", "log10 lr")), None)
    if rate:
        charts.append(_scatter(_WENT, (rate, "PARAM"), (metric, "METRIC")))
    columns = [
        *(f"params.`{axis}`" for axis in axes),
        "metrics.`objective`",
        f"metrics.`{objective}`",
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
            _section(_WON, f"What won, compared at {where}", columns=1),
            _section(_WENT, "How it went", columns=2),
            _section("embsearch-model", "Model metrics", shown=False, generated=True),
            _section("embsearch-system", "System metrics", shown=False, generated=True),
        ],
        "compareRunCharts": [{**chart, "uuid": f"embsearch-{i}"} for i, chart in enumerate(charts)],
        "isAccordionReordered": True,
        "autoRefreshEnabled": True,
        "hideEmptyCharts": True,
    }


def _section(
    uuid: str, name: str, columns: int = 3, shown: bool = True, generated: bool = False
) -> JsonObject:
    return {
        "uuid": uuid,
        "name": name,
        "display": shown,
        "columns": columns,
        "cardHeight": 340,
        "isReordered": False,
        "deleted": False,
        "isGenerated": generated,
    }


def _chart(kind: str, section: str) -> JsonObject:
    return {
        "type": kind,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": _RUNS,
    }


def _parallel(section: str, axes: list[str], metric: str) -> JsonObject:
    return _chart("PARALLEL", section) | {
        "selectedParams": axes,
        "selectedMetrics": [metric],
        "showAllRuns": True,
    }


def _line(section: str, metric: str) -> JsonObject:
    return _chart("LINE", section) | {
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


def _scatter(section: str, x: tuple[str, str], y: tuple[str, str]) -> JsonObject:
    return _chart("SCATTER", section) | {
        "xaxis": {"key": x[0], "type": x[1]},
        "yaxis": {"key": y[0], "type": y[1]},
    }


def experiment_note(experiment_id: str, studies: Sequence[Mapping[str, str]]) -> str:
    """Return the experiment's header in MLflow, as markdown: every study of the task, newest first.

    A study is its parent run's tags.
    """
    lines = []
    for tags in studies:
        link = deep_link("", experiment_id, view_id(tags.get("embsearch.uid", "")))
        name, *rest = tags.get("embsearch.study", "?"), *facts(tags)
        lines.append(f"### [{name}: {' · '.join(rest[:2])}]({link})")
        lines += [line for line in (tags.get("embsearch.question"), " · ".join(rest[2:])) if line]
    return "\n\n".join(lines)[:18_000]


def facts(tags: Mapping[str, str]) -> list[str]:
    """Return what a study's tags say, in a few words each."""
    found = [tags.get("embsearch.state", "?")]
    if tags.get("embsearch.best"):
        against = tags.get("embsearch.baseline")
        found.append(
            f"best {tags.get('embsearch.objective', 'objective')} {tags['embsearch.best']} "
            f"by {tags.get('embsearch.best_trial', '?')}"
            + (f", untuned {against}" if against else "")
        )
    for key, label in (
        ("embsearch.trials", "trials"),
        ("embsearch.failures", "failures"),
        ("embsearch.data", "data"),
        ("embsearch.promoted", "promoted"),
        ("embsearch.report", "study page"),
    ):
        if tags.get(key):
            found.append(f"{label}: {tags[key]}")
    return found
