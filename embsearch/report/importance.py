"""The searched parameters that mattered, and how sure that is with so few trials."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import optuna
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, create_trial

from embsearch.report.record import Course, Record

DRAWS = 16  # resamples of the trials
TREES = 16
FEWEST, MOST = 4, 200  # trials


class Importance(NamedTuple):
    """The share of the objective's variance that a parameter explains by itself (fANOVA, Hutter et
    al. 2014), and the middle 80 % of what resampled trials say.
    """

    name: str
    value: float
    low: float
    high: float


def importances(record: Record, seed: int = 0) -> tuple[list[Importance], int, int]:
    """Return the parameters by falling importance; at which evaluation; of how many trials.

    Values are compared where half of the trials came to (``Record.common_rung``), so that a trial
    is not bad for having been stopped early; where there are more than 200, so many are drawn at
    random. Inactive conditional parameters count with their default. Empty with fewer than four
    trials there, or where all are equal.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rung = record.common_rung()
    trials = [made for course in record.courses.values() if (made := _made(record, course, rung))]
    if len(trials) < FEWEST or len({trial.value for trial in trials}) == 1:
        return [], rung, len(trials)
    names = record.space.short_names()
    draw = np.random.default_rng(seed)
    if len(trials) > MOST:
        trials = [trials[i] for i in np.sort(draw.choice(len(trials), MOST, replace=False))]
    count = len(trials)
    drawn = [
        _evaluate([trials[i] for i in draw.integers(count, size=count)], n) for n in range(DRAWS)
    ]
    usable = [one for one in drawn if one]
    if not usable:
        return [], rung, count
    whole = _evaluate(trials, seed)
    found = []
    for name in names:
        low, high = np.quantile([one.get(name, 0.0) for one in usable], [0.1, 0.9])
        found.append(Importance(name, whole.get(name, 0.0), float(low), float(high)))
    return sorted(found, key=lambda one: -one.value), rung, count


def _made(record: Record, course: Course, rung: int) -> FrozenTrial | None:
    value = course.trial.values.get(rung)
    known = dict(zip(record.space.short_names(), record.space.dimensions, strict=True))
    inside = all(d.contains(course.axes[name]) for name, d in known.items())
    if value is None or not inside:
        return None
    params = {name: d.to_optuna(course.axes[name]) for name, d in known.items()}
    return create_trial(
        params=params, distributions={n: d.distribution for n, d in known.items()}, value=value
    )


def _evaluate(trials: list[FrozenTrial], seed: int) -> dict[str, float]:
    """Return importances that sum to 1; empty where the trials do not differ."""
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, max_depth=32, seed=seed)
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (RuntimeError, ValueError):  # nothing varies
        return {}
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}
