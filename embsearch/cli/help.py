"""The text that ``--help`` prints. Standard library only, so that it answers at once; defaults and
what they mean are those of the fields in ``config/schema.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from embsearch.cli.verbs import VERBS, Verb
from embsearch.config.folders import group_options
from embsearch.config.settings import settings

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
    return "groups, as space=small\n" + _table(
        [(group, ", ".join(names)) for group, names in options.items()]
    )


def _settings(paths: Sequence[str]) -> str:
    known = settings()
    rows = []
    for path in paths:
        one = known[path]
        choices = " | ".join(one.choices)
        about = "; ".join(text for text in (choices, one.setting.about) if text)
        rows.append((f"{path}={_shown(one.default)}", about))
    return "main settings with their defaults (all of them: --cfg job)\n" + _table(rows)


def _flags() -> str:
    return "flags\n" + _table(FLAGS)


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if value == {}:
        return "{}"
    return str(value)


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
