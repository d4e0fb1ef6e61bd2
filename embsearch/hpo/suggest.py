"""Suggestions: what the sampler wants tried next, by the trials of the board alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import count

from optuna.distributions import check_distribution_compatibility
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from embsearch.config.schema import Config, SamplerName
from embsearch.errors import StudyError
from embsearch.history.folder import StudyFolder
from embsearch.hpo import sampler_history
from embsearch.hpo.earlier import told_by
from embsearch.hpo.gaussian import MANY, ExpectedImprovement, surrogate_of
from embsearch.hpo.memory_study import memory_study
from embsearch.hpo.parego import Scalarised, log_costs
from embsearch.hpo.sampler import GRID_POINTS, make, seed_of
from embsearch.hpo.scheduler import Scheduler, Trials
from embsearch.hpo.space import Space, parse
from embsearch.hpo.surrogate import Told, in_values
from embsearch.values import EarlierStudy, Scalar, Suggestion

STATEFUL = "cmaes"  # it keeps its state in Optuna's trials, and learns from those alone
Key = frozenset[tuple[str, Scalar]]  # of a point
ASKS = 5  # of a sampler that comes to what was tried; then chance is asked


class Suggester:
    """The sampler of one study. No configuration is suggested twice."""

    def __init__(
        self,
        config: Config,
        space: Space,
        scheduler: Scheduler,
        like: Iterable[EarlierStudy] = (),
    ) -> None:
        self._config, self._space, self._scheduler = config, space, scheduler
        self._like = like  # studies that it begins with
        self._default, *self._given = first_points(config, space)
        self._drawn = drawn_from(config, space)
        self._kept: sampler_history.Kept = {}
        self._tried: dict[int, Key] = {}  # by trial: points stay as they are

    def suggest(self, number: int, trials: Trials) -> Suggestion:
        """Return trial ``number``: a given point that was not tried yet, or what the sampler suggests.

        There is one where ``untried`` counts any.
        """
        if number == 0:
            return Suggestion(number, self._default)
        more = trials.keys() - self._tried.keys()
        self._tried |= {number: _key(trials[number].params) for number in more}
        tried = set(self._tried.values())
        self._given = [point for point in self._given if _key(point) not in tried]
        if self._given:
            return Suggestion(number, self._given[0], origin="given")
        name = self._method(number)
        known = self._known(name, trials)
        by_gp = self._by_gp(trials) if name == "gp" else None
        asked = (self._ask(number, again, name, known, by_gp) for again in count())
        found = next(suggestion for suggestion in asked if _key(suggestion.params) not in tried)
        values = [trial.best for trial in trials.values() if trial.best is not None]
        return replace(found, gain=in_values(found.gain, values)) if values else found

    def _method(self, number: int) -> SamplerName:
        """Return the name of the sampler that is asked for trial ``number``."""
        config = self._config.sampler
        if config.name != "gp":
            return config.name
        if number <= config.startup_trials:
            return "random"
        return "gp" if number <= MANY else "tpe"

    def _ask(
        self,
        number: int,
        again: int,
        name: SamplerName,
        known: Sequence[FrozenTrial],
        by_gp: Callable[[int], BaseSampler] | None,
    ) -> Suggestion:
        config = replace(self._config.sampler, name=name if again < ASKS else "random")
        if by_gp is not None and again < ASKS:
            sampler = by_gp(seed_of(config, number, again))
        else:
            sampler = make(config, self._drawn, number, again)
        study = memory_study(known, number, self._config.study.name, sampler)
        params = self._drawn.suggest(study.ask())
        attributes = dict(study.get_trials(deepcopy=False)[-1].system_attrs)
        gain = sampler.gain if isinstance(sampler, ExpectedImprovement) else math.inf
        return Suggestion(number, params, attributes if name == STATEFUL else {}, gain=gain)

    @cached_property
    def _told(self) -> Told:
        return told_by(self._space, self._config, self._like)

    def _by_gp(self, trials: Trials) -> Callable[[int], BaseSampler]:
        """Return what makes the sampler with a seed, by what the trials measured."""
        found = surrogate_of(trials, self._space, self._config, self._told)
        tried = [self._space.fill(trial.params, self._config) for trial in trials.values()]
        costs = log_costs(trials, self._space, self._config)
        return lambda seed: ExpectedImprovement(
            seed, self._drawn, Scalarised(found, costs, seed) if costs else found, tried
        )

    def _known(self, name: str, trials: Trials) -> list[FrozenTrial]:
        """Return what one of Optuna's samplers learns from."""
        at = self._config.evaluate.at
        if name == "tpe":
            return sampler_history.ranked(trials, self._space, self._scheduler, at, self._kept)
        if name == STATEFUL:
            return sampler_history.told(trials, self._space, at, self._kept)
        return []


def first_points(config: Config, space: Space) -> list[dict[str, Scalar]]:
    """Return the config's own point and those of ``study.defaults``."""
    starts = [space.start(point, config) for point in config.study.defaults]
    return [_as_optuna_has_it(point, space) for point in (space.default(config), *starts)]


def drawn_from(config: Config, space: Space) -> Space:
    """Return the space that the sampler draws from: that of a grid has few values of each range."""
    return space.on_grid(GRID_POINTS) if config.sampler.name == "grid" else space


def untried(config: Config, space: Space, trials: Trials) -> float:
    """Return how many configurations can still be tried; infinity where a range has no steps."""
    drawn = drawn_from(config, space)
    tried = [trial.params for trial in trials.values()]
    beside = [point for point in (*first_points(config, space), *tried) if not drawn.has(point)]
    return drawn.size() + len(set(map(_key, beside))) - len(set(map(_key, tried)))


def limited(config: Config, space: Space, folder: StudyFolder) -> tuple[Config, list[str]]:
    """Return the config with no more trials than there are configurations, and a line if so."""
    if drawn_from(config, space).size() == math.inf:
        return config, []  # without reading the logs
    trials = folder.state().trials
    most = len(trials) + int(untried(config, space, trials))
    asked = config.stop.trials
    if asked <= most:
        return config, []
    note = f"every configuration of the space is tried once: {most} trials instead of {asked}"
    return replace(config, stop=replace(config.stop, trials=most)), [note]


def _key(params: Mapping[str, Scalar]) -> Key:
    return frozenset(params.items())


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
