"""Refusal of what would act through Hydra: in config files, their defaults lists, and overrides.

Hydra's own node holds callbacks, loggers, launchers and environment variables, and a ``_target_``
names code. Nothing here makes an object of them: a command is composed by Hydra's compose API alone
(cli/main.py). Whoever writes one means harm, or expects what will not come, so it is refused by
name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from embsearch.errors import ConfigError

# The node of conf/config.yaml, which a config of the user's own (--config-name) may repeat.
OURS = {
    "output_subdir": None,
    "run": {"dir": "."},
    "job": {"name": "embsearch", "chdir": False},
}
QUIET = re.compile(r"override /?hydra/(hydra|job)_logging")  # in its defaults list, with these:
SILENT = ("none", "disabled")
RESOLVERS = ("oc.env", "oc.select", "oc.decode", "now")
WHY = "embsearch runs no code of a config; take it out, and set only what 'embsearch --help' lists"

_CODE = re.compile(r"_(target|args|partial|recursive|convert)_")
_RESOLVER = re.compile(r"(?<!\\)\$\{\s*([^{}:$]*?)\s*:")


def check_file(file: Path, values: object, group: str, package: str | None) -> None:
    """Raise ConfigError naming everything in a config file that would act through Hydra.

    ``package``: where its header puts it; None: where its group does.
    """
    faults = [f"{file}: {key}: {why}" for key, why in _faults(values, group, package or "_group_")]
    if faults:
        raise ConfigError(faults)


def check_words(words: Sequence[str]) -> None:
    """Raise ConfigError naming every override that would act through Hydra."""
    faults = []
    for word in (word for word in words if "=" in word or word.startswith("~")):
        name, _, value = word.partition("=")
        if _is_hydras(name.lstrip("+~")):
            faults.append(f"{name}: it is Hydra's own; {WHY}")
        elif _CODE.search(name) or (value[:1] in ("{", "[") and _CODE.search(value)):
            faults.append(f"{word}: names code to run; {WHY}")
        faults += [f"{name}: {why}" for why in _resolvers(value)]
    if faults:
        raise ConfigError(faults)


def _faults(values: object, group: str, package: str) -> Iterator[tuple[str, str]]:
    place = package.replace("_group_", group.replace("/", "."))
    if "hydra" in place.split("."):
        yield f"@package {place}", f"it is Hydra's own; {WHY}"
    if not isinstance(values, Mapping):
        return
    if "hydra" in values and values["hydra"] != OURS:
        inside = values["hydra"]
        keys = inside if isinstance(inside, Mapping) else [inside]
        yield ", ".join(f"hydra.{key}" for key in keys), f"it is Hydra's own; {WHY}"
    for name, option in _defaults(values.get("defaults")):
        quiet = QUIET.fullmatch(name) and option in SILENT
        if _is_hydras(re.sub(r"^(optional |override )+", "", name)) and not quiet:
            yield f"defaults: {name}", f"it is Hydra's own; {WHY}"
    yield from _inside(values, "")


def _defaults(entries: object) -> Iterator[tuple[str, object]]:
    """Yield group and option of every entry of a defaults list."""
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, Mapping):
            yield from ((str(group), option) for group, option in entry.items())
        else:
            path, at, package = str(entry).partition("@")
            yield path.rpartition("/")[0] + at + package, path


def _is_hydras(name: str) -> bool:
    """Return true where a group or a path, or the package behind its @, is Hydra's."""
    path, _, packages = name.partition("@")
    parts = re.split(r"[./]", path.lstrip("/"))
    return "hydra" in (parts[0], *re.split(r"[.:]", packages)) or "hydra" in path.split("/")[:-1]


def _inside(node: object, at: str) -> Iterator[tuple[str, str]]:
    """Yield every key that names code, and every resolver but RESOLVERS."""
    entries: Iterator[tuple[object, object]] = iter(())
    if isinstance(node, Mapping):
        entries = iter(node.items())
    elif isinstance(node, list):
        entries = iter(enumerate(node))
    for key, value in entries:
        path = f"{at}.{key}".lstrip(".")
        if _CODE.search(str(key)):
            yield path, f"names code to run; {WHY}"
        for text in (key, value):
            yield from ((path, why) for why in _resolvers(text))
        yield from _inside(value, path)


def _resolvers(text: object) -> Iterator[str]:
    for name in _RESOLVER.findall(text) if isinstance(text, str) else []:
        if name not in RESOLVERS:
            known = ", ".join(f"${{{one}:...}}" for one in RESOLVERS)
            yield f"${{{name}:...}} is no resolver of this program; expected one of {known}"
