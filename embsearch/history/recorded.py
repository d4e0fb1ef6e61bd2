"""A study's name is enough: what a command leaves open is what the study recorded.

``embsearch search study.name=clicks stop.trials=24`` goes on with the study clicks and 24 trials.
Only a command that names data, itself or by a study's file, says all of the study again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import yaml

from embsearch.codec import Json, JsonObject
from embsearch.config.build import build, to_dict
from embsearch.config.folders import GROUPS, conf_folder, default_home, group_options, home_folder
from embsearch.errors import ConfigError, StudyError
from embsearch.history.folder import StudyFolder

QUOTES = "'\""
# Of the command, always: which study is meant, and what a person consents to anew each time.
OWN = ("home", "study.name", "study.on_drift", "model.trust_remote_code", "promote.dry_run")


def by_name(words: Sequence[str]) -> list[str]:
    """Return the words with ``study.name=clicks`` for ``study=clicks``, where that is no study's
    file but a study of the home.
    """
    found = []
    for word in words:
        key, _, name = word.partition("=")
        name = name.strip(QUOTES)
        if key == "study" and name not in group_options()["study"]:
            begun = home_folder(home_of(words)) / "studies" / name / "study.yaml"
            if begun.is_file():
                word = f"study.name={name}"
        found.append(word)
    return found


def home_of(words: Sequence[str]) -> str:
    """Return the home that the words of a command name, else the default one."""
    named = [word.removeprefix("home=") for word in words if word.startswith("home=")]
    return named[-1].strip(QUOTES) if named else default_home()


def filled(values: JsonObject, words: Sequence[str], config_dirs: Sequence[str]) -> JsonObject:
    """Return a command's settings; what its words do not say is what its study recorded.

    ``values``: what Hydra composed of the words. They stay as they are where they name data, a
    study's file, or no study of the home. Raises ConfigError for a wrong value and for a dimension
    that the study does not search, StudyError for a damaged study.yaml.
    """
    typed = {}
    for word in words:
        key, _, value = word.partition("=")
        typed[key] = value
    if "study.name" not in typed or typed.get("study", "default") != "default":
        return values
    config = build(values)
    folder = StudyFolder(config)
    if config.data.named or not folder.locked.is_file():
        return values
    tree = _recorded(folder)
    for word in words:
        for path in _said(word, config_dirs):
            _check_dimension(word, path, values["space"], tree["space"])
            _copy(values, tree, path.split("."))
    for path in OWN:
        _copy(values, tree, path.split("."))
    return {**values, **tree}


def _recorded(folder: StudyFolder) -> JsonObject:
    """Return the config of a study.yaml as today's. Raises StudyError."""
    try:
        config = build(folder.read_locked()["config"])
    except ConfigError as error:
        raise StudyError(
            f"{folder.locked}: {error}; give the whole command, with data.path=... and all settings"
        ) from error
    tree: JsonObject = to_dict(config)
    return tree


def _said(word: str, config_dirs: Sequence[str]) -> Iterator[str]:
    """Yield the path of every setting and room that a word sets."""
    key, _, value = word.lstrip("+~").partition("=")
    path = key.partition("@")[0]
    if path == "effort":  # its files set single settings of several rooms
        name = value.strip(QUOTES)
        folders = [conf_folder()]
        folders += map(Path, config_dirs)
        for folder in folders:
            file = folder / "effort" / f"{name}.yaml"
            if file.is_file():
                yield from _paths(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    elif path in GROUPS or "/" not in path:
        yield path


def _check_dimension(word: str, path: str, composed: Json, searched: Json) -> None:
    """Refuse a word about a dimension that the study does not search, unless it adds it whole."""
    room, _, name = path.partition(".")
    known = any(f"{name}.".startswith(f"{dimension}.") for dimension in searched)
    if room != "space" or not name or known or (word.startswith("+") and name in composed):
        return
    raise ConfigError(
        f"{word}: this study does not search it; '++{path}={{...}}' adds it, with low and high or "
        "with choices"
    )


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
