"""Asynchronous successive halving by promotion: pause, wait for evidence, resume.

Li et al. 2020 (ASHA), with the pause that stop-only versions leave out: a trial halts at each
rung; it goes on from its checkpoint once it is among the best 1/reduction of all sampled trials
that reached that rung, or too near to them for the noise between seeds to tell. Points that somebody gave
run to their end, because the search is measured by them, and take no sampled trial's place. On
synthetic curves (64 configurations, 60 seeds) this keeps the best configuration in 97 % of searches
(benchmarks/schedulers.py).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from embsearch.history.board import Board
from embsearch.history.trial import Trial
from embsearch.hpo.costs import best_paused, rivals
from embsearch.values import Decision

# Where it is known how many trials come, a rung waits until so many of its trials may go on at once:
# the first of three says little. Measured (300 searches): 0.299 of the budget instead of 0.308, and
# as many searches keep the best; from 5 on they keep fewer.
PATIENCE = 4

# The standard deviation between seeds of one configuration, in logits of the metric (measured on
# product offers: 0.042). Once all trials are there and few may go on, one that is behind by less goes
# on too: the noise would decide between the two.
SEED_NOISE = 0.04
# A given point that is behind by so many of these deviations will not come back.
FAR = 6.0


class Promotion:
    """``at``: the shares of the budget at which trials are evaluated, the last one 1.

    Rungs are the evaluations at which the budget spent has grown by ``reduction`` since the
    last rung, beginning with evaluation ``min_rung``; the end of a trial is not a rung.
    ``trials``: how many there will be at most. ``waits``: nothing but their number ends the search,
    so that a rung can wait for them.
    The default configuration, with which the final table compares, runs to its end. So does what
    ``study.defaults`` names, unless another trial leaves it far behind.
    ``costs``: what shall be low; a trial's place is that among those that cost no more.
    """

    def __init__(
        self,
        at: Sequence[float],
        reduction: int,
        min_rung: int = 1,
        trials: int | None = None,
        waits: bool = True,
        costs: Sequence[str] = (),
    ) -> None:
        self.reduction, self.trials, self.waits, self.costs = reduction, trials, waits, costs
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
        goes_on, why = self._ask(trial, rung, Board.of(board))
        return Decision("continue" if goes_on else "pause", why)

    def promotable(self, board: Mapping[int, Trial]) -> Decision | None:
        board = Board.of(board)
        number = self.next_paused(board)
        if number is None:
            return None
        trial = board[number]
        if trial.rung not in self.rungs:
            return Decision("continue", "the study goes on")
        return Decision("continue", self._ask(trial, trial.rung, board)[1])

    def next_paused(self, board: Mapping[int, Trial]) -> int | None:
        """Return the best promotable trial of the highest rung that has one."""
        board = Board.of(board)
        for rung in reversed(self.rungs):
            for trial in best_paused(board, rung, self.costs):
                if self._ask(trial, rung, board)[0]:
                    return trial.number
        if 0 in board and board[0].state == "paused":  # an older version paused it
            return 0
        # paused between rungs: only by a study that was stopped
        between = [rung for rung in board.paused_at() if rung not in self.rungs]
        if between:
            return min(t.number for t in board.in_state("paused") if t.rung in between)
        return None

    def proved(self, trial: Trial, board: Mapping[int, Trial]) -> Mapping[int, float]:
        """Return the values as far as the trial's own place brought it.

        A given point came further by rule, which says nothing about its place.
        """
        if not trial.given:
            return trial.values
        board, proved = rivals(Board.of(board), trial, self.costs), {}
        for rung, value in trial.values.items():
            proved[rung] = value
            if rung in self.rungs and not self._earned(trial, rung, board)[0]:
                break  # here it would have paused
        return proved

    def _ask(self, trial: Trial, rung: int, board: Board) -> tuple[bool, str]:
        """Return whether the trial goes on from a rung, and why."""
        board = rivals(board, trial, self.costs)
        if trial.given and self._runs_to_its_end(trial, board):
            what = "a given point" if trial.number else "the default configuration"
            return True, f"trial {trial.number} is {what} and runs to its end"
        return self._earned(trial, rung, board)

    def _runs_to_its_end(self, trial: Trial, board: Board) -> bool:
        """Return whether no trial has left this given point far behind at its own rung."""
        if trial.number == 0:
            return True
        behind = apart(board.best_at(trial.rung), trial.values[trial.rung])
        return behind <= FAR * SEED_NOISE

    def _earned(self, trial: Trial, rung: int, board: Board) -> tuple[bool, str]:
        """Return whether the trial's place lets it go on, and the words for it."""
        place, among, quota = self._place(trial, rung, board)
        value = trial.values[rung]
        who = "sampled trials that cost no more" if self.costs else "sampled trials"
        words = f"place {place} of {among} {who} at rung {rung} ({value:.4f}), "
        words += f"{quota} may go on"
        if place <= quota:
            return True, words
        if (
            self._all_there(board)
            and quota <= PATIENCE
            and place == quota + 1
            and apart(board.sampled(rung)[-quota][0], value) <= SEED_NOISE
        ):
            return True, f"{words}; too near to the last of them to tell"
        return False, words

    def _all_there(self, board: Board) -> bool:
        return self.trials is not None and board.begun >= self.trials

    def _place(self, trial: Trial, rung: int, board: Board) -> tuple[int, int, int]:
        """(place from 1, how many reached the rung, how many of them may go on), of sampled trials.

        A given point has the place that it would have among them.
        """
        others, key = board.sampled(rung), (trial.values[rung], -trial.number)
        place = len(others) - bisect_left(others, key) + trial.given
        among = len(others) + trial.given
        quota = among // self.reduction
        if self._all_there(board):
            quota = max(1, quota)
        elif self.trials is not None and self.waits and among < PATIENCE * self.reduction:
            quota = 0
        return place, among, quota


def apart(better: float, worse: float) -> float:
    """Return by how much one value is above another, in logits; outside 0 to 1 in the metric."""
    if worse > 0 and better < 1:
        return math.log(better / (1 - better)) - math.log(worse / (1 - worse))
    return better - worse
