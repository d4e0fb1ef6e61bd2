"""The searched parameters that mattered, and how sure that is with so few trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import optuna
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, create_trial

from embsearch.hpo.space import Dimension
from embsearch.report.record import Course, Record

DRAWS = 16  # resamples of the trials
TREES = 16
FEWEST, MOST = 4, 200  # trials


class Importance(NamedTuple):
    """The share of the objective's variance that a parameter explains by itself (fANOVA, Hutter et
    al. 2014), and the middle 80 % of what resampled trials say. The share is the middle of these.

    ``trials``: how many were asked; of a conditional parameter those that used it.
    """

    name: str
    value: float
    low: float
    high: float
    trials: int


def importances(record: Record, seed: int = 0) -> tuple[list[Importance], int, int]:
    """Return the parameters by falling importance; at which evaluation; of how many trials.

    Values are compared where half of the trials came to (``Record.common_rung``), so that a trial
    is not bad for having been stopped early; where there are more than 200, so many are drawn at
    random. A conditional parameter is asked of the trials that used it. Parameters with fewer than
    four trials there are left out, and those whose trials are all equal.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rung = record.common_rung()
    known = dict(zip(record.space.short_names(), record.space.dimensions, strict=True))
    there = [c for c in record.searched.values() if rung in c.trial.values]
    found: list[Importance] = []
    for when in {str(d.when): d.when for d in known.values()}.values():
        asked = [name for name, d in known.items() if d.when == when]
        using = [c for c in there if all(c.uses(known[name]) for name in asked)]
        shared = {name: d for name, d in known.items() if all(c.uses(d) for c in using)}
        found += _among(asked, shared, using, rung, seed)
    return sorted(found, key=lambda one: -one.value), rung, len(there)


def _among(
    asked: Sequence[str],
    known: Mapping[str, Dimension],
    courses: Sequence[Course],
    rung: int,
    seed: int,
) -> Iterator[Importance]:
    """Yield the importances of the parameters that are ``asked`` for, by trials that used all
    ``known`` ones.
    """
    trials = [made for course in courses if (made := _made(course, rung, known))]
    if len(trials) < FEWEST or len({trial.value for trial in trials}) == 1:
        return
    draw = np.random.default_rng(seed)
    if len(trials) > MOST:
        trials = [trials[i] for i in np.sort(draw.choice(len(trials), MOST, replace=False))]
    count = len(trials)
    usable = []
    for number in range(DRAWS):
        resampled = [trials[i] for i in draw.integers(count, size=count)]
        shares_of = _evaluate(resampled, number)
        if shares_of:
            usable.append(shares_of)
    if not usable:
        return
    for name in asked:
        shares = [one.get(name, 0.0) for one in usable]
        low, middle, high = (float(q) for q in np.quantile(shares, [0.1, 0.5, 0.9]))
        yield Importance(name, middle, low, high, count)


def _made(course: Course, rung: int, known: Mapping[str, Dimension]) -> FrozenTrial | None:
    if not all(d.contains(course.axes[name]) for name, d in known.items()):
        return None
    params = {}
    distributions = {}
    for name, dimension in known.items():
        params[name] = dimension.to_optuna(course.axes[name])
        distributions[name] = dimension.distribution
    value = course.trial.values[rung]
    return create_trial(params=params, distributions=distributions, value=value)


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
