"""Asynchronous successive halving by promotion: pause, wait for evidence, resume.

Li et al. 2020 (ASHA), with the pause that stop-only versions leave out: a trial halts at each
rung; it goes on from its checkpoint once it is among the best 1/reduction of all that
reached that rung. On synthetic curves (64 configurations, 60 seeds) this keeps the best
configuration in 97 % of searches at 0.297 of the full budget, the default configuration's whole run
included; stop-only halving, whose first arrivals always pass, keeps 82 % at 0.27
(benchmarks/schedulers.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embsearch.history.board import Board
from embsearch.history.trial import Trial
from embsearch.values import Decision

# Where it is known how many trials come, a rung waits until so many of its trials may go on at once: the
# first of three says little. Measured (300 searches): 0.299 of the budget instead of 0.308, and as many
# searches keep the best; from 5 on they keep fewer.
PATIENCE = 4


class Promotion:
    """``at``: the shares of the budget at which trials are evaluated, the last one 1.

    Rungs are the evaluations at which the budget spent has grown by ``reduction`` since the
    last rung, beginning with evaluation ``min_rung``; the end of a trial is not a rung.
    ``trials``: how many there will be, where nothing but their number ends the search.

    Trial 0, the default configuration, runs to its end whatever it is worth, because the final table compares
    with it: last of all where ``trials`` is known, else first of all, since the search may end at any moment.
    """

    def __init__(
        self, at: Sequence[float], reduction: int, min_rung: int = 1, trials: int | None = None
    ) -> None:
        self.reduction, self.trials = reduction, trials
        self.rungs: list[int] = []
        for number, share in enumerate(at[:-1], 1):
            if number >= min_rung and (
                not self.rungs or share >= reduction * at[self.rungs[-1] - 1] * 0.999
            ):
                self.rungs.append(number)

    def decide(self, trial: Trial, board: Mapping[int, Trial]) -> Decision:
        rung = trial.rung
        if rung not in self.rungs:
            return Decision("continue", f"evaluation {rung} is no rung")
        board = Board.of(board)
        if trial.number == 0 and (self.trials is None or self._all_there(board)):
            return Decision("continue", "trial 0 is the default configuration and runs to its end")
        place, among, quota = self._place(trial, rung, board)
        words = (
            f"place {place} of {among} at rung {rung} ({trial.values[rung]:.4f}), {quota} may go on"
        )
        return Decision("continue" if place <= quota else "pause", words)

    def promotable(self, board: Mapping[int, Trial]) -> Decision | None:
        board = Board.of(board)
        number = self.next_paused(board)
        if number is None:
            return None
        trial = board[number]
        if trial.rung not in self.rungs:
            return Decision("continue", "the study goes on")
        if not self._goes_on(trial, trial.rung, board):
            return Decision(
                "continue", "the search is over; the default configuration runs to its end"
            )
        place, among, quota = self._place(trial, trial.rung, board)
        return Decision(
            "continue", f"place {place} of {among} at rung {trial.rung}, {quota} may go on"
        )

    def next_paused(self, board: Mapping[int, Trial]) -> int | None:
        """Return the best promotable trial of the highest rung that has one."""
        board = Board.of(board)
        for rung in reversed(self.rungs):
            best = board.best_paused(rung)
            if best is not None and self._goes_on(best, rung, board):
                return best.number
        # paused between rungs: only by a study that was stopped
        between = [rung for rung in board.paused_at() if rung not in self.rungs]
        if between:
            return min(t.number for t in board.in_state("paused") if t.rung in between)
        waits = self._all_there(board) and 0 in board and board[0].state == "paused"
        return 0 if waits else None

    def proved(self, trial: Trial, board: Mapping[int, Trial]) -> Mapping[int, float]:
        """Trial 0 came to its end by rule: what it measured above the rung where it would have paused
        says nothing about its place."""
        if trial.number != 0:
            return trial.values
        board = Board.of(board)
        paused = next(
            (r for r in self.rungs if r in trial.values and not self._goes_on(trial, r, board)),
            None,
        )
        return {
            rung: value for rung, value in trial.values.items() if paused is None or rung <= paused
        }

    def _all_there(self, board: Board) -> bool:
        return self.trials is not None and len(board) >= self.trials

    def _goes_on(self, trial: Trial, rung: int, board: Board) -> bool:
        place, _, quota = self._place(trial, rung, board)
        return place <= quota

    def _place(self, trial: Trial, rung: int, board: Board) -> tuple[int, int, int]:
        """(place from 1, how many reached the rung, how many of them may go on)."""
        among = board.reached(rung)
        more_come = self.trials is not None and not self._all_there(board)
        quota = 0 if more_come and among < PATIENCE * self.reduction else among // self.reduction
        return board.place(trial, rung), among, quota
