"""The config of a study, with what its data decide.

``data.format=auto`` becomes the format of rows that have a task of their own,
``evaluate.objective`` and ``objective.name`` the metric and the loss that are usual for the data,
and a search over losses goes without those that can learn nothing from them. A study that has
begun keeps what it began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from embsearch.codec import Json, JsonObject
from embsearch.config.build import with_values
from embsearch.config.catalogue import LOSS, OBJECTIVES
from embsearch.config.folders import home_folder
from embsearch.config.schema import Config, DataConfig
from embsearch.config.sets import faults_of, in_set
from embsearch.data.check import sampled_line
from embsearch.data.dataset import TaskData
from embsearch.data.load import decided_format
from embsearch.history.folder import StudyFolder, as_begun
from embsearch.hpo.costs import alike_in_all
from embsearch.objectives.preflight import learns
from embsearch.study.fit_sets import fit_sets, space_of_sets
from embsearch.tasks.base import AnyTask
from embsearch.tasks.catalogue import task_of

PAIRS, SCORES = ("choices",), ("scores", "score orders")  # needs of losses that such rows meet


def fit_to_data(config: Config) -> tuple[Config, list[str]]:
    """Return the config that the study runs with, and a line for each thing that the data decided.

    Reads the data. Raises ConfigError, DataError.
    """
    config, folder = as_begun(config), StudyFolder(config)
    if folder.begun and folder.locked.exists() and config.study.on_drift != "extend":
        if config.data.sets:
            return replace(config, space=space_of_sets(config)), []
        return _as_fitted(config, folder.read_locked()["config"]["space"]), []
    config, notes = with_format(config)
    alike = alike_in_all(config)
    if config.data.sets:
        config, more = fit_sets(config)
        return config, notes + alike + more
    task = task_of(config)
    if (
        "auto" not in (config.evaluate.objective, config.objective.name)
        and LOSS not in config.space
    ):
        return config, notes + alike
    data: TaskData = task.load(task.prepare(config.data, home_folder(config.home) / "cache"))
    notes += sampled_line(data.report)
    if config.evaluate.objective == "auto":
        objective = task.usual_objective(data)
        config = with_values(config, {"evaluate.objective": objective})
        if notes:
            notes.append(f"trials are chosen by {task_of(config).primary.label}")
    return _with_losses(config, task, data, notes + alike)


def _as_fitted(config: Config, began: Json) -> Config:
    """Return the config with the space that a study began with, where data may have made it of that
    of the config.
    """
    losses = _usual(config)
    for needs in (PAIRS, SCORES):
        space, _ = _that_learns(config.space, losses, [n for n in OBJECTIVES if _needs(n) in needs])
        if space == began:
            return replace(config, space=space)
    return replace(config, space=space) if _needs(losses[0]) in SCORES else config


def _usual(config: Config) -> list[str]:
    """Return the losses that are usual for the task, then that of the config."""
    return list(dict.fromkeys([*task_of(config).losses, config.objective.loss]))


def _needs(name: str) -> str:
    return OBJECTIVES[name].needs


def with_format(config: Config) -> tuple[Config, list[str]]:
    """Return the config with the format of its data, and what was understood."""
    if not config.data.sets:
        data, notes = _with_format(config.data, config)
        return replace(config, data=data), notes
    sets, said = {}, list[str]()
    for name, one in config.data.sets.items():
        with faults_of(name):
            data, notes = _with_format(one.files, config)
        sets[name] = replace(one, format=data.format)
        said += [in_set(note, name) for note in notes]
    return replace(config, data=replace(config.data, sets=sets)), said


def _with_format(asked: DataConfig, config: Config) -> tuple[DataConfig, list[str]]:
    data = decided_format(asked, home_folder(config.home) / "cache")
    if data == asked:
        return asked, []
    said = f"data.format={data.format}, by the columns"
    if data.format == "scored":
        said += " and rows (data.format=judgements if they are these)"
    return data, [said]


def data_of(config: Config) -> tuple[AnyTask, TaskData]:
    """Return the task and the data that a command means, as its study reads them."""
    config = with_format(as_begun(config))[0]
    task = task_of(config)
    return task, task.load(task.prepare(config.data, home_folder(config.home) / "cache"))


def _with_losses(
    config: Config, task: AnyTask, data: TaskData, notes: list[str]
) -> tuple[Config, list[str]]:
    """Return the config with losses that learn from the data."""
    able = [name for name in OBJECTIVES if learns(name, data.train)]
    if config.objective.loss not in able and config.objective.name != "auto":
        choices = config.space.get(LOSS, {}).get("choices", ())
        task.preflight(config, {LOSS: list(dict.fromkeys([config.objective.loss, *choices]))}, data)
    space, left_out = _that_learns(config.space, _usual(config), able)
    if left_out:
        out, kept = " and ".join(left_out), space[LOSS]["choices"]
        changed = f"searched without {LOSS}={out}"
        if not set(kept) <= set(config.space[LOSS]["choices"]):
            changed = f"searched over {LOSS}={' and '.join(kept)} in place of {out}"
        notes.append(f"{changed}: {_lack(data)}")
    if config.objective.name == "auto":
        choices = space.get(LOSS, {}).get("choices", task.losses)
        loss = task.losses[0] if task.losses[0] in choices else choices[0]
        config = with_values(config, {LOSS: loss})
        if loss != "infonce":
            notes.append(f"objective.name={loss}: usual for such rows")
    return replace(config, space=space), notes


def _lack(data: TaskData) -> str:
    """Return what losses that were left out would need."""
    if len(data.train.score):
        return "the rows are pairs with scores"
    if (data.train.negative >= 0).any():
        return "the rows have no scores"
    return "no training row has a negative"


def _that_learns(
    space: Json, usual: Sequence[str], able: Sequence[str]
) -> tuple[JsonObject, list[str]]:
    """Return the space with ``able`` losses alone, and those that it had beside them.

    Where none is left the usual ones take their place, with the ranges of settings that they share.
    """
    losses = space.get(LOSS, {})
    names = losses.get("choices", ())
    bad = [name for name in names if name in OBJECTIVES and name not in able]
    if not bad:
        return dict(space), []
    good = [name for name in names if name not in bad]
    new = [] if good else [name for name in usual if name in able]
    if not (good or new):
        return dict(space), []
    kept = {}
    for path, spec in space.items():
        when = spec.get("when", {})
        asked = [name for name in when.get(LOSS, ()) if name in good]
        if LOSS in when:
            asked += [name for name in new if path.partition(".")[2] in OBJECTIVES[name].settings]
        if LOSS not in when:
            kept[path] = spec
        elif asked:
            kept[path] = {**spec, "when": {**when, LOSS: asked}}
    kept[LOSS] = {**losses, "choices": good or new}
    return kept, bad
