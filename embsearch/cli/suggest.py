"""An addition to Hydra's message about an override: the name that was probably meant."""

from __future__ import annotations

import re
from difflib import get_close_matches

from hydra.errors import MissingConfigException, OverrideParseException

from embsearch.cli.verbs import VERBS
from embsearch.config.build import paths
from embsearch.config.folders import GROUPS, group_options
from embsearch.config.load import DIMENSION

NAMED = (
    r"Could not override '([^']+)'",
    r"Could not delete from config\. '([^']+)'",
    r"Could not delete '([^'=]+)",
    r"config group '([^']+)' does not exist",
)


def suggestion(error: Exception) -> str:
    """Return a line to print after Hydra's message, or the empty string."""
    message = str(error)
    if isinstance(error, MissingConfigException):
        group, _, wrong = str(error.missing_cfg_file).rpartition("/")
        near = get_close_matches(wrong, error.options or [], n=1)
        if not near:
            return ""
        return f"Did you mean '{group}={near[0]}'?"
    if isinstance(error, OverrideParseException):
        return _about_syntax(error.override)
    if "--multirun" in message:
        return "embsearch searches by itself: put it in the space, as '+space.train.lr={choices: [1e-4, 2e-4]}'."
    for pattern in NAMED:
        if match := re.search(pattern, message):
            return _about_name(match[1])
    return ""


def _about_syntax(override: str) -> str:
    if override in {word for verb in VERBS for word in verb.name.split()}:
        return f"The verb comes first, as 'embsearch {override} ...'."
    for group, options in group_options().items():
        if override in options:
            return f"Did you mean '{group}={override}'?"
    key, equals, value = override.partition("=")
    if equals and value[:1] not in "'\"":
        return f"Text with special characters needs quotes of its own: \"{key}='{value}'\"."
    return _about_name(key)


def _about_name(wrong: str) -> str:
    if wrong.startswith("space."):
        return _about_space(wrong)
    near = _near(wrong)
    if not near:
        return ""
    return f"Did you mean {near}?"


def _near(wrong: str) -> str:
    settings = list(paths())
    rooms = {path.rpartition(".")[0] for path in settings} - {""}
    same_leaf = [path for path in settings if path.rpartition(".")[2] == wrong]
    if 1 <= len(same_leaf) <= 3:
        return " or ".join(f"'{path}'" for path in same_leaf)
    near = get_close_matches(wrong, {*settings, *rooms, *GROUPS} - {wrong}, n=1)
    if near:
        return f"'{near[0]}'"
    leaf = wrong.rpartition(".")[2]
    by_leaf = {path.rpartition(".")[2]: path for path in settings}
    near = get_close_matches(leaf, by_leaf, n=1, cutoff=0.7)
    if not near:
        return ""
    return f"'{by_leaf[near[0]]}'"


def _about_space(wrong: str) -> str:
    settings = paths()
    path = wrong.removeprefix("space.")
    room, _, field = path.rpartition(".")
    if field in DIMENSION:
        path = room
    if path in settings:
        if field in (
            "log",
            "step",
            "ordered",
            "when",
        ):  # the dimension may well be there: Hydra's + does it
            return ""
        return f"This space has no {path}; '+space.{path}={{low: ..., high: ...}}' adds it."
    known = [f"space.{p}" for p in settings] + [
        f"space.{p}.{f}" for p in settings for f in DIMENSION
    ]
    near = get_close_matches(wrong, known, n=1)
    if not near:
        return ""
    return f"Did you mean '{near[0]}'?"
