"""The generated pages of docs/reference: config.md from the fields of config/schema.py and the files of conf/,
cli.md from the table of verbs.

python docs/make_reference.py        # writes both; make reference does the same
"""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml

from embsearch.cli.help import FLAGS
from embsearch.cli.verbs import VERBS, Verb
from embsearch.config import settings as known
from embsearch.config.folders import GROUPS
from embsearch.config.schema import Config, DataConfig, FilesConfig, SetConfig

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
MADE = "<!-- made by docs/make_reference.py (make reference) from {}; edit those -->"
COMMON_CODES = (
    0,
    1,
    2,
    130,
    141,
)  # a verb with others says "exit code N" in its table entry or in run's docstring


class Setting(NamedTuple):
    path: str
    kind: str
    default: str
    comment: str
    study: str  # searchable, fixed or may change


def main() -> None:
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make(), encoding="utf-8")
        print(f"docs/reference/{name}")


def config_page() -> str:
    parts = [
        MADE.format("embsearch/config/schema.py and conf/"),
        "# Settings",
        "Every setting by its config path: the name that overrides (`train.lr=2e-4`) and search spaces use. "
        "`embsearch search --cfg job` prints the composed values, `embsearch VERB --help` the main settings "
        "of a verb.",
        "The last column says what a study does with the setting:\n\n"
        "- *searchable*: a search space may name it. Set outside the space it is the same for all trials, and a "
        "study that has begun refuses another value.\n"
        "- *fixed*: the same for all trials, never searched; a study that has begun refuses another value.\n"
        "- *may change*: may differ each time the same study is gone on with.",
    ]
    every = rows()
    groups = known.rooms(Config)
    for group, room in groups.items():
        parts += _section(
            group, room, [row for path, row in every.items() if path.startswith(f"{group}.")]
        )
    for group in GROUPS:
        if group not in groups:
            parts += [f"## {group}", *_options(group)]
            parts += [_settings_table([every[group]])] if group in every else []
    rest = [row for path, row in every.items() if "." not in path and path not in GROUPS]
    parts += ["## Without a group", _settings_table(rest)]
    return "\n\n".join(part for part in parts if part) + "\n"


def cli_page() -> str:
    verbs = "\n".join(
        f"| [`{verb.name}`](#{verb.name.replace(' ', '-')}) | {cell(verb.does)} |" for verb in VERBS
    )
    flags = "\n".join(f"| `{cell(flag)}` | {cell(words)} |" for flag, words in FLAGS)
    parts = [
        MADE.format("embsearch/cli/verbs.py and failures.md"),
        "# Commands",
        "```\nembsearch VERB [group=option ...] [setting=value ...] [flags]\nembsearch VERB --help\n```",
        f"| verb | |\n|---|---|\n{verbs}",
        "`group=option` picks a file of `conf/`, `setting=value` changes one value; all of them are in "
        "[settings](config.md).",
        *(part for verb in VERBS for part in _verb(verb)),
        "## Flags",
        f"| flag | |\n|---|---|\n{flags}",
        "## Exit codes",
        _exit_codes(),
        "Which message means what, and what to do: [troubleshooting](../guide/troubleshooting.md).",
    ]
    return "\n\n".join(parts) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {"config.md": config_page, "cli.md": cli_page}


def rows() -> dict[str, Setting]:
    """Return every setting as the tables show it, by path."""
    return {path: Setting(path, kind_of(one), shown(one.default), one.setting.about, in_a_study(path))
            for path, one in {**known.settings(), **of_a_set()}.items()}  # fmt: skip


def of_a_set() -> dict[str, known.Declared]:
    """Return the settings of a set of data called NAME that the data of one set do not have."""
    example = Config(data=DataConfig(sets={"NAME": SetConfig()}))
    room, same = "data.sets.NAME.", {one.name for one in fields(FilesConfig)}
    every = {path: one for path, one in known.settings_of(example).items() if path.startswith(room)}
    return {path: one for path, one in every.items()
            if path.removeprefix(room).partition(".")[0] not in same}  # fmt: skip


def in_a_study(path: str) -> str:
    may_change = known.may_change()
    if path in known.options() or any(path == p or path.startswith(f"{p}.") for p in may_change):
        return "may change"
    every = {**known.settings(), **of_a_set()}
    return "searchable" if every[path].setting.searchable else "fixed"


def kind_of(one: known.Declared) -> str:
    """Return the type of a setting in words, or its choices."""
    return listed(one.choices) if one.choices else kind_words(one.kind)


def listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def doc(cls: type) -> str:
    """Return the docstring of a class on one line; nothing for the one that dataclasses make up."""
    text = cls.__doc__ or ""
    return "" if text.startswith(f"{cls.__name__}(") else " ".join(text.replace("``", "`").split())


