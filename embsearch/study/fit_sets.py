"""Decisions that the rows of several sets of data make: of each set, and of the shared space."""

from __future__ import annotations

from dataclasses import replace

from embsearch.codec import JsonObject
from embsearch.config.build import with_values
from embsearch.config.catalogue import LOSS, OBJECTIVES
from embsearch.config.folders import home_folder
from embsearch.config.schema import Config, SetConfig
from embsearch.config.sets import faults_of, in_set, of_set
from embsearch.data.check import sampled_line
from embsearch.data.dataset import TaskData
from embsearch.objectives.preflight import learns
from embsearch.registry.leak import share_seen
from embsearch.tasks.catalogue import task_of


def fit_sets(config: Config) -> tuple[Config, list[str]]:
    """Return the config with the metric and the loss of each set, and a line for each thing that
    its rows decided. Formats are decided before.
    """
    notes: list[str] = []
    usual: list[str] = []  # of the sets that learn by the study's own loss
    for name, said in config.data.sets.items():
        one = of_set(config, name)
        task = task_of(one)
        with faults_of(name):
            data: TaskData = task.load(task.prepare(one.data, home_folder(config.home) / "cache"))
        notes += [in_set(f"{name}: {line}", name) for line in sampled_line(data.report)]
        if said.metric == "auto":
            metric = {f"data.sets.{name}.metric": task.usual_objective(data)}
            config = with_values(config, metric)
        searched = _losses(config, LOSS, one.objective.loss)
        asked = LOSS in config.space or config.objective.name == "auto"
        if said.objective.name is not None:
            continue
        if asked and not all(learns(loss, data.train) for loss in searched):
            loss = next(loss for loss in (*task.losses, *OBJECTIVES) if learns(loss, data.train))
            config = with_values(config, {f"data.sets.{name}.{LOSS}": loss})
            notes.append(f"data.sets.{name}.{LOSS}={loss}: usual for its rows")
        else:
            usual.append(task.losses[0])
    if config.evaluate.objective == "auto":
        config = with_values(config, {"evaluate.objective": task_of(config).primary.name})
        notes.append(f"trials are chosen by {task_of(config).primary.in_words}")
    if usual and config.objective.name == "auto":
        choices = _losses(config, LOSS, usual[0])
        loss = usual[0] if usual[0] in choices else choices[0]
        config = with_values(config, {LOSS: loss})
    task = task_of(config)
    every = task.load(task.prepare(config.data, home_folder(config.home) / "cache"))
    if seen := share_seen(task, every, task.training_keys(every)):
        notes.append(
            f"{seen:.1%} of the test rows of all sets are training rows of another set: 'embsearch "
            "promote' refuses what was trained on them (promote.max_leak)"
        )
    space = space_of_sets(config)
    unread = [path for path in config.space if path not in space]
    if unread:
        notes.append(f"searched without {', '.join(unread)}: each set has its own")
    return replace(config, space=space), notes


def space_of_sets(config: Config) -> JsonObject:
    """Return the space without what no set reads. A setting of losses is searched always where a
    set with a loss of its own reads it.
    """
    kept: JsonObject = {}
    for path, spec in config.space.items():
        room, _, leaf = path.rpartition(".")
        readers = [
            None if one.objective.name is None else name
            for name, one in config.data.sets.items()
            if room != "objective" or _reads(config, name, one, leaf)
        ]
        if any(readers) and room == "objective":
            when = {on: values for on, values in spec.get("when", {}).items() if on != LOSS}
            kept[path] = {**{k: v for k, v in spec.items() if k != "when"}, "when": when}
        elif readers:
            kept[path] = spec
    return kept


def _reads(config: Config, name: str, one: SetConfig, leaf: str) -> bool:
    """Return whether a set reads the study's setting of losses ``leaf``."""
    if getattr(one.objective, leaf) is not None:
        return False
    own = one.objective.name
    losses = _losses(config, f"data.sets.{name}.{LOSS}", own) if own else []
    return own is None or any(leaf in OBJECTIVES[loss].settings for loss in losses)


def _losses(config: Config, path: str, own: str) -> list[str]:
    """Return the losses that trials may have at a path."""
    return list(config.space.get(path, {}).get("choices", (own,)))
