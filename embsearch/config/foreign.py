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

import yaml

from embsearch.codec import Json
from embsearch.errors import ConfigError

# The node of conf/config.yaml, which a config of the user's own (--config-name) may repeat, with
# what its defaults list says of loggers.
OURS = {
    "output_subdir": None,
    "run": {"dir": "."},
    "job": {"name": "embsearch", "chdir": False},
}
QUIET = ("hydra/hydra_logging", "hydra/job_logging")
RESOLVERS = ("oc.env", "oc.select", "oc.decode", "now")
HYDRAS = (
    "it is Hydra's own; embsearch runs no code of a config; take it out, and set only what "
    "'embsearch --help' lists"
)
CODE = "names code to run, and embsearch runs none of a config; take it out"

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# A group or a path that is Hydra's, or one that the package behind its @ puts there.
_HYDRAS = re.compile(r"(.*/)?hydra([./@].*)?|[^@]*@(.*[.:])?hydra([.:].*)?")
_CODE = re.compile(r"\b_(?:target|args|partial|recursive|convert)_")
_RESOLVER = re.compile(r"(?<!\\)\$\{\s*([^{}:$]*?)\s*:")


def check_file(file: Path, text: str, group: str, package: str | None) -> None:
    """Raise ConfigError naming everything in a config file that would act through Hydra.

    ``text``: its values as YAML; ``package``: where its header puts it, None: where its group does.
    """
    values: Json = yaml.load(text, LOADER)
    faults = list(_in_text(text))
    place = (package or "_group_").replace("_group_", group.replace("/", "."))
    if "hydra" in place.split("."):
        faults.append(f"@package {place}: {HYDRAS}")
    node = values.get("hydra", OURS)
    if node != OURS:
        keys = ", ".join(f"hydra.{key}" for key in node)
        faults.append(f"{keys}: {HYDRAS}")
    for name, option in _defaults(values.get("defaults") or ()):
        quiet = name in QUIET and option in ("none", "disabled")
        if _HYDRAS.fullmatch(name) and not quiet:
            faults.append(f"defaults: {name}: {HYDRAS}")
    if faults:
        raise ConfigError([f"{file}: {fault}" for fault in faults])


def check_words(words: Sequence[str]) -> None:
    """Raise ConfigError naming every override that would act through Hydra."""
    faults: list[str] = []
    for word in words:
        name, sign, value = word.partition("=")
        if not sign and not word.startswith("~"):
            continue
        if _HYDRAS.fullmatch(name.lstrip("+~")):
            faults.append(f"{name}: {HYDRAS}")
        elif value.startswith(("{", "[")):
            faults += _in_text(word)
        else:
            faults += _resolvers(value)
    if faults:
        raise ConfigError(faults)


def _in_text(text: str) -> Iterator[str]:
    """Yield every key that names code, and every resolver but RESOLVERS."""
    keys = set(_CODE.findall(text))
    for key in sorted(keys):
        yield f"{key}: {CODE}"
    yield from _resolvers(text)


def _resolvers(text: str) -> Iterator[str]:
    for name in _RESOLVER.findall(text):
        if name not in RESOLVERS:
            known = ", ".join(RESOLVERS)
            yield f"${{{name}:...}} is no resolver of this program; expected one of {known}"


def _defaults(entries: Sequence[object]) -> Iterator[tuple[str, object]]:
    """Yield group and option of every entry of a defaults list."""
    for entry in entries:
        if isinstance(entry, Mapping):
            for name, option in entry.items():
                yield re.sub(r"^(?:optional |override )*/?", "", str(name)), option
        else:
            path, _, package = str(entry).partition("@")
            group = path.rpartition("/")[0].lstrip("/")
            yield f"{group}@{package}", path
