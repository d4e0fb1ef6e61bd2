"""The end of a study, by whichever limit of ``stop`` comes first, and a trial's share of its
budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from embsearch.config.schema import StopConfig


def spent(
    stop: StopConfig, trials: int, seconds: float, best: float | None, gain: float = math.inf
) -> str:
    """Why no further trial starts, or the empty string while one may.

    ``trials`` counts every trial that exists, ``seconds`` every session of the study; ``gain`` is
    what another trial promises.
    """
    if over := cut_short(stop, seconds, best):
        return over
    if trials >= stop.trials:
        return f"stop.trials: all {stop.trials} trials exist"
    if stop.gain is not None and gain < stop.gain:
        return f"stop.gain: another trial promises {gain:.4f}, less than {stop.gain:g}"
    return ""


def cut_short(stop: StopConfig, seconds: float, best: float | None) -> str:
    """Why also the running trials end at their next evaluation, or the empty string."""
    if stop.target is not None and best is not None and best >= stop.target:
        return f"stop.target: {best:.4f} reached {stop.target:g}"
    if stop.seconds is not None and seconds >= stop.seconds:
        return f"stop.seconds: {seconds:.0f} s of {stop.seconds:g} s spent"
    return ""


def step(at: Sequence[float], rung: int) -> int:
    """Optuna's step of an evaluation: thousandths of the budget, so that halving is of the budget
    also where the evaluations do not lie evenly."""
    return max(rung, round(1000 * at[rung - 1]))
