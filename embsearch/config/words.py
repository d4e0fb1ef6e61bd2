"""Settings as Python has them, written as the words of a command: ``train={"lr": 1e-4}`` as
``train.lr=0.0001``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from embsearch.config.catalogue import TOGETHER
from embsearch.config.command import quoted
from embsearch.config.folders import group_options
from embsearch.config.settings import settings
from embsearch.errors import ConfigError

PATHS = ("data", "model")  # groups that take a path where the word is none of their options


def words_of(given: Mapping[str, object]) -> list[str]:
    """Return the words of a command for settings by name, group or path, nested as one likes.

    Raises ConfigError for a value that no setting can have.
    """
    found: list[str] = []
    for name, value in given.items():
        found += _words(name, value)
    return found


def _words(path: str, value: object) -> Iterator[str]:
    options = group_options().get(path)
    if isinstance(value, Mapping):
        for name, inside in value.items():
            yield from _words(f"{path}.{name}", inside)
    elif options is None:
        known = path in settings() or path == TOGETHER
        sign = ""
        if not known:  # of a space, or wrong: then the config's own check says what was meant
            sign = "++"
        yield f"{sign}{path}={_written(path, value)}"
    elif value is None and "none" in options:
        yield f"{path}=none"
    elif path in PATHS and str(value) not in options:
        there = Path(str(value)).expanduser()
        if there.exists():
            value = there
        yield f"{path}.path={_written(path, value)}"
    elif isinstance(value, (list, tuple)):
        names = ",".join(map(str, value))
        yield f"{path}=[{names}]"
    else:
        yield f"{path}={value}"


def _written(path: str, value: object) -> str:
    """Return a value as Hydra's grammar writes it."""
    plain = getattr(value, "tolist", None)  # numpy's numbers and arrays
    if callable(plain):
        value = plain()
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case Path():
            return quoted(str(value.expanduser().absolute()))
        case str():
            return quoted(value)
        case Mapping():
            pairs = [f"{key}: {_written(path, one)}" for key, one in value.items()]
            return f"{{{', '.join(pairs)}}}"
        case Iterable():
            parts = [_written(path, one) for one in value]
            return f"[{','.join(parts)}]"
    raise ConfigError(f"{path}={value!r}: expected a number, a text, a path, or a list of them")
