"""What a sampler may learn from: the board as Optuna's trials, paused and running ones included.

Optuna's database learns of a trial when it ends, and under promotion most trials wait paused until the
search is over: TPE, asked for trial 20, knew 2 to 9 of them (20 simulated studies). So the samplers that
learn are asked through a study in memory that holds what the board knows.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from embsearch.search import budget
from embsearch.search.board import Board, Standing
from embsearch.search.scheduler import Scheduler, Trials
from embsearch.search.space import Space
from embsearch.values import Scalar

BLAMED = ("diverged", "out_of_memory")  # failures that the parameters caused

# TPE models the best 25 trials against the others, the older the less, and its time grows with their number: it is
# shown so many at most, the best and the newest. See docs/decisions/0012-ten-thousand-trials.md.
# Of those that run, from whose places it keeps away, the newest RUNNING: a thousand would double its time.
SHOWN, BEST, RUNNING = 300, 50, 250

Kept = dict[int, tuple[tuple[Any, ...], FrozenTrial]]  # by number: a standing, and the trial made of it


def ranked(
    trials: Trials, space: Space, scheduler: Scheduler, at: Sequence[float], kept: Kept | None = None
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
        made[trial.number] = last if last and same else (standing, _ranked(trial, values, space, at))
    kept.clear()
    kept.update(made)
    return [trial for _, trial in made.values()]


def comparable(trials: Trials, space: Space, scheduler: Scheduler, least: int) -> list[FrozenTrial]:
    """For a Gaussian process, which knows only complete trials: the values at the highest rung that
    ``least`` trials reached (the rule of BOHB, Falkner et al. 2018); failures get the worst of them."""
    board = Board.of(trials)
    usable = list(_usable(board, board.newest(len(board)), space, scheduler, {}))
    reached = [rung for _, values in usable for rung in values]
    rung = max((r for r in set(reached) if reached.count(r) >= least), default=0)
    there = [values[rung] for _, values in usable if rung in values]
    found = []
    for trial, values in usable:
        value = min(there, default=None) if trial.failed_by(BLAMED) else values.get(rung)
        if value is not None:
            found.append(_made(trial, space, state=TrialState.COMPLETE, value=value))
        elif not values:
            found.append(_made(trial, space, state=TrialState.RUNNING))
    return found


def _ranked(trial: Standing, values: Mapping[int, float], space: Space, at: Sequence[float]) -> FrozenTrial:
    if trial.failed_by(BLAMED):
        return _made(trial, space, state=TrialState.PRUNED)  # below every other
    if not values:
        return _made(trial, space, state=TrialState.RUNNING)
    if len(values) == len(trial.values) and trial.state == "complete":
        return _made(trial, space, state=TrialState.COMPLETE, value=trial.best)
    steps = {budget.step(at, rung): value for rung, value in values.items()}
    return _made(trial, space, state=TrialState.PRUNED, intermediate_values=steps)


def _made(trial: Standing, space: Space, **standing: Any) -> FrozenTrial:
    known = {d.name: d.distribution for d in space.dimensions if d.path in trial.params}
    made = create_trial(params=space.to_optuna(trial.params), distributions=known, **standing)
    made.number = trial.number
    return made


def _usable(
    board: Board[Any], shown: Sequence[Standing], space: Space, scheduler: Scheduler, inside: Container[int]
) -> Iterator[tuple[Standing, Mapping[int, float]]]:
    """Those of ``shown`` whose parameters lie in the space (``inside`` are known to), with what they proved."""
    for trial in shown:
        if trial.failed_by(("bug", "killed", "hung")):
            continue
        params = trial.params
        if trial.number in inside or all(d.contains(params[d.path]) for d in space.dimensions if d.path in params):
            yield trial, {} if trial.failed_by(BLAMED) else scheduler.proved(trial, board)


def _most_telling(board: Board[Any]) -> list[Standing]:
    """All trials while they are few; else the best, the newest and those without a measurement, by number."""
    if len(board) <= SHOWN:
        return board.newest(SHOWN)
    chosen = (*board.leaders(BEST), *board.in_state("running")[-RUNNING:], *board.newest(SHOWN - BEST))
    return [trial for _, trial in sorted({t.number: t for t in chosen}.items())]


class Shown(optuna.storages.InMemoryStorage):
    """A storage that holds given trials as they are, and the one that is asked for."""

    def __init__(self, known: Sequence[FrozenTrial], number: int) -> None:
        super().__init__()
        self._known, self._number = known, number

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        self.get_trial(trial_id).number = self._number
        return trial_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        known = [t for t in self._known if states is None or t.state in states]
        return known + super().get_all_trials(study_id, deepcopy, states)


def ask(
    known: Sequence[FrozenTrial], number: int, sampler: optuna.samplers.BaseSampler, space: Space
) -> tuple[dict[str, Scalar], dict[str, Any]]:
    """What ``sampler`` suggests for trial ``number`` after the known ones: values of the active parameters by
    config path, and the attributes in which some samplers keep their state."""
    study = optuna.create_study(
        storage=Shown(known, number), direction="maximize", sampler=sampler, pruner=optuna.pruners.NopPruner()
    )
    trial = study.ask()
    return space.suggest(trial), dict(study.get_trials(deepcopy=False)[-1].system_attrs)
