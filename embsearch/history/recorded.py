"""A study's name is enough: what a command leaves open is what the study recorded.

``embsearch search study.name=clicks stop.trials=24`` goes on with the study clicks and 24 trials.
Only a command that names data, itself or by a study's file, says all of the study again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy

import yaml

from embsearch.codec import Json, JsonObject
from embsearch.config.build import build, to_dict
from embsearch.config.folders import GROUPS, conf_folder, default_home, group_options, home_folder
from embsearch.history.folder import StudyFolder

OWN = ("home", "study.name")  # of the command, always: they say which study is meant


def by_name(words: Sequence[str]) -> list[str]:
    """Return the words with ``study.name=clicks`` for ``study=clicks``, where that is no study's
    file but a study of the home.
    """
    home = default_home()
    for word in words:
        if word.startswith("home="):
            home = word.removeprefix("home=").strip("'\"")
    found = []
    for word in words:
        key, _, name = word.partition("=")
        begun = home_folder(home) / "studies" / name / "study.yaml"
        if key == "study" and name not in group_options()["study"] and begun.is_file():
            word = f"study.name={name}"
        found.append(word)
    return found


def filled(values: JsonObject, words: Sequence[str]) -> JsonObject:
    """Return a command's settings; what its words do not say is what its study recorded.

    ``values``: what Hydra composed of the words. They stay as they are where they name data, or no
    study of the home. Raises ConfigError for a wrong value, StudyError for a damaged study.yaml.
    """
    config = build(values)
    if config.data.named:
        return values
    folder = StudyFolder(config)
    if not folder.locked.is_file():
        return values
    tree: JsonObject = to_dict(build(folder.read_locked()["config"]))
    for path in (*OWN, *_said(words)):
        _copy(values, tree, path.split("."))
    return {**values, **tree}


def _said(words: Sequence[str]) -> Iterator[str]:
    """Yield the path of every setting and room that the words set."""
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        path = key.partition("@")[0]
        if path == "effort":  # its files set single settings of several rooms
            file = conf_folder() / "effort" / f"{value}.yaml"
            yield from _paths(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
        elif path in GROUPS or "/" not in path:
            yield path


def _paths(node: object, at: str = "") -> Iterator[str]:
    """Yield the path of every value in nested mappings."""
    if not isinstance(node, Mapping):
        yield at
        return
    for key, value in node.items():
        yield from _paths(value, f"{at}.{key}".lstrip("."))


def _copy(source: Json, target: JsonObject, path: Sequence[str]) -> None:
    """Make the value at a path of ``target`` that of ``source``, or remove it where that has none.

    A key may hold several parts of the path, as ``train.lr`` in a space.
    """
    for length in range(1, len(path)):
        key = ".".join(path[:length])
        if isinstance(source.get(key), dict) and isinstance(target.get(key), dict):
            _copy(source[key], target[key], path[length:])
            return
    key = ".".join(path)
    if key in source:
        target[key] = deepcopy(source[key])
    else:
        target.pop(key, None)
