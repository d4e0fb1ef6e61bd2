"""The board: every trial of a study, and what is asked of them at every turn kept in order.

A study of ten thousand trials asks the same questions as one of ten: who waits, who may go on,
what is the best so far, which place has this one. Here each costs the same in both, up to a bisection.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from embsearch.values import Outcome, Scalar, State

Key = tuple[float, int]  # value and minus the number: of two equal trials the earlier is better


@dataclass
class Standing:
    """One trial as samplers and schedulers see it: objective by rung, and its handle in Optuna.

    On a board only the board changes its state and values.
    """

    number: int
    state: State = "waiting"
    values: Mapping[int, float] = field(default_factory=dict)
    optuna: Any = None
    params: dict[str, Scalar] = field(default_factory=dict)
    outcome: Outcome | None = None
    rows: Mapping[int, int] = field(default_factory=dict)  # that were read at a rung

    @property
    def rung(self) -> int:
        return max(self.values, default=0)

    @property
    def best_score(self) -> tuple[int, float] | None:
        """Rows and value of its best evaluation. Values on fewer rows are not compared with values on more."""
        return max(((self.rows.get(rung, 0), value) for rung, value in self.values.items()), default=None)

    @property
    def best(self) -> float | None:
        return None if (score := self.best_score) is None else score[1]

    def failed_by(self, failures: Sequence[str]) -> bool:
        return self.outcome is not None and self.outcome.failure in failures

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "state" and isinstance(self.__dict__.get("values"), MappingProxyType):
            raise AttributeError(f"trial {self.number} is on a board: board.move(trial, {value!r})")
        object.__setattr__(self, name, value)


T = TypeVar("T", bound=Standing)


class Board(Mapping[int, T], Generic[T]):
    """Trials by number. Whoever has a plain mapping of them reads it through ``Board.of``."""

    def __init__(self, trials: Iterable[T] = ()) -> None:
        self._trials: dict[int, T] = {}
        self._by_state: dict[State, dict[int, T]] = {}
        self._reached: dict[int, list[Key]] = {}  # by rung, the worst first
        self._paused: dict[int, list[Key]] = {}  # by the rung they stand at
        self._complete: list[Key] = []
        self._best: tuple[int, float, int] | None = None  # rows before the key
        self._free = 0
        for trial in trials:
            self.add(trial)

    @classmethod
    def of(cls, trials: Mapping[int, T]) -> Board[T]:
        """The board itself, or one made of a mapping whose trials stay their owner's."""
        if isinstance(trials, Board):
            return trials
        board = cls()
        for number in sorted(trials):
            board._enter(trials[number])
        return board

    def __getitem__(self, number: int) -> T:
        return self._trials[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    # ---- what happens to a trial -------------------------------------------------------------

    def add(self, trial: T) -> None:
        """From now on the board keeps it."""
        self._enter(trial)
        trial.values = MappingProxyType(dict(trial.values))

    def move(self, trial: T, state: State) -> None:
        """Change a trial's state."""
        self._leave_state(trial)
        object.__setattr__(trial, "state", state)
        self._enter_state(trial)

    def measure(self, trial: T, rung: int, value: float, rows: int = 0) -> None:
        """Write down what a trial measured at a rung, on so many rows, once."""
        if rung in trial.values:
            return
        self._leave_state(trial)
        trial.values = MappingProxyType({**trial.values, rung: value})
        trial.rows = {**trial.rows, rung: rows}
        self._enter_rung(trial, rung)
        self._enter_state(trial)

    # ---- what is asked -----------------------------------------------------------------------

    def in_state(self, *states: State) -> list[T]:
        """The trials in one of these states, by number."""
        found = [trial for state in states for trial in self._by_state.get(state, {}).values()]
        return sorted(found, key=attrgetter("number"))

    def count(self, state: State) -> int:
        """How many trials are in this state."""
        return len(self._by_state.get(state, ()))

    def reached(self, rung: int) -> int:
        """How many trials were measured at a rung."""
        return len(self._reached.get(rung, ()))

    def place(self, trial: Standing, rung: int) -> int:
        """The trial's place among those, from 1."""
        keys = self._reached[rung]
        return len(keys) - bisect_left(keys, (trial.values[rung], -trial.number))

    def above(self, value: float, rung: int) -> int:
        """How many of those measured more than ``value``."""
        keys = self._reached.get(rung, [])
        return len(keys) - bisect_left(keys, (value, 1))

    def best_paused(self, rung: int) -> T | None:
        """The best of the trials that stand paused at a rung."""
        keys = self._paused.get(rung)
        return self._trials[-keys[-1][1]] if keys else None

    def paused_at(self) -> list[int]:
        """The rungs where trials stand paused."""
        return sorted(rung for rung, keys in self._paused.items() if keys)

    @property
    def best(self) -> T | None:
        """The best complete trial; where none is complete, the best of all."""
        key = self._complete[-1] if self._complete else self._best and self._best[1:]
        return None if key is None else self._trials[-key[1]]

    @property
    def best_score(self) -> tuple[int, float] | None:
        """Rows and value of the best evaluation of all."""
        return None if self._best is None else self._best[:2]

    def leaders(self, count: int) -> list[T]:
        """The ``count`` trials that came furthest: complete ones first, then by rung, then by value."""
        found: dict[int, T] = {}
        for keys in (self._complete, *(self._reached[rung] for rung in sorted(self._reached, reverse=True))):
            for _, minus in reversed(keys):
                if len(found) >= count:
                    return list(found.values())
                found.setdefault(-minus, self._trials[-minus])
        return list(found.values())

    @property
    def free(self) -> int:
        """The number of the next trial: the least that is not there."""
        while self._free in self._trials:
            self._free += 1
        return self._free

    def newest(self, count: int) -> list[T]:
        """The last ``count`` trials, by number."""
        return sorted(islice(reversed(self._trials.values()), count), key=lambda trial: trial.number)

    # ---- the lists ---------------------------------------------------------------------------

    def _enter(self, trial: T) -> None:
        self._trials[trial.number] = trial
        for rung in trial.values:
            self._enter_rung(trial, rung)
        self._enter_state(trial)

    def _enter_rung(self, trial: T, rung: int) -> None:
        key = (trial.values[rung], -trial.number)
        insort(self._reached.setdefault(rung, []), key)
        score = (trial.rows.get(rung, 0), *key)
        self._best = score if self._best is None else max(self._best, score)

    def _enter_state(self, trial: T) -> None:
        self._by_state.setdefault(trial.state, {})[trial.number] = trial
        if trial.state == "paused" and trial.values:
            insort(self._paused.setdefault(trial.rung, []), (trial.values[trial.rung], -trial.number))
        elif trial.state == "complete" and trial.best is not None:
            insort(self._complete, (trial.best, -trial.number))

    def _leave_state(self, trial: T) -> None:
        del self._by_state[trial.state][trial.number]
        if trial.state == "paused" and trial.values:
            _remove(self._paused[trial.rung], (trial.values[trial.rung], -trial.number))
        elif trial.state == "complete" and trial.best is not None:
            _remove(self._complete, (trial.best, -trial.number))


def _remove(keys: list[Key], key: Key) -> None:
    at = bisect_left(keys, key)
    assert keys[at] == key
    del keys[at]
