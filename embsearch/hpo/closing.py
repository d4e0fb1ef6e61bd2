"""The end of a search that ``stop.seconds`` limits: its time goes to the best unfinished trials.

Without it such a search returns whatever happened to be complete when the time was over: new trials
were begun until then, and the best of them stayed paused.
"""

from __future__ import annotations

from embsearch.config.schema import Config
from embsearch.history.board import Board

TIMED = 50  # the newest trials, by which the time of one is estimated


class Closing:
    """The rule that finishes trials once there is no time left to begin others as well."""

    def __init__(self, config: Config) -> None:
        self._limit, self._at = config.stop.seconds, config.evaluate.at
        self._begun = self._at[config.scheduler.min_rung - 1]  # the share that a new trial gets

    def next(self, board: Board, elapsed: float, promotable: int | None) -> tuple[int, str] | None:
        """Return which paused trial has to go on now to come to its end in time, and why: the
        promotable one, or the best of the highest rung.

        None while there is time to begin others, or where none can be finished.
        """
        if self._limit is None:
            return None
        whole = self.seconds_of_a_trial(board)
        if whole is None:
            return None
        left = self._limit - elapsed
        paused = [board.best_paused(rung) for rung in reversed(board.paused_at())]
        if promotable is not None:
            paused.insert(0, board[promotable])
        for trial in paused:
            need = 0.0 if trial is None else whole * (1 - self._at[trial.rung - 1])
            if trial is None or need > left:
                continue
            if left > need + whole * self._begun:
                return None
            why = f"stop.seconds: {left:.0f} s are left, and its end takes {need:.0f} s"
            return trial.number, why
        return None

    def seconds_of_a_trial(self, board: Board) -> float | None:
        """Return what a whole trial takes, by those that were measured; None where none was."""
        measured = [trial for trial in board.newest(TIMED) if trial.rung]
        shares = sum(self._at[trial.rung - 1] for trial in measured)
        return sum(trial.seconds for trial in measured) / shares if shares else None
