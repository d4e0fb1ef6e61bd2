"""What ``--help`` prints. Standard library only, so that it answers at once; defaults and their
comments are read out of ``config/schema.py``, so that they cannot differ from the code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from embsearch.cli.verbs import VERBS, Verb
from embsearch.config import schema
from embsearch.config.folders import group_options

COMMON = ("data.path", "model.path", "objective.name", "train.texts", "train.lr", "stop.trials", "study.name",
          "home", "device")  # fmt: skip

FLAGS = (
    ("--cfg job", "print the composed config instead of running (--resolve, --package train)"),
    ("--info [defaults|searchpath|...]", "how the config was composed"),
    ("--config-dir DIR", "also read groups from DIR, as DIR/space/mine.yaml for space=mine"),
    ("--config-name NAME", "begin with another file than config"),
    ("--hydra-help", "the flags of Hydra, which composes the config"),
    ("-sc install=bash", "tab completion: eval \"$(embsearch -sc install=bash)\" (bash, zsh, fish)"),
    ("--version", ""),
)  # fmt: skip


def overview() -> str:
    return "\n\n".join(
        (
            "embsearch: hyperparameter search for embedding models that proves what it found",
            "usage: embsearch VERB [group=option ...] [setting=value ...] [flags]\n       embsearch VERB --help",
            "verbs\n" + _table([(verb.name, verb.does) for verb in VERBS]),
            "examples\n"
            + "\n".join(
                f"  embsearch {line}"
                for line in ("search study=product_search", "ui", "promote study=product_search")
            ),
            _groups(),
            _settings(COMMON),
            _flags(),
        )
    )


def of(verb: Verb, config_dirs: Sequence[str] = ()) -> str:
    examples = "\n".join(f"  embsearch {verb.name} {rest}".rstrip() for rest in verb.examples)
    return "\n\n".join(
        (
            f"embsearch {verb.name}: {verb.does}",
            f"usage: embsearch {verb.name} [group=option ...] [setting=value ...] [flags]",
            f"examples\n{examples}",
            _groups(config_dirs),
            _settings(verb.settings),
            _flags(),
        )
    )


def _groups(config_dirs: Sequence[str] = ()) -> str:
    options = group_options([Path(folder) for folder in config_dirs])
    return "groups, as space=small\n" + _table([(group, ", ".join(names)) for group, names in options.items()])


def _settings(paths: Sequence[str]) -> str:
    comments = _comments()
    rows = []
    for path in paths:
        owner, value = _look_up(path)
        comment = comments.get((owner, path.rpartition(".")[2]), "")
        rows.append((f"{path}={_shown(value)}", comment))
    return "main settings with their defaults (all of them: --cfg job)\n" + _table(rows)


def _flags() -> str:
    return "flags\n" + _table(FLAGS)


def _look_up(path: str) -> tuple[str, Any]:
    """The class that a path's last name belongs to, and its default."""
    node: Any = schema.Config()
    owner = ""
    for part in path.split("."):
        owner = type(node).__name__
        node = getattr(node, part)
    assert not is_dataclass(node), path
    return owner, node


def _comments() -> dict[tuple[str, str], str]:
    """The comment beside each field of schema.py, by class and field."""
    found: dict[tuple[str, str], str] = {}
    owner = ""
    for line in Path(schema.__file__).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"class (\w+)", line):
            owner = match[1]
        elif match := re.match(r"    (\w+): [^#]*?(?:Literal\[(.*?)\])?[^#]*?(?:  # (.*))?$", line):
            choices = (match[2] or "").replace('"', "").replace(", ", " | ")
            found[owner, match[1]] = "; ".join(text for text in (choices, match[3]) if text)
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return "{}" if value == {} else str(value)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(left) for left, _ in rows) + 2
    return "\n".join(
        fill(
            right,
            110,
            initial_indent=f"  {left:{width}}",
            subsequent_indent=" " * (width + 2),
            break_on_hyphens=False,
        )
        if right
        else f"  {left}"
        for left, right in rows
    )
