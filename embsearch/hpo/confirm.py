"""A test of whether the best of a search was good or lucky.

The highest of many noisy values is higher than what it stands for. So the best configurations are
trained again with seeds that nothing was chosen by: their means are fair, the choice between them
is by the mean, and what the highest value loses is how much of it was luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from embsearch.config.schema import Config, ConfirmConfig


@dataclass(frozen=True)
class Confirmed:
    """A trial's value in the search, and those of its configuration with fresh seeds."""

    trial: int
    value: float
    values: tuple[float, ...]
    failed: int = 0  # fresh seeds that came to no end: diverged, out of memory, ...

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def luck(self) -> float:
        """The selection bias: by how much the search's value is above what fresh seeds give."""
        return self.value - self.mean

    @property
    def words(self) -> str:
        each = ", ".join(f"{value:.4f}" for value in self.values)
        failed = f"; {self.failed} more failed" if self.failed else ""
        return f"{self.value:.4f} in the search, {self.mean:.4f} with fresh seeds ({each}){failed}"


def estimated(config: Config) -> bool:
    """Return whether trials are compared by the estimate: not where nothing tells them apart."""
    wanted = config.confirm.winner == "estimate"
    return wanted and bool(config.space) and config.launcher.name != "replay"


def affordable(asked: ConfirmConfig, spent: int, texts: int) -> tuple[int, int]:
    """Return how many configurations, and seeds each, ``confirm.share`` of the texts ``spent`` on
    the search pays for, at ``texts`` a run; (0, 0) where it pays for less than two runs. One seed
    would say nothing.
    """
    if not asked.top_k or not asked.seeds:
        return 0, 0
    runs = asked.top_k * asked.seeds if asked.share is None else round(asked.share * spent / texts)
    ways = [
        (top, seeds)
        for top in range(1, asked.top_k + 1)
        for seeds in range(min(2, asked.seeds), asked.seeds + 1)
        if top * seeds <= runs
    ]
    return max(ways, key=lambda way: (way[0] * way[1], way[0]), default=(0, 0))


def too_small(asked: ConfirmConfig) -> str:
    """Why nothing is affordable."""
    if not asked.top_k or not asked.seeds:
        return f"confirm.top_k={asked.top_k}, confirm.seeds={asked.seeds}"
    return f"the search is too small for it (confirm.share={asked.share:g})"


def choose(confirmed: Sequence[Confirmed]) -> int | None:
    """Return the trial with the best mean, of those whose seeds all came to their end if there are
    any; None where nothing was confirmed.
    """
    return max(confirmed, key=lambda one: (not one.failed, one.mean)).trial if confirmed else None
