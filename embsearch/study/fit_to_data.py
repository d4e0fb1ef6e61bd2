"""The config of a study, with what its data decide.

``evaluate.objective=auto`` becomes the metric that is usual for the data, and a search over losses
goes without those that can learn nothing from them. A study that has begun keeps what it began
with.
"""

from __future__ import annotations

from dataclasses import replace

from embsearch.codec import Json, JsonObject
from embsearch.config.build import with_values
from embsearch.config.catalogue import OBJECTIVES
from embsearch.config.folders import home_folder
from embsearch.config.schema import Config
from embsearch.data.check import sampled_line
from embsearch.data.dataset import TaskData
from embsearch.history.folder import StudyFolder, as_begun
from embsearch.tasks.catalogue import task_of

LOSS = "objective.name"


def fit_to_data(config: Config) -> tuple[Config, list[str]]:
    """Return the config that the study runs with, and a line for each thing that the data decided.

    Reads the data where they decide something. Raises ConfigError, DataError.
    """
    config, folder = as_begun(config), StudyFolder(config)
    if folder.begun and folder.locked.exists() and config.study.on_drift != "extend":
        space, _ = _that_learns(config.space)
        began = folder.read_locked()["config"]["space"]
        return (replace(config, space=space) if space == began else config), []
    task = task_of(config)
    if config.evaluate.objective != "auto" and LOSS not in config.space:
        return config, []
    data: TaskData = task.load(task.prepare(config.data, home_folder(config.home) / "cache"))
    notes = sampled_line(data.report)
    if config.evaluate.objective == "auto":
        objective = task.usual_objective(data)
        config = with_values(config, {"evaluate.objective": objective})
        if notes:
            notes.append(f"trials are chosen by {task_of(config).primary.label}")
    if (data.train.negative >= 0).any():
        return config, notes
    space, left_out = _that_learns(config.space)
    if left_out:
        notes.append(
            f"searched without {LOSS}={' and '.join(left_out)}: no training row has a negative"
        )
    return replace(config, space=space), notes


def _that_learns(space: Json) -> tuple[JsonObject, list[str]]:
    """Return the space without the losses that need negatives, and those losses; the space as it is
    where no other loss would be left.
    """
    losses = space.get(LOSS, {})
    names = losses.get("choices", ())
    bad = [name for name in names if name in OBJECTIVES and OBJECTIVES[name].needs == "negatives"]
    if len(bad) in (0, len(names)):
        return dict(space), []
    kept = {}
    for path, spec in space.items():
        when = spec.get("when", {})
        asked = [name for name in when.get(LOSS, ()) if name not in bad]
        if LOSS not in when:
            kept[path] = spec
        elif asked:
            kept[path] = {**spec, "when": {**when, LOSS: asked}}
    kept[LOSS] = {**losses, "choices": [name for name in names if name not in bad]}
    return kept, bad
