"""The command ``embsearch VERB [overrides] [flags]``: Hydra composes, the verb runs, errors are told.

Hydra parses its own flags and prints ``--cfg``, ``--info`` and completions, through ``hydra.main``.
Around it this file adds the verb, a help that imports nothing heavy, suggestions for misspelt
names, and exit codes: 0 done, 1 a bug, 2 something the user can mend, 3 a promotion refused,
130 interrupted. The verb runs after ``hydra.main`` has returned, so that no part of Hydra stands
between it and the terminal, the log or the traceback.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from embsearch import __version__
from embsearch.cli.verbs import Verb, by_study, split_verb, with_text
from embsearch.config import command, secrets
from embsearch.config.options import Options
from embsearch.errors import CompositionError, ConfigError, EmbsearchError, UserError

if TYPE_CHECKING:
    from embsearch.config.schema import Config

FLAGS = {
    "--verbose": "verbose=true", "--why": "why=true", "--no-open": "open=false",
    "--dry-run": "promote.dry_run=true",
}  # fmt: skip
SHOWS = ("--cfg", "-c", "--info", "-i", "--hydra-help")  # Hydra prints and nothing runs
HOW = ("--resolve", "--package", "-p")  # it prints
COMPLETES = ("-sc", "--shell-completion")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return _run(
            [secrets.without_in_override(word) for word in (sys.argv[1:] if argv is None else argv)]
        )
    except EmbsearchError as error:
        return _told(error)
    except KeyboardInterrupt:
        print("embsearch: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in embsearch --help | head -1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except OSError as error:
        if (remedy := _remedy(error)) is None:
            return _bug()
        print(f"embsearch: {error.filename or 'disk'}: {error.strerror}; {remedy}", file=sys.stderr)
        return UserError.exit_code
    except Exception as error:
        if type(error).__name__ not in (
            "MlflowException",
            "RestException",
        ):  # its import takes seconds
            return _bug()
        said = secrets.masked(str(error).splitlines()[0])
        print(f"embsearch: MLflow: {said}; see track.uri and home", file=sys.stderr)
        return UserError.exit_code


def _remedy(error: OSError) -> str | None:
    """Return what the user can do about a fault of the file system; None where it is a bug."""
    if isinstance(error, (PermissionError, NotADirectoryError, IsADirectoryError)):
        return "expected a place that can be written"
    if error.errno == errno.EROFS:
        return "expected a place that can be written: set home, or output where the verb has it"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space or set home"
    return None


def _bug() -> int:
    """Print the traceback of the exception that is being handled."""
    print(secrets.masked(traceback.format_exc()), end="", file=sys.stderr)
    print("embsearch: this is a bug in embsearch; the lines above say where", file=sys.stderr)
    return 1


def _run(words: list[str]) -> int:
    if "--version" in words:
        print(f"embsearch {__version__}")
        return 0
    if set(COMPLETES) & set(words):
        return _complete(words)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    verb, rest = split_verb(words)
    for typed, name in verb.words.items() if verb else ():
        rest = [re.sub(f"^{typed}=", f"{name}=", word) for word in rest]
    rest, config_dirs = _take_config_dirs([FLAGS.get(word, word) for word in rest])
    if not words or {"-h", "--help"} & set(rest):
        from embsearch.cli import help

        print(help.of(verb, config_dirs) if verb else help.overview())
        return 0
    shows = any(word.partition("=")[0] in SHOWS for word in rest)
    if verb is None and not shows:
        raise ConfigError(
            f"{' '.join(words)}: the verb comes first, as 'embsearch search {' '.join(words)}'"
        )
    if verb is not None and verb.several:
        several = [_compose(one, config_dirs, verb.options) for one in by_study(rest)]
        composed = [one for one in several if one is not None]
        if len(composed) < len(several):
            return 0
        return _call(verb, [config for config, _ in composed], composed[0][1])
    if verb is None:
        _compose(rest, config_dirs, Options)
        return 0
    if verb.free_text:
        rest = with_text(rest)
    one = _compose(rest, config_dirs, verb.options)
    if one is None:
        return 0
    return _call(verb, *one)


def _call(verb: Verb, config: Config | list[Config], options: Options) -> int:
    return int(import_module(verb.module).run(config, options))


def _compose(
    words: list[str], config_dirs: Sequence[str], options: type[Options] = Options
) -> tuple[Config, Options] | None:
    """Return the config that Hydra composes of the words, and what the verb takes beside it.

    None when a flag asked Hydra to print instead.
    """
    _refuse_multirun(words)
    command.typed.set((*(f"--config-dir={folder}" for folder in config_dirs), *words))
    words, names = _take(words, ("--config-name", "-cn"), "a config's name")
    name = ["config", *names][-1]
    shows = _shows(words)
    from embsearch.cli import composition

    if not shows:
        return composition.composed(words, options, config_dirs, name)
    composition.show(words, config_dirs, name)
    return None


def _complete(words: list[str]) -> int:
    """Print completions: of verbs from our table, of what follows from Hydra, which knows none."""
    line = os.environ.get("COMP_LINE")
    if line is None or not any(word.startswith("query=") for word in words):
        _compose(words, ())
        return 0
    from embsearch.cli.verbs import completions

    *typed, partial = line.split()[1:] + ([""] if line.endswith(" ") else [])
    try:
        verb, rest = split_verb(typed)
    except ConfigError:  # half a verb, or none
        verb, rest = None, []
    if verb is None:
        print("\n".join(completions(typed, partial)))
        return 0
    rest, config_dirs = _take_config_dirs(rest)
    os.environ["COMP_LINE"] = " ".join(["embsearch", *rest, partial])
    try:
        _compose(words, config_dirs)
    finally:
        os.environ["COMP_LINE"] = line
    return 0


def _take_config_dirs(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words without ``--config-dir DIR``, and the DIRs.

    Our source reads them, so that dotted keys under ``space`` work there too.
    """
    return _take(words, ("--config-dir", "-cd"), "a folder")


def _take(words: Sequence[str], flags: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """Return the words without these flags and their values, and the values."""
    rest: list[str] = []
    values: list[str] = []
    remaining = iter(words)
    for word in remaining:
        flag, equals, value = word.partition("=")
        if flag not in flags:
            rest.append(word)
            continue
        value = value if equals else next(remaining, "")
        if not value:
            raise ConfigError(f"{flag}: expected {what}, as {flag} my_conf")
        values.append(value)
    return rest, values


def _shows(words: Sequence[str]) -> bool:
    """Return true where a flag asks Hydra to print.

    Raises ConfigError for any other: Hydra has flags that run code of a file, and takes parts of
    their names.
    """
    shows = False
    for word in words:
        flag = word.partition("=")[0]
        if flag in (*SHOWS, *HOW, *COMPLETES):
            shows = True
        elif flag.startswith("-"):
            raise ConfigError(f"{flag}: no such flag; see 'embsearch --help'")
    return shows


def _refuse_multirun(words: Sequence[str]) -> None:
    for word in words:
        if word in ("--multirun", "-m") or re.match(
            r"\+*hydra\.mode=\W*multirun", word, re.IGNORECASE
        ):
            raise ConfigError(
                f"{word}: embsearch searches by itself; name what to vary in the space, "
                "as '+space.train.clip_norm={low: 0.5, high: 2.0}', or pick a space: space=small"
            )


def _told(error: EmbsearchError) -> int:
    if isinstance(error, CompositionError):
        print(secrets.masked(str(error)), file=sys.stderr)
    else:
        for fault in error.faults if isinstance(error, UserError) else [str(error)]:
            print(f"embsearch: {secrets.masked(fault)}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
