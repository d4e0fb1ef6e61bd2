"""From the words of a command to its typed config: Hydra composes, and says what it cannot.

A command that names a study and no data goes on with what the study recorded: ``history.recorded``.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TypeVar

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from embsearch.cli.suggest import suggestion
from embsearch.config import foreign, secrets
from embsearch.config.command import quoted
from embsearch.config.folders import conf_folder
from embsearch.config.load import compose_raw, plain, typed
from embsearch.config.options import Options
from embsearch.config.schema import Config
from embsearch.config.source import last_word, searching
from embsearch.errors import CompositionError
from embsearch.history import recorded

O = TypeVar("O", bound=Options)  # noqa: E741  # a verb's class


def composed(
    words: Sequence[str],
    options: type[O],
    config_dirs: Sequence[str] = (),
    name: str = "config",
) -> tuple[Config, O]:
    """Return the config that the words of a command make, and what its verb takes beside it.

    Raises CompositionError where Hydra cannot compose them, ConfigError for a wrong setting.
    """
    words = recorded.by_name(words)
    with _told():
        raw = compose_raw([_quoted(word) for word in words], config_dirs, name)
    values = plain(raw)
    if name == "config":
        values = recorded.filled(values, last_word(words), config_dirs)
    return typed(values, options)


def show(words: Sequence[str], config_dirs: Sequence[str], name: str) -> None:
    """Let Hydra print what its flags among the words ask for. Raises as ``composed`` does."""
    foreign.check_words(words)
    with _told(), searching(config_dirs), _stage([_quoted(word) for word in last_word(words)]):
        hydra.main(config_path=str(conf_folder()), config_name=name, version_base="1.3")(
            lambda composed: None
        )()


@contextmanager
def _told() -> Iterator[None]:
    """Raise Hydra's errors as CompositionError, without a password in what Hydra prints."""
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        with _masked():
            yield
    except SystemExit as stop:  # 1: Hydra has said on stderr what is wrong with the command line
        raise SystemExit(2 if stop.code == 1 else stop.code) from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if full_error:
            raise
        raise CompositionError(_message(error)) from error


def _message(error: Exception) -> str:
    """Return Hydra's message as Hydra prints it, then the name that was probably meant."""
    lines = [str(error).rstrip()]
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines.append(str(error.__cause__).rstrip())
    return "\n".join(line for line in (*lines, suggestion(error)) if line)


@contextmanager
def _masked() -> Iterator[None]:
    """Mask passwords in what Hydra prints: of a config file or a variable, as errors quote them."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield
    finally:
        sys.stdout.write(secrets.masked(out.getvalue()))
        sys.stderr.write(secrets.masked(err.getvalue()))


@contextmanager
def _stage(words: Sequence[str]) -> Iterator[None]:
    """Make the process as ``hydra.main`` wants it, and put it back afterwards.

    That is the command line in sys.argv, errors raised instead of printed, and logging, to which
    ``--info`` adds a handler.
    """
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    sys.argv = ["embsearch", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
        root.setLevel(level)
        root.handlers[:] = handlers


def _quoted(word: str) -> str:
    """Return the word with quotes where Hydra's grammar wants them.

    It does for letters beyond ASCII and for an address with parameters: data.path=点击.csv,
    study.storage=postgresql://host/db?sslmode=require.
    """
    match = re.fullmatch(r"(\+{0,2}[\w./@]+)=([^'\"\[{$].*)", word, re.DOTALL)
    if match is None or (match[2].isascii() and "://" not in match[2]):
        return word
    return f"{match[1]}={quoted(match[2])}"
