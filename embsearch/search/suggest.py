"""Suggestions: what the sampler wants tried next, by the trials of the board alone."""

from __future__ import annotations

from optuna.distributions import check_distribution_compatibility
from optuna.trial import FrozenTrial

from embsearch.config.schema import Config
from embsearch.errors import StudyError
from embsearch.search import sampler_history
from embsearch.search.memory_study import memory_study
from embsearch.search.sampler import make
from embsearch.search.scheduler import Scheduler, Trials
from embsearch.search.space import Space, parse
from embsearch.values import Scalar, Suggestion

STATEFUL = ("cmaes", "grid")  # they keep their state in Optuna's trials, and learn from those alone


class Suggester:
    """The sampler of one study."""

    def __init__(self, config: Config, space: Space, scheduler: Scheduler) -> None:
        self._config, self._space, self._scheduler = config, space, scheduler
        self._default = _as_optuna_has_it(space.default(config), space)
        self._given = given_points(config, space)
        self._kept: sampler_history.Kept = {}

    def suggest(self, number: int, trials: Trials) -> Suggestion:
        """Return trial ``number``: a given point that was not tried yet, or what the sampler suggests."""
        if number == 0:
            return Suggestion(number, self._default)
        if self._given:
            tried = [trial.params for trial in trials.values()]
            self._given = [point for point in self._given if point not in tried]
        if self._given:
            return Suggestion(number, self._given[0], origin="given")
        sampler = make(self._config.sampler, self._space, number)
        study = memory_study(self._known(trials), number, self._config.study.name, sampler)
        params = self._space.suggest(study.ask())
        attributes = study.get_trials(deepcopy=False)[-1].system_attrs
        return Suggestion(
            number, params, dict(attributes) if self._config.sampler.name in STATEFUL else {}
        )

    def _known(self, trials: Trials) -> list[FrozenTrial]:
        """Return what the sampler learns from."""
        name, at = self._config.sampler.name, self._config.evaluate.at
        if name == "tpe":
            return sampler_history.ranked(trials, self._space, self._scheduler, at, self._kept)
        if name == "gp":
            least = self._config.sampler.startup_trials
            return sampler_history.comparable(trials, self._space, self._scheduler, least)
        if name in STATEFUL:
            return sampler_history.told(trials, self._space, at, self._kept)
        return []


def given_points(config: Config, space: Space) -> list[dict[str, Scalar]]:
    """Return the points of ``study.defaults``."""
    starts = [space.start(point, config) for point in config.study.defaults]
    return [_as_optuna_has_it(point, space) for point in starts]


def _as_optuna_has_it(point: dict[str, Scalar], space: Space) -> dict[str, Scalar]:
    """Return the point with its values of the types that a suggestion has."""
    found = {}
    for path, value in point.items():
        dimension = space[path]
        inner = dimension.distribution.to_internal_repr(dimension.to_optuna(value))
        found[path] = dimension.from_optuna(dimension.distribution.to_external_repr(inner))
    return found


def check_kinds(space: Space, before: Config) -> None:
    """Raise StudyError where a searched setting has another kind of range, or another list of choices, than in the
    config ``before``: Optuna keeps one of each."""
    old_space = parse(before.space, before)
    known = {dimension.name: dimension.distribution for dimension in old_space.dimensions}
    faults = []
    for dimension in space.dimensions:
        old = known.get(dimension.name)
        if old is None:
            continue
        try:
            check_distribution_compatibility(old, dimension.distribution)
        except ValueError as error:
            faults.append(
                f"space.{dimension.path}: the study's trials were drawn from {old}, now it is "
                f"{dimension.distribution}: {error} Put it back, or start a new study with study.name=..."
            )
    if faults:
        raise StudyError(faults)
