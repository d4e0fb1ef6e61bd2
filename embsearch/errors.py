"""Everything embsearch raises on purpose, and the exit code each one ends a command with.

    EmbsearchError                  1
      UserError                     2   something the user can mend; nothing was half-written
        ConfigError                     an override, a search space, a value out of range
        DataError                       rows of a file; carries every fault found
        ModelError                      weights missing, a pooling the encoder does not have
        StudyError                      a study that is held, drifted, damaged, or not there
        DamagedCheckpoint               cannot be loaded; carries its failure class
      Refused                       3   a promotion gate said no
      TrialError                    1   one trial cannot go on; carries its failure class
        OutOfMemory
        Diverged
        Lost                            a process that trains it too is gone
        Unfaithful                      its saved model is not the one that was trained

A message names the place, the value, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class EmbsearchError(Exception):
    """Root of the tree."""

    exit_code = 1


class UserError(EmbsearchError):
    """The user can mend this. ``faults`` holds every fault found, so that one run shows all."""

    exit_code = 2

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))


class ConfigError(UserError):
    """An override, a search space or a value is not usable."""


class CompositionError(ConfigError):
    """Hydra's refusal to compose. Its text is Hydra's own, and is printed as it is."""


class DataError(UserError):
    """A data file or some of its rows are not usable."""


class ModelError(UserError):
    """A pretrained encoder cannot be loaded or does not have what was asked of it."""


class StudyError(UserError):
    """A study is held by another process, has another config, is damaged, or does not exist."""


class DamagedCheckpoint(UserError):
    """A checkpoint was cut or changed; its trial must begin again from the base weights."""

    failure = "checkpoint"


class Refused(EmbsearchError):
    """A promotion gate refused; the registry is unchanged."""

    exit_code = 3


class TrialError(EmbsearchError):
    """One trial cannot go on."""

    failure = "bug"


class OutOfMemory(TrialError):
    """The device's memory is too small, also for the smallest chunk."""

    failure = "out_of_memory"


class Diverged(TrialError):
    """The loss is not finite or exploded; raised before the optimizer applies the step."""

    failure = "diverged"


class Lost(TrialError):
    """One of several processes that train a trial together (``train.devices``) is gone. ``failure``
    is why, where it could still say so.
    """

    def __init__(self, message: str, failure: str = "killed") -> None:
        super().__init__(message)
        self.failure = failure


class Unfaithful(TrialError):
    """A saved model gives other vectors than the one in memory; the older one is kept."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """``" Did you mean 'train.lr'?"`` when a known name is near, else the empty string."""
    near = get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def root_cause(error: BaseException) -> BaseException:
    """Return the first error of a chain: under Optuna's is SQLAlchemy's, and under that the database's own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
