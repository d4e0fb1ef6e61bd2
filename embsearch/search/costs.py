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

Levels = dict[int, tuple[float, ...]]  # by trial


def settled(trials: Mapping[int, Trial], name: str) -> dict[int, float]:
    """Return one cost of each trial that was measured: the median of all that are alike in it."""
    alike = defaultdict(list)
    for trial in trials.values():
        if name in trial.costs:
            key = tuple(trial.params.get(path) for path in COSTS[name].changed_by)
            alike[key].append(trial)
    found: dict[int, float] = {}
    for some in alike.values():
        found |= dict.fromkeys((t.number for t in some), median(t.costs[name] for t in some))
    return found


def levels(trials: Mapping[int, Trial], names: Sequence[str]) -> Levels:
    """Return the costs of each trial that has all of them, equal where they count as equal."""
    every = [_levelled(settled(trials, name)) for name in names]
    numbers = [n for n in trials if every and all(n in one for one in every)]
    return {number: tuple(one[number] for one in every) for number in numbers}


def _levelled(costs: Mapping[int, float]) -> dict[int, float]:
    """Return each cost as the least of its level. So what equals the same is equal."""
    least, found = 0.0, {}
    for cost, number in sorted((cost, number) for number, cost in costs.items()):
        if cost > ALIKE * least:
            least = cost
        found[number] = least
    return found


def rivals(board: Board, trial: Trial, names: Sequence[str]) -> Board:
    """Return the board of the trials that cost no more than this one in any of ``names``; the whole
    board where its costs are not known, or nothing is named.
    """
    known = levels(board, names) if names else {}
    if trial.number not in known:
        return board
    mine = known[trial.number]
    return Board((board[n] for n, costs in known.items() if _no_more(costs, mine)), len(board))


def best_paused(board: Board, rung: int, names: Sequence[str]) -> Iterator[Trial]:
    """Yield the trials that stand paused at a rung, the best first: of each level of costs the best
    alone, as the others have the same rivals.
    """
    if not names:
        yield from islice(board.paused(rung), 1)
        return
    known, seen = levels(board, names), set()
    for trial in board.paused(rung):
        level = known.get(trial.number)
        if level not in seen:
            seen.add(level)
            yield trial


def front(trials: Mapping[int, Trial], config: Config) -> list[Trial]:
    """Return the complete trials than which no other is better and costs no more, the best first."""
    known = levels(trials, config.evaluate.costs)
    ended = [trials[n] for n in known if trials[n].state == "complete"]
    scored = [(score, trial) for trial in ended if (score := trial.best_score) is not None]
    scored.sort(key=lambda one: (-one[0][0], -one[0][1], known[one[1].number], one[1].number))
    found: list[Trial] = []
    for _, trial in scored:
        if not any(_no_more(known[other.number], known[trial.number]) for other in found):
            found.append(trial)
    return found


def _no_more(mine: Sequence[float], theirs: Sequence[float]) -> bool:
    return all(one <= other for one, other in zip(mine, theirs, strict=True))


def alike_in_all(config: Config) -> list[str]:
    """Return a line for each cost that nothing in the space changes."""
    return [
        f"evaluate.costs: {name} is that of every trial; a search over one of "
        f"{', '.join(COSTS[name].changed_by)} would change it"
        for name in config.evaluate.costs
        if not set(COSTS[name].changed_by) & config.space.keys()
    ]
