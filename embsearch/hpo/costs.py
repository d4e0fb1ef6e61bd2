"""Costs of trials: which trials are rivals, and the Pareto front.

A cost is measured at a trial's first evaluation, and latency is noisy. So trials that are alike in
every setting that changes a cost have the median of theirs, and costs within 5 % count as equal:
the noise makes no front of equal encoders.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from statistics import median

from embsearch.config.catalogue import COSTS
from embsearch.config.schema import Config
from embsearch.history.board import Board
from embsearch.history.trial import Trial

ALIKE = 1.05  # costs up to so many times the least of their level are on it

UNKNOWN = (0, 0.0)  # rows and value of what was never measured

Levels = dict[int, tuple[float, ...]]  # by trial


def settled(trials: Mapping[int, Trial], name: str) -> dict[int, float]:
    """Return one cost of each trial that was measured: the median of all that are alike in it."""
    alike: dict[object, list[Trial]] = defaultdict(list)
    changing = COSTS[name].changed_by
    for trial in trials.values():
        if name in trial.costs:
            key = tuple(trial.params.get(path) for path in changing)
            alike[key].append(trial)
    found = {}
    for some in alike.values():
        middle = median(trial.costs[name] for trial in some)
        for trial in some:
            found[trial.number] = middle
    return found


def levels(trials: Mapping[int, Trial], names: Sequence[str]) -> Levels:
    """Return the costs of each trial that has all of them, equal where they count as equal."""
    found: Levels = {}
    if not names:
        return found
    every = [_levelled(settled(trials, name)) for name in names]
    for number in trials:
        costs = tuple(one[number] for one in every if number in one)
        if len(costs) == len(names):
            found[number] = costs
    return found


def _levelled(costs: Mapping[int, float]) -> dict[int, float]:
    """Return each cost as the least of its level. So what equals the same is equal."""
    least = 0.0
    found = {}
    for number in sorted(costs, key=costs.__getitem__):
        cost = costs[number]
        if cost > ALIKE * least:
            least = cost
        found[number] = least
    return found


def rivals(board: Board, trial: Trial, names: Sequence[str]) -> Board:
    """Return the board of the trials that cost no more than this one in any of ``names``; the whole
    board where its costs are not known, or nothing is named.
    """
    known = levels(board, names)
    mine = known.get(trial.number)
    if mine is None:
        return board
    cheap = [board[number] for number in known if _no_more(known[number], mine)]
    return Board(cheap, begun=len(board))


def best_paused(board: Board, rung: int, names: Sequence[str]) -> Iterator[Trial]:
    """Yield the trials that stand paused at a rung, the best first: of each level of costs the best
    alone, as the others have the same rivals.
    """
    if not names:
        yield from islice(board.paused(rung), 1)
        return
    known = levels(board, names)
    seen = set()
    for trial in board.paused(rung):
        level = known.get(trial.number)
        if level not in seen:
            seen.add(level)
            yield trial


def front(trials: Mapping[int, Trial], config: Config) -> list[Trial]:
    """Return the complete trials than which no other is as good and costs no more, best first."""
    known = levels(trials, config.evaluate.costs)
    measured = [trials[number] for number in known]
    ended = [trial for trial in measured if trial.state == "complete"]
    ended.sort(key=lambda trial: known[trial.number])
    ended.sort(key=lambda trial: trial.best_score or UNKNOWN, reverse=True)
    found: list[Trial] = []
    for trial in ended:
        mine = known[trial.number]
        beaten = any(_no_more(known[other.number], mine) for other in found)
        if not beaten:
            found.append(trial)
    return found


def _no_more(mine: Sequence[float], theirs: Sequence[float]) -> bool:
    return all(one <= other for one, other in zip(mine, theirs, strict=True))


def alike_in_all(config: Config) -> list[str]:
    """Return a line for each cost that nothing in the space changes."""
    lines = []
    for name in config.evaluate.costs:
        changing = COSTS[name].changed_by
        if any(path in config.space for path in changing):
            continue
        known = ", ".join(changing)
        line = f"evaluate.costs: {name} is that of every trial; a search over one of {known}"
        lines.append(f"{line} would change it")
    return lines
