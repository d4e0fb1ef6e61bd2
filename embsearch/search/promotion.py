"""Asynchronous successive halving by promotion: pause, wait for evidence, resume.

Li et al. 2020 (ASHA), with the pause that stop-only versions leave out: a trial halts at each
rung; it goes on from its checkpoint once it is among the best 1/reduction of all that
reached that rung. On synthetic curves (64 configurations, 60 seeds) this keeps the best
configuration in 93-97 % of searches at 0.29 of the full budget; stop-only halving, whose
first arrivals always pass, keeps 83-88 % at 0.27.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embsearch.values import Decision


class Promotion:
    """``at``: the shares of the budget at which trials are evaluated, the last one 1.

    Rungs are the evaluations at which the budget spent has grown by ``reduction`` since the
    last rung, beginning with evaluation ``min_rung``; the end of a trial is not a rung.
    """

    def __init__(self, at: Sequence[float], reduction: int, min_rung: int = 1) -> None:
        self.reduction = reduction
        self.rungs: list[int] = []
        for number, share in enumerate(at[:-1], 1):
            if number >= min_rung and (not self.rungs or share >= reduction * at[self.rungs[-1] - 1] * 0.999):
                self.rungs.append(number)

    def decide(self, trial: Any, board: Mapping[int, Any]) -> Decision:
        """Trial 0, the default configuration, never pauses: the final table compares with it."""
        rung = trial.rung
        if rung not in self.rungs:
            return Decision("continue", f"evaluation {rung} is no rung")
        if trial.number == 0:
            return Decision("continue", "trial 0 is the default configuration and runs to its end")
        place, among, quota = self._place(trial, rung, board)
        words = f"place {place} of {among} at rung {rung} ({trial.values[rung]:.4f}), {quota} may go on"
        return Decision("continue" if place <= quota else "pause", words)

    def promotable(self, board: Mapping[int, Any]) -> Decision | None:
        number = self.next_paused(board)
        if number is None:
            return None
        trial = board[number]
        place, among, quota = self._place(trial, trial.rung, board)
        return Decision("continue", f"place {place} of {among} at rung {trial.rung}, {quota} may go on")

    def next_paused(self, board: Mapping[int, Any]) -> int | None:
        """The best promotable trial of the highest rung that has one."""
        for rung in reversed(self.rungs):
            paused = [t for t in board.values() if t.state == "paused" and t.rung == rung]
            ready = [t for t in paused if self._goes_on(t, rung, board)]
            if ready:
                return max(ready, key=lambda t: (t.values[rung], -t.number)).number
        # paused between rungs: only by a study that was stopped
        between = [t.number for t in board.values() if t.state == "paused" and t.rung not in self.rungs]
        return min(between, default=None)

    def proved(self, trial: Any, board: Mapping[int, Any]) -> Mapping[int, float]:
        """Trial 0 came to its end by rule: what it measured above the rung where it would have paused
        says nothing about its place."""
        if trial.number != 0:
            return dict(trial.values)
        paused = next((r for r in self.rungs if r in trial.values and not self._goes_on(trial, r, board)), None)
        return {rung: value for rung, value in trial.values.items() if paused is None or rung <= paused}

    def _goes_on(self, trial: Any, rung: int, board: Mapping[int, Any]) -> bool:
        place, _, quota = self._place(trial, rung, board)
        return place <= quota

    def _place(self, trial: Any, rung: int, board: Mapping[int, Any]) -> tuple[int, int, int]:
        """(place from 1, how many reached the rung, how many of them may go on)."""
        there = sorted(((t.values[rung], -t.number) for t in board.values() if rung in t.values), reverse=True)
        return there.index((trial.values[rung], -trial.number)) + 1, len(there), len(there) // self.reduction
