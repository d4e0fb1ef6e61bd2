"""What a sampler may learn from: the board as Optuna's trials, paused and running ones included.

Optuna's database learns of a trial when it ends, and under promotion most trials wait paused until the
search is over: TPE, asked for trial 20, knew 2 to 9 of them (20 simulated studies). So the samplers that
learn are asked through a study in memory, made of the board anew for every suggestion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from embsearch.search import budget
from embsearch.search.scheduler import Board, Scheduler, Standing
from embsearch.search.space import Space

BLAMED = ("diverged", "out_of_memory")  # failures that the parameters caused


def ranked(board: Board, space: Space, scheduler: Scheduler, at: Sequence[float]) -> list[FrozenTrial]:
    """For TPE, which ranks complete trials first, then the others by how far they came, then by value."""
    found = []
    for trial, point, values in _usable(board, space, scheduler):
        if trial.failed_by(BLAMED):
            found.append(create_trial(state=TrialState.PRUNED, **point))  # below every other
        elif not values:
            found.append(create_trial(state=TrialState.RUNNING, **point))
        elif len(values) == len(trial.values) and trial.state == "complete":
            found.append(create_trial(state=TrialState.COMPLETE, value=trial.best, **point))
        else:
            steps = {budget.step(at, rung): value for rung, value in values.items()}
            found.append(create_trial(state=TrialState.PRUNED, intermediate_values=steps, **point))
    return found


def comparable(board: Board, space: Space, scheduler: Scheduler, least: int) -> list[FrozenTrial]:
    """For a Gaussian process, which knows only complete trials: the values at the highest rung that
    ``least`` trials reached (the rule of BOHB, Falkner et al. 2018); failures get the worst of them."""
    usable = list(_usable(board, space, scheduler))
    reached = [rung for _, _, values in usable for rung in values]
    rung = max((r for r in set(reached) if reached.count(r) >= least), default=0)
    there = [values[rung] for _, _, values in usable if rung in values]
    found = []
    for trial, point, values in usable:
        value = min(there, default=None) if trial.failed_by(BLAMED) else values.get(rung)
        if value is not None:
            found.append(create_trial(state=TrialState.COMPLETE, value=value, **point))
        elif not values:
            found.append(create_trial(state=TrialState.RUNNING, **point))
    return found


def _usable(
    board: Board, space: Space, scheduler: Scheduler
) -> Iterator[tuple[Standing, dict[str, Any], Mapping[int, float]]]:
    """Trials whose parameters lie in the space, by number, as Optuna names them, with what they proved."""
    for _, trial in sorted(board.items()):
        known = [d for d in space.dimensions if d.path in trial.params]
        if all(d.contains(trial.params[d.path]) for d in known) and not trial.failed_by(("bug", "killed", "hung")):
            point = {
                "params": space.to_optuna(trial.params),
                "distributions": {d.name: d.distribution for d in known},
            }
            yield trial, point, {} if trial.failed_by(BLAMED) else scheduler.proved(trial, board)
