"""The trials that a sampler learns from, paused and running ones included.

Under promotion most trials wait paused until the search is over: TPE that was told of ended trials alone, and
asked for trial 20, knew 2 to 9 of them (20 simulated studies). So samplers see what the board knows.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState

from embsearch.history.board import Board
from embsearch.history.trial import Trial
from embsearch.hpo.memory_study import BLAMED, as_told, frozen, values_by_step
from embsearch.hpo.scheduler import Scheduler, Trials
from embsearch.hpo.space import Space

# TPE models the best 25 trials against the others, the older the less, and its time grows with their number: it is
# shown so many at most, the best and the newest. See docs/decisions/0012-ten-thousand-trials.md.
# Of those that run, from whose places it keeps away, the newest RUNNING: a thousand would double its time.
MAX_HISTORY, BEST, RUNNING = 300, 50, 250

Kept = dict[
    int, tuple[tuple[object, ...], FrozenTrial]
]  # by number: a standing, and the trial made of it


def ranked(
    trials: Trials,
    space: Space,
    scheduler: Scheduler,
    at: Sequence[float],
    kept: Kept | None = None,
) -> list[FrozenTrial]:
    """For TPE, which ranks complete trials first, then the others by how far they came, then by value.

    ``kept`` is what the last call left there, for the next one.
    """
    board, kept = Board.of(trials), {} if kept is None else kept
    made: Kept = {}
    for trial, values in _usable(board, _most_telling(board), space, scheduler, kept):
        standing = (trial.state, trial.failed_by(BLAMED), len(trial.values), tuple(values.items()))
        last = kept.get(trial.number)
        same = last is not None and last[0] == standing
        made[trial.number] = (
            last if last and same else (standing, _ranked(trial, values, space, at))
        )
    kept.clear()
    kept.update(made)
    return [trial for _, trial in made.values()]


def told(trials: Trials, space: Space, at: Sequence[float], kept: Kept) -> list[FrozenTrial]:
    """Return the trials for a sampler that keeps its state in them (CMA-ES, grid): all, by number."""
    board = Board.of(trials)
    found = []
    for number in sorted(board):
        trial = board[number]
        standing = (trial.state, len(trial.values))
        last = kept.get(number)
        if last is None or last[0] != standing:
            if not space.has(trial.params):
                continue
            kept[number] = last = (standing, as_told(trial, space, at))
        found.append(last[1])
    return found


def _ranked(
    trial: Trial, values: Mapping[int, float], space: Space, at: Sequence[float]
) -> FrozenTrial:
    if trial.failed_by(BLAMED):
        return frozen(trial, space, state=TrialState.PRUNED)  # below every other
    if not values:
        return frozen(trial, space, state=TrialState.RUNNING)
    if len(values) == len(trial.values) and trial.state == "complete":
        return frozen(trial, space, state=TrialState.COMPLETE, value=trial.best)
    steps = values_by_step(values, at)
    return frozen(trial, space, state=TrialState.PRUNED, intermediate_values=steps)


def _usable(
    board: Board, shown: Sequence[Trial], space: Space, scheduler: Scheduler, inside: Container[int]
) -> Iterator[tuple[Trial, Mapping[int, float]]]:
    """Yield those of ``shown`` whose parameters lie in the space (``inside`` are known to), with
    what they proved.
    """
    for trial in shown:
        if trial.failed_by(("bug", "killed", "hung")):
            continue
        if trial.number in inside or space.has(trial.params):
            yield trial, {} if trial.failed_by(BLAMED) else scheduler.proved(trial, board)


def _most_telling(board: Board) -> list[Trial]:
    """All trials while they are few; else the best, the newest and those without a measurement, by number."""
    if len(board) <= MAX_HISTORY:
        return board.newest(MAX_HISTORY)
    chosen = (
        *board.leaders(BEST),
        *board.in_state("running")[-RUNNING:],
        *board.newest(MAX_HISTORY - BEST),
    )
    return [trial for _, trial in sorted({t.number: t for t in chosen}.items())]
