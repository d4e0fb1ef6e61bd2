"""All trials of a study, and what is asked of them at every turn kept in order.

A study of ten thousand trials asks the same questions as one of ten: who waits, who may go on,
what is the best so far, which place has this one. Here each costs the same in both, up to a bisection.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from operator import attrgetter

from embsearch.history.trial import Trial
from embsearch.values import State

Key = tuple[float, int]  # value and minus the number: of two equal trials the earlier is better


class Board(Mapping[int, Trial]):
    """Trials by number. Whoever has a plain mapping of them reads it through ``Board.of``.

    Soups are found by their number and their state, and among ``soups``: they are none of the
    trials that the search compares, counts and learns from.

    ``begun``: of a board of some, how many trials the study has.
    """

    def __init__(self, trials: Iterable[Trial] = (), begun: int = 0) -> None:
        self._begun = begun
        self._trials: dict[int, Trial] = {}
        self._soups: dict[int, Trial] = {}
        self._by_state: dict[State, dict[int, Trial]] = {}
        self._reached: dict[int, list[Key]] = {}  # by rung, the worst first
        self._sampled: dict[int, list[Key]] = {}  # the same without given points and failed trials
        self._paused: dict[int, list[Key]] = {}  # by the rung they stand at
        self._best: tuple[int, float, int] | None = None  # rows before the key
        self._free = 0
        for trial in trials:
            self.add(trial)

    @classmethod
    def of(cls, trials: Mapping[int, Trial]) -> Board:
        """Return the board itself, or one made of a mapping."""
        if isinstance(trials, Board):
            return trials
        return cls(trials[number] for number in sorted(trials))

    def __getitem__(self, number: int) -> Trial:
        return self._soups[number] if number in self._soups else self._trials[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    # ---- what happens to a trial -------------------------------------------------------------

    def add(self, trial: Trial) -> None:
        """Take in a trial."""
        if trial.is_soup:
            self._soups[trial.number] = trial
            self._enter_state(trial)
            return
        self._trials[trial.number] = trial
        for rung in trial.values:
            self._enter_rung(trial, rung)
        self._enter_state(trial)

    @contextmanager
    def changing(self, trial: Trial) -> Iterator[None]:
        """Let the trial change its state and get values while the context runs."""
        rungs = len(trial.values)
        self._leave_state(trial)
        try:
            yield
        finally:
            for rung in islice(trial.values, rungs, None):
                if not trial.is_soup:
                    self._enter_rung(trial, rung)
            self._enter_state(trial)

    # ---- what is asked -----------------------------------------------------------------------

    def in_state(self, *states: State) -> list[Trial]:
        """Return the trials in one of these states, by number."""
        found = [trial for state in states for trial in self._by_state.get(state, {}).values()]
        return sorted(found, key=attrgetter("number"))

    def count(self, state: State) -> int:
        """Return how many trials are in this state."""
        return len(self._by_state.get(state, ()))

    @property
    def begun(self) -> int:
        """The number of the study's trials."""
        return self._begun or len(self._trials)

    def reached(self, rung: int) -> int:
        """Return how many trials were measured at a rung."""
        return len(self._reached.get(rung, ()))

    def best_at(self, rung: int) -> float:
        """Return the best value of a rung."""
        return self._reached[rung][-1][0]

    def sampled(self, rung: int) -> list[Key]:
        """Return the keys of a rung, the worst first, without given points and failed trials."""
        return self._sampled.get(rung, [])

    def above(self, value: float, rung: int) -> int:
        """Return how many of those measured more than ``value``."""
        keys = self._reached.get(rung, [])
        return len(keys) - bisect_left(keys, (value, 1))

    def best_paused(self, rung: int) -> Trial | None:
        """Return the best of the trials that stand paused at a rung."""
        return next(self.paused(rung), None)

    def paused(self, rung: int) -> Iterator[Trial]:
        """Yield the trials that stand paused at a rung, the best first."""
        yield from (self._trials[-minus] for _, minus in reversed(self._paused.get(rung, [])))

    def paused_at(self) -> list[int]:
        """Return the rungs where trials stand paused."""
        return sorted(rung for rung, keys in self._paused.items() if keys)

    @property
    def best(self) -> Trial | None:
        """The trial with the best value, wherever it was reached; a value on more rows counts
        before any on fewer.
        """
        return None if self._best is None else self._trials[-self._best[2]]

    @property
    def best_score(self) -> tuple[int, float] | None:
        """Rows and value of the best evaluation of all."""
        return None if self._best is None else self._best[:2]

    def leaders(self, count: int) -> list[Trial]:
        """Return the ``count`` trials that came furthest: by rung, then by value there."""
        found: dict[int, Trial] = {}
        for rung in sorted(self._reached, reverse=True):
            for _, minus in reversed(self._reached[rung]):
                if len(found) >= count:
                    return list(found.values())
                found.setdefault(-minus, self._trials[-minus])
        return list(found.values())

    @property
    def soups(self) -> list[Trial]:
        """The soups, the newest last."""
        return list(self._soups.values())

    @property
    def free(self) -> int:
        """The number of the next trial: the least that is not there."""
        while self._free in self:
            self._free += 1
        return self._free

    def newest(self, count: int) -> list[Trial]:
        """Return the last ``count`` trials, by number."""
        return sorted(islice(reversed(self._trials.values()), count), key=attrgetter("number"))

    # ---- the lists ---------------------------------------------------------------------------

    def _enter_rung(self, trial: Trial, rung: int) -> None:
        key = (trial.values[rung], -trial.number)
        insort(self._reached.setdefault(rung, []), key)
        if not trial.given:
            insort(self._sampled.setdefault(rung, []), key)
        score = (trial.rows.get(rung, 0), *key)
        self._best = score if self._best is None else max(self._best, score)

    def _enter_state(self, trial: Trial) -> None:
        self._by_state.setdefault(trial.state, {})[trial.number] = trial
        if trial.state == "paused" and trial.values:
            insort(
                self._paused.setdefault(trial.rung, []), (trial.values[trial.rung], -trial.number)
            )
        if trial.state == "failed" and not trial.given:
            for rung, value in trial.values.items():
                _remove(self._sampled[rung], (value, -trial.number))

    def _leave_state(self, trial: Trial) -> None:
        del self._by_state[trial.state][trial.number]
        if trial.state == "paused" and trial.values:
            _remove(self._paused[trial.rung], (trial.values[trial.rung], -trial.number))
        if trial.state == "failed" and not trial.given:
            for rung, value in trial.values.items():
                insort(self._sampled[rung], (value, -trial.number))


def _remove(keys: list[Key], key: Key) -> None:
    at = bisect_left(keys, key)
    assert keys[at] == key
    del keys[at]
