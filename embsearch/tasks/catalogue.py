"""The tasks and towers by name, and the task that a config asks for.

A task is chosen by the format of its rows (``data.format``): rows of one format can be judged in
one way. A new task is a line in ``TASKS`` and its formats in ``FORMATS``; a new tower is a line in
``TOWERS``. Classes are imported when they are asked for. Tasks load no torch, towers do.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from embsearch.config.schema import Config, EvaluateConfig
from embsearch.config.sets import of_set
from embsearch.data.dataset import TaskData
from embsearch.errors import ConfigError, DataError, did_you_mean
from embsearch.tasks.base import AnyTask, imported

TASKS = {  # name -> module:class
    "retrieval": "embsearch.tasks.retrieval:Retrieval",
    "similarity": "embsearch.tasks.similarity:Similarity",
    "classes": "embsearch.tasks.classes:Classes",
}
FORMATS = {
    "auto": "retrieval",
    "triplets": "retrieval",
    "judgements": "retrieval",
    "clicks": "retrieval",
    "scored": "similarity",
    "classes": "classes",
}
SEVERAL = "embsearch.tasks.several:Several"  # of the tasks of several sets of data
TOWERS = {"text": "embsearch.model.texts:Texts"}  # kind of items -> module:class; it loads torch


def tower_class(kind: str) -> Any:
    """Return the ``model.tower.TowerKind`` for items of this kind; loads torch."""
    return imported(TOWERS[kind])


def task_of(config: Config) -> AnyTask:
    """Return the task that ``config`` trains for, judged as its objective asks.

    Raises ConfigError for a format or an objective that none has.
    """
    if config.data.sets:
        return _several(config)
    word = config.data.format
    if word not in FORMATS:
        hint = did_you_mean(word, list(FORMATS))
        raise ConfigError(f"data.format={word} is not one of {', '.join(FORMATS)}.{hint}")
    return _judged_by(task_named(FORMATS[word]), "evaluate.objective", config.evaluate.objective)


def _judged_by(task: AnyTask, setting: str, objective: str) -> AnyTask:
    if task.objectives and objective not in ("auto", *task.objectives):
        hint = did_you_mean(objective, list(task.objectives))
        known = ", ".join(task.objectives)
        raise ConfigError(f"{setting}={objective}: no such metric.{hint} Known: {known}")
    return task.judged_by(objective)


def _several(config: Config) -> AnyTask:
    """Return the task of several sets of data."""
    tasks = {}
    for name, one in config.data.sets.items():
        alone = task_of(replace(of_set(config, name), evaluate=EvaluateConfig()))
        tasks[name] = _judged_by(alone, f"data.sets.{name}.metric", one.metric)
    made: AnyTask = imported(SEVERAL)(config, tasks)
    return _judged_by(made, "evaluate.objective", config.evaluate.objective)


def data_again(config: Config, cache: Path, fingerprint: str) -> TaskData:
    """Return the data that had this fingerprint. Raises DataError where they are others now."""
    task = task_of(config)
    data: TaskData = task.load(task.prepare(config.data, cache))
    if data.fingerprint != fingerprint:
        raise DataError(
            f"the data have changed: their fingerprint was {fingerprint[:12]} and is "
            f"{data.fingerprint[:12]} now"
        )
    return data


def task_named(name: str) -> AnyTask:
    """Return the task of this name."""
    return _made(TASKS[name])


@functools.cache
def _made(path: str) -> AnyTask:
    task: AnyTask = imported(path)()
    return task
