"""Facts about a setting, beside its field: meaning, range, and what a study does with it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
KEY = "setting"


class Room:
    """A group of settings. Its path is its name in ``Config``: ``train``, ``data.split``."""

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with values that no range of a single one can refuse."""
        yield from ()


@dataclass(frozen=True, eq=False)
class Setting:
    """The facts that stand beside a field. ``None`` for a bound: there is none."""

    about: str  # its meaning and unit, as --help and the reference show it
    low: float | None = None  # the least value that is allowed
    above: float | None = None  # every value that is allowed is greater
    high: float | None = None  # the greatest value that is allowed
    below: float | None = None  # every value that is allowed is smaller
    zero: str = ""  # what 0 stands for, where it is the least value
    hint: str = ""  # said after the range to somebody whose value lies outside
    fault: str = ""  # said instead of range and hint
    choices: Collection[str] = ()  # allowed words, where the type does not name them
    variants: tuple[type, ...] = ()  # of a room whose ``name`` says which class it is
    searchable: bool = False  # a search space may name it
    identity: bool = True  # a study that has begun refuses another value
    verbs: Sequence[str] = ()  # the verbs whose help shows it

    @property
    def bounded(self) -> bool:
        """True where some value of the right type is refused."""
        return any(bound is not None for bound in (self.low, self.above, self.high, self.below))

    def refusal(self, value: Any) -> str:
        """Return why ``value`` is refused; the empty string where it is not, as null never is."""
        if value is None or self._contains(value):
            return ""
        if self.fault:
            return self.fault
        return f"{self._range()}; {self.hint}" if self.hint else self._range()

    def _contains(self, value: float) -> bool:  # NaN is in no range
        return (
            (self.low is None or value >= self.low)
            and (self.above is None or value > self.above)
            and (self.high is None or value <= self.high)
            and (self.below is None or value < self.below)
        )

    def _range(self) -> str:
        if self.low == 0 and self.high is None and self.below is None:
            return f"must be 0 ({self.zero}) or more" if self.zero else "must be 0 or more"
        bounds = {
            "at least": self.low,
            "above": self.above,
            "at most": self.high,
            "below": self.below,
        }
        words = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
        return f"must be {' and '.join(words)}"


def setting(
    default: T,
    about: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    zero: str = "",
    hint: str = "",
    fault: str = "",
    choices: Collection[str] = (),
    variants: tuple[type, ...] = (),
    searchable: bool = False,
    identity: bool = True,
    verbs: Sequence[str] = (),
) -> T:
    """Return the dataclass field of a setting. The arguments are those of ``Setting``.

    A new setting cannot be searched, belongs to the identity of a study and is shown by no verb
    until its field says otherwise.
    """
    known = Setting(
        about, low, above, high, below, zero, hint, fault, choices, variants,
        searchable, identity, verbs,
    )  # fmt: skip
    made: Any
    if isinstance(default, dict):
        made = field(default_factory=default.copy, metadata={KEY: known})
    else:
        made = field(default=default, metadata={KEY: known})
    return made