def kind_words(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return listed(args)
    if origin in (Union, types.UnionType):
        return " or ".join(["null" if arg is type(None) else kind_words(arg) for arg in args])
    if origin is tuple:
        return f"list of {kind_words(args[0])}s"
    if origin is not None:
        return "mapping"
    return {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}[kind]


def shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return "[" + ", ".join(shown(v) for v in value) + "]"
    return "''" if value == "" else str(value)


def cell(text: str) -> str:
    """Text inside a table: no bar ends the cell, no angle bracket is taken for HTML; Python's None is YAML's null."""
    return re.sub(r"\bNone\b", "null", text).replace("|", "\\|").replace("<", "&lt;")


def _section(group: str, room: known.Declared, found: list[Setting]) -> list[str]:
    classes = {group: room.kind} | {
        f"{group}.{n}": one.kind for n, one in known.rooms(room.kind).items()
    }
    docs = {at: doc(cls) for at, cls in classes.items() if doc(cls)}
    notes = "\n\n".join(words if at == group else f"`{at}`: {words}" for at, words in docs.items())
    return [
        f"## {group}",
        cell(notes),
        *(_options(group) if group in GROUPS else []),
        _settings_table(found),
    ]


def _settings_table(found: list[Setting]) -> str:
    rows = "\n".join(
        f"| `{s.path}` | {s.kind} | `{s.default}` | {cell(s.comment)} | {s.study} |" for s in found
    )
    return f"| setting | type | default | meaning | in a study |\n|---|---|---|---|---|\n{rows}"


def _options(group: str) -> list[str]:
    """The table of a group's files: what the first line says of each, and what it sets other than the defaults."""
    files = sorted((ROOT / "conf" / group).glob("*.yaml"))
    if group == "study":
        files += sorted((ROOT / "studies").glob("*/study.yaml"))
    rows = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        name = file.parent.name if file.name == "study.yaml" else file.stem
        words = " ".join(re.split(r" {3,}", text.splitlines()[0])[1:])
        if group == "study" and (question := re.search(r"^  question: ([^\s\"].*)$", text, re.M)):
            words = question[1]
        rows.append(f"| `{group}={name}` | {cell(words)} | {_sets(group, text)} |")
    return ["| option | | sets |\n|---|---|---|\n" + "\n".join(rows)]


def _sets(group: str, text: str) -> str:
    """What a file changes, as overrides; of a space the parameters."""
    tree = yaml.safe_load(text) or {}
    tree.pop("defaults", None)
    tree = tree if "@package _global_" in text else {group: tree}
    space = tree.pop("space", None) or {}
    own = {path: row.default for path, row in rows().items()}
    own.pop("study.question")  # stands beside the name
    changed = [
        f"`{path}={value}`" for path, value in _leaves(tree) if own.get(path) not in (None, value)
    ]
    return cell(", ".join([*changed, *(f"`{path}`" for path in space)]))


def _leaves(tree: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Paths and values as settings show them; what refers to another setting is left out."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{at}.{key}" if at else str(key))
    elif isinstance(tree, list):
        yield at, shown(tuple(tree)) if not any(isinstance(v, dict) for v in tree) else "[...]"
    elif tree == "???":
        yield at, "..."
    elif isinstance(tree, str) and tree.startswith("$"):
        return
    elif isinstance(tree, str) and re.fullmatch(
        r"[\d.]+e-?\d+", tree
    ):  # YAML 1.1 reads 1e-4 as a word
        yield at, str(float(tree))
    else:
        yield at, shown(tree)


def _verb(verb: Verb) -> Iterator[str]:
    found = rows()
    examples = "\n".join(f"embsearch {verb.name} {example}".rstrip() for example in verb.examples)
    table = "\n".join(
        f"| `{path}` | `{found[path].default}` | {_choices(found[path])}{cell(found[path].comment)} |"
        for path in verb.settings
    )
    codes = ", ".join(map(str, sorted({*COMMON_CODES, *_own_codes(verb)})))
    yield f"## {verb.name}"
    yield verb.does
    yield f"```\n{examples}\n```"
    yield f"| setting | default | |\n|---|---|---|\n{table}"
    yield f"Exit codes: {codes} ([meaning](#exit-codes))."


def _choices(setting: Setting) -> str:
    return (
        f"{setting.kind}; " if setting.kind.startswith("`") and "true" not in setting.kind else ""
    )


def _own_codes(verb: Verb) -> list[int]:
    """Exit codes that the verb's line in the table, or the docstring of its ``run``, names."""
    text = verb.does
    file = ROOT / Path(*verb.module.split(".")).with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == "run":
            text += ast.get_docstring(node) or ""
    return [int(code) for code in re.findall(r"exit code (\d+)", text)]


def _exit_codes() -> str:
    """The table of failures.md, so that it stands once."""
    text = (REFERENCE / "failures.md").read_text(encoding="utf-8")
    found = re.search(r"^## Exit codes\n+((?:\|.*\n)+)", text, re.M)
    assert found is not None, "docs/reference/failures.md has no table under '## Exit codes'"
    return found[1].rstrip()


if __name__ == "__main__":
    main()
