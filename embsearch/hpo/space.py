"""The search space: config paths with ranges, checked whole before anything starts.

train.lr:         {low: 1e-5, high: 1e-3, log: true, prior: {around: 2e-4, within: 3}}
train.batch_size: {choices: [16, 32, 64, 128], ordered: true}
objective.margin: {low: 0.05, high: 0.5, when: {objective.name: triplet}}
"""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Union, get_args, get_origin

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from embsearch.codec import Json, JsonObject
from embsearch.config.build import value_at, with_values
from embsearch.config.catalogue import LOSS
from embsearch.config.schema import Config
from embsearch.config.settings import settings_of
from embsearch.errors import ConfigError, did_you_mean
from embsearch.values import Scalar

KEYS = ("low", "high", "log", "step", "choices", "ordered", "when", "prior")


@dataclass(frozen=True)
class Prior:
    """A belief where good values of a number lie: a normal distribution. Of a log range, ``within``
    is a factor: one standard deviation of the logarithm.
    """

    around: float
    within: float

    def log_density(self, value: float, is_log: bool) -> float:
        """Return the logarithm of the density, 0 at its top."""
        if is_log:
            return -0.5 * (math.log(value / self.around) / math.log(self.within)) ** 2
        return -0.5 * ((value - self.around) / self.within) ** 2


@dataclass(frozen=True)
class Dimension:
    """One searched parameter. ``when`` maps searched paths to the values that make it active.

    Optuna 5 has no ordered categories, so ordered choices are asked for by their place: as
    ``log2(train.batch_size)`` from 4 to 7 where they are powers of two in a row, else as
    ``place(train.batch_size)`` from 0. Every sampler then knows near from far.
    """

    path: str
    distribution: BaseDistribution
    ordered: tuple[float, ...] = ()
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    prior: Prior | None = None

    def active(self, params: Mapping[str, Scalar]) -> bool:
        return all(params.get(path) in values for path, values in self.when.items())

    @property
    def name(self) -> str:
        """Return Optuna's name for it."""
        if not self.ordered:
            return self.path
        return f"log2({self.path})" if self._first else f"place({self.path})"

    @property
    def is_choice(self) -> bool:
        """Return whether it has choices, ordered or not, and no range."""
        return bool(self.ordered) or isinstance(self.distribution, CategoricalDistribution)

    @property
    def values(self) -> tuple[Any, ...]:
        """Return the choices, or the two ends of the range."""
        if self.ordered:
            return self.ordered
        if isinstance(self.distribution, CategoricalDistribution):
            return tuple(self.distribution.choices)
        return self.distribution.low, self.distribution.high  # type: ignore[attr-defined]

    @property
    def listed(self) -> Sequence[Scalar] | None:
        """Return every value; None for a range without steps."""
        if self.is_choice:
            return self.values
        low, high = self.values
        step = self.distribution.step  # type: ignore[attr-defined]
        if isinstance(self.distribution, IntDistribution):
            return range(low, high + 1, step)
        if low == high:
            return (low,)
        return [low + i * step for i in range(1 + round((high - low) / step))] if step else None

    @property
    def is_number(self) -> bool:
        """Return whether its values have an order."""
        return not isinstance(self.distribution, CategoricalDistribution)

    @property
    def is_log(self) -> bool:
        """Return whether equal ratios of its values are equal steps."""
        return bool(self._first if self.ordered else self.distribution.log)  # type: ignore[attr-defined]

    def at(self, share: float) -> float:
        """Return the value at a share of the range, on its steps, or of the choices."""
        if self.is_choice:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        low, high = self.values
        if share >= 1:
            return high
        step = self.distribution.step  # type: ignore[attr-defined]
        value = low * (high / low) ** share if self.is_log else low + (high - low) * share
        if step:
            value = low + round((value - low) / step) * step
        return min(value, high)  # not a rounding error above it

    def on_grid(self, points: int) -> Dimension:
        """Return the choices as they are; of a range its ends and what lies evenly between them, on
        its steps, ``points`` values at most.
        """
        if self.is_choice:
            return self
        values = sorted({self.at(i / (points - 1)) for i in range(points)})
        return replace(
            self, distribution=IntDistribution(0, len(values) - 1), ordered=tuple(values)
        )

    def contains(self, value: Scalar) -> bool:
        try:
            return self.distribution._contains(
                self.distribution.to_internal_repr(self.to_optuna(value))
            )
        except (TypeError, ValueError):
            return False

    def nearest(self, value: Scalar) -> Scalar:
        """Return what lies next to a number outside: an end of the range, an ordered choice."""
        if self.contains(value) or not self.is_number or not isinstance(value, (int, float)):
            return value
        if self.ordered:
            return min(self.ordered, key=lambda v: abs(v - value))
        return min(max(value, self.values[0]), self.values[1])

    def to_optuna(self, value: Scalar) -> Scalar:
        return self.ordered.index(value) + self._first if self.ordered else value

    def from_optuna(self, value: Any) -> Scalar:
        return self.ordered[value - self._first] if self.ordered else value

    @property
    def _first(self) -> int:
        return self.distribution.low if self.ordered else 0  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Space:
    """All dimensions, each after those its condition names."""

    dimensions: tuple[Dimension, ...]

    def __getitem__(self, path: str) -> Dimension:
        return next(d for d in self.dimensions if d.path == path)

    def suggest(self, trial: Trial) -> dict[str, Scalar]:
        """Return values of the active parameters. Asking the same trial again gives the same values."""
        params: dict[str, Scalar] = {}
        for dimension in self.dimensions:
            if dimension.active(params):
                value = trial._suggest(dimension.name, dimension.distribution)
                params[dimension.path] = dimension.from_optuna(value)
        return params

    def at(self, shares: Sequence[float]) -> dict[str, Scalar]:
        """Return the point at a share of each dimension; only active parameters."""
        params: dict[str, Scalar] = {}
        for dimension, share in zip(self.dimensions, shares, strict=True):
            if dimension.active(params):
                params[dimension.path] = dimension.at(float(share))
        return params

    def log_prior(self, params: Mapping[str, Scalar]) -> float:
        """Return the logarithm of how likely priors hold a point to be good; 0: the likeliest."""
        logs = 0.0
        for dimension in self.dimensions:
            value = params.get(dimension.path)
            if dimension.prior is not None and isinstance(value, (int, float)):
                logs += dimension.prior.log_density(value, dimension.is_log)
        return logs

    def default(self, config: Config) -> dict[str, Scalar]:
        """Return the point of the config itself: what one would train without a search."""
        return self.fill({}, config)

    def fill(self, point: Mapping[str, Scalar], config: Config) -> dict[str, Scalar]:
        """Return ``point`` with the config's own values where it says nothing; only active parameters."""
        params: dict[str, Scalar] = {}
        for dimension in self.dimensions:
            if dimension.active(params):
                params[dimension.path] = point.get(dimension.path, _own(config, dimension))
        return params

    def start(self, point: Mapping[str, Scalar], config: Config) -> dict[str, Scalar]:
        """Return a point to try first, moved into a space that has been narrowed since it was written."""
        return {path: self[path].nearest(value) for path, value in self.fill(point, config).items()}

    def on_grid(self, points: int) -> Space:
        """Return the space with ``points`` values of each range at most."""
        return Space(tuple(dimension.on_grid(points) for dimension in self.dimensions))

    def size(self) -> float:
        """Return how many points there are; infinity where a range has no steps."""
        asked = {path for dimension in self.dimensions for path in dimension.when}

        def count(left: tuple[Dimension, ...], params: Mapping[str, Scalar]) -> float:
            if not left:
                return 1
            first, below = left[0], left[1:]
            if not first.active(params):
                return count(below, params)
            if first.listed is None:
                return math.inf
            if first.path not in asked:
                return len(first.listed) * count(below, params)
            return sum(count(below, {**params, first.path: value}) for value in first.listed)

        return count(self.dimensions, {})

    def has(self, params: Mapping[str, Scalar]) -> bool:
        """Return whether a point lies in the space, which may have been narrowed since."""
        return all(d.contains(params[d.path]) for d in self.dimensions if d.path in params)

    def to_optuna(self, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return a point by Optuna's names and values."""
        return {d.name: d.to_optuna(params[d.path]) for d in self.dimensions if d.path in params}

    def axes(self, params: Mapping[str, Scalar], config: Config) -> dict[str, Scalar]:
        """Return every searched parameter by its shortest unambiguous name; inactive ones get the
        config's value, so that no trial drops out of a parallel-coordinates plot."""
        return {
            short: params.get(d.path, _own(config, d))
            for d, short in zip(self.dimensions, self.short_names(), strict=True)
        }

    def short_names(self) -> list[str]:
        """Return ``lr`` for ``train.lr``, the whole path where two end alike."""
        paths = [d.path for d in self.dimensions]
        ends = [_short(path) for path in paths]
        names = []
        for path, end in zip(paths, ends, strict=True):
            names.append(end if ends.count(end) == 1 else path)
        return names


def _own(config: Config, dimension: Dimension) -> Scalar:
    """Return the config's value; of ``objective.name=auto``, before the data decide, a loss of the
    space, the usual one where it is there.
    """
    value: Scalar = value_at(config, dimension.path)
    if dimension.path != LOSS or value != "auto":
        return value
    usual = config.objective.loss
    if dimension.contains(usual):
        return usual
    return dimension.values[0]


def _short(path: str) -> str:
    room, _, leaf = path.rpartition(".")
    if leaf in ("name", "path"):
        _, _, leaf = room.rpartition(".")
    return leaf


def parse(raw: Json, config: Config, fitted: bool = True) -> Space:
    """Return the space of ``config.space``. Raises ConfigError with every fault.

    ``fitted`` False: the data have yet to say which losses are searched.
    """
    faults: list[str] = []
    known = settings_of(config)
    found: dict[str, Dimension] = {}
    for path, spec in _under_fixed(raw, config).items():
        if path not in known:
            faults.append(f"space.{path}: no such config path.{did_you_mean(path, known)}")
        elif not known[path].setting.searchable:
            faults.append(
                f"space.{path}: must be equal for all trials, else they cannot be compared; set it instead"
            )
        elif (dimension := _dimension(path, spec, known[path].kind, faults)) is not None:
            found[path] = _with_prior(dimension, spec.get("prior"), config, faults)
    for path, dimension in found.items():
        faults += _condition_faults(path, dimension, found, raw)
    ordered = _order(found, faults)
    space = Space(tuple(ordered))
    if not faults:
        faults += _value_faults(space, config, fitted)
    if faults:
        raise ConfigError(faults)
    return space


def _under_fixed(raw: Json, config: Config) -> JsonObject:
    """Return the space without conditions on settings that are not searched: a dimension that the
    setting's value allows is searched always, another one never.
    """
    known = settings_of(config)
    kept: JsonObject = {}
    for path, spec in raw.items():
        when: Json = {}
        if isinstance(spec, Mapping):
            when = spec.get("when") or {}
        fixed = {on for on in when if on in known and on not in raw}
        if not fixed:
            kept[path] = spec
        elif all(value_at(config, on) in _values(when[on]) for on in fixed):
            left = {on: values for on, values in when.items() if on not in fixed}
            kept[path] = {**spec, "when": left}
    return kept


def _values(allowed: Any) -> Sequence[Scalar]:
    """Return the values that a condition allows: one, or several of a list."""
    return allowed if isinstance(allowed, (list, tuple)) else (allowed,)


def _dimension(path: str, spec: object, kind: object, faults: list[str]) -> Dimension | None:
    at = f"space.{path}"
    if not isinstance(spec, Mapping):
        faults.append(f"{at}={spec!r}: expected {{low, high, log, step}} or {{choices, ordered}}")
        return None
    wrong = [k for k in spec if k not in KEYS]
    if wrong:
        faults += [
            f"{at}.{k}: no such key.{did_you_mean(k, KEYS)} Known: {', '.join(KEYS)}" for k in wrong
        ]
        return None
    when = {p: tuple(_values(v)) for p, v in (spec.get("when") or {}).items()}
    if "choices" in spec:
        choices = spec["choices"]
        if not isinstance(choices, (list, tuple)) or not choices:
            faults.append(f"{at}.choices={choices!r}: expected a list of at least one value")
            return None
        odd = [c for c in choices if not isinstance(c, (str, int, float, bool, type(None)))]
        if odd:
            faults.append(
                f"{at}.choices: expected numbers, words, true, false or null, got {odd[0]!r}"
            )
            return None
        if len(set(choices)) < len(choices):
            faults.append(f"{at}.choices={choices!r}: a value stands twice")
        if spec.get("ordered") and not all(isinstance(c, (int, float)) for c in choices):
            faults.append(f"{at}.ordered: only numbers have an order, got {choices!r}")
            return None
        values = [float(c) if _is(kind, float) and isinstance(c, int) else c for c in choices]
        if spec.get("ordered"):
            ordered = tuple(sorted(values))
            first = _power_of_two(ordered)
            return Dimension(path, IntDistribution(first, first + len(ordered) - 1), ordered, when)
        return Dimension(path, CategoricalDistribution(values), (), when)
    distribution = _range(at, spec, kind, faults)
    return None if distribution is None else Dimension(path, distribution, (), when)


def _with_prior(dimension: Dimension, said: object, config: Config, faults: list[str]) -> Dimension:
    """Return the dimension with the prior that its entry says."""
    if said is None:
        return dimension
    at = f"space.{dimension.path}.prior"
    try:
        if not isinstance(said, Mapping):
            raise TypeError
        prior = Prior(**{key: float(value) for key, value in said.items()})
    except (TypeError, ValueError):
        faults.append(f"{at}={said!r}: expected {{around: a number, within: a number}}")
        return dimension
    least = 1 if dimension.is_number and dimension.is_log else 0
    if not dimension.is_number:
        faults.append(f"{at}: is of numbers, and these choices have no order")
    elif not dimension.values[0] <= prior.around <= dimension.values[-1]:
        faults.append(f"{at}.around={prior.around:g}: is outside {_range_words(dimension)}")
    elif prior.within <= least:
        kind = "a factor, of a log range" if least else "a distance"
        faults.append(f"{at}.within={prior.within:g}: expected {kind}, above {least}")
    elif config.sampler.name != "gp":
        faults.append(f"{at}: sampler={config.sampler.name} knows no priors; use sampler=gp")
    return replace(dimension, prior=prior)


def _power_of_two(values: Sequence[float]) -> int:
    """Return the exponent of the first value where all are powers of two in a row, else 0."""
    first = math.log2(values[0]) if values[0] > 1 else 0.0
    in_a_row = first.is_integer() and all(v == 2 ** (first + i) for i, v in enumerate(values))
    return int(first) if in_a_row else 0


def _range(at: str, spec: Json, kind: object, faults: list[str]) -> BaseDistribution | None:
    if not (_is(kind, int) or _is(kind, float)):
        faults.append(f"{at}: not a number, so it needs choices: [...], got {dict(spec)!r}")
        return None
    try:
        low, high = float(spec["low"]), float(spec["high"])
        step = None if spec.get("step") is None else float(spec["step"])
    except (KeyError, TypeError, ValueError):
        faults.append(f"{at}={dict(spec)!r}: expected two numbers, low and high, or choices: [...]")
        return None
    log = bool(spec.get("log"))
    wrong = [
        (not (math.isfinite(low) and math.isfinite(high)), "low and high must be finite"),
        (low > high, f"the range is empty: low {low:g} is above high {high:g}"),
        (
            log and low <= 0,
            f"a log range starts above 0, got low {low:g}; use a small number or log: false",
        ),
        (log and step is not None, "log and step exclude each other"),
        (step is not None and step <= 0, f"step must be above 0, got {step}"),
        (
            _is(kind, int) and not (low.is_integer() and high.is_integer()),
            "a whole number needs whole low and high",
        ),
        (
            _is(kind, int) and step is not None and not step.is_integer(),
            f"a whole number needs a whole step, got {step}",
        ),
    ]
    mine = [f"{at}: {message}" for holds, message in wrong if holds]
    faults += mine
    if mine:
        return None
    if _is(kind, int):
        whole = int(step or 1)
        return IntDistribution(
            int(low), int(high) - (int(high) - int(low)) % whole, log=log, step=whole
        )
    with (
        warnings.catch_warnings()
    ):  # a range that does not end on a step ends on the last step in it
        warnings.simplefilter("ignore")
        return FloatDistribution(low, high, log=log, step=step)


def _condition_faults(
    path: str, dimension: Dimension, found: Mapping[str, Dimension], raw: Json
) -> list[str]:
    faults = []
    for on, values in dimension.when.items():
        at = f"space.{path}.when.{on}"
        if on not in raw:
            faults.append(
                f"{at}: a condition names a searched parameter.{did_you_mean(on, found)} Searched: {', '.join(raw)}"
            )
        elif on in found and isinstance(found[on].distribution, FloatDistribution):
            faults.append(f"{at}: a condition needs a parameter with choices, {on} is a range")
        elif on in found:
            never = [v for v in values if not found[on].contains(v)]
            faults += [
                f"{at}={v!r}: never true, {on} is one of {_range_words(found[on])}" for v in never
            ]
    return faults


def _order(found: Mapping[str, Dimension], faults: list[str]) -> list[Dimension]:
    """Return the dimensions, those that conditions name first. A circle is a fault."""
    ordered: list[Dimension] = []
    left = dict(found)
    while left:
        placed = {d.path for d in ordered}
        ready = [d for d in left.values() if all(on in placed or on not in found for on in d.when)]
        if not ready:
            faults.append(f"space: the conditions of {', '.join(left)} form a circle")
            break
        ordered += ready
        for dimension in ready:
            del left[dimension.path]
    return ordered


def _value_faults(space: Space, config: Config, fitted: bool) -> list[str]:
    """Return what is wrong with values: of the config's own point, of points tried first, of ends."""
    faults = []
    for path, value in space.default(config).items():
        dimension = space[path]
        if not dimension.contains(value) and (fitted or path != LOSS):
            faults.append(
                f"space.{path}: the default {path}={value!r} is outside {_range_words(dimension)}; "
                f"widen the space or set {path}"
            )
    for dimension in space.dimensions:
        for end in dimension.values:
            reached = {on: values[0] for on, values in dimension.when.items()}
            try:
                with_values(config, reached | {dimension.path: end})
            except ConfigError as error:
                faults += [
                    f"space.{dimension.path}: {fault}"
                    for fault in error.faults
                    if dimension.path in fault
                ]
    paths, steps = {d.path for d in space.dimensions}, config.train.warmup_steps
    if "train.warmup" in paths and (steps is not None or "train.warmup_steps" in paths):
        faults.append(
            f"space.train.warmup: train.warmup_steps={steps}, or a range of it, overrides the "
            "share; drop one of the two: '~space.train.warmup', or train.warmup_steps=null"
        )
    adapters = config.model.adapter == "lora" or "model.adapter" in paths
    faults += [
        f"space.{path}: nothing reads it with model.adapter=none; set model.adapter=lora"
        for path in sorted(paths)
        if path.startswith("model.lora.") and not adapters
    ]
    for number, point in enumerate(config.study.defaults):
        faults += _point_faults(f"study.defaults[{number}]", point, space, config)
    return faults


def _point_faults(at: str, point: Json, space: Space, config: Config) -> list[str]:
    searched = [d.path for d in space.dimensions]
    faults = [
        f"{at}: {path} is not searched.{did_you_mean(path, searched)} Searched: {', '.join(searched) or 'nothing'}"
        for path in point
        if path not in searched
    ]
    for path, value in space.fill(point, config).items():
        if not space[path].contains(space[path].nearest(value)):
            whose = ""
            if path not in point:
                whose = " (the config's own, the point does not say)"
            faults.append(f"{at}: {path}={value!r}{whose} is outside {_range_words(space[path])}")
    return faults


def _range_words(dimension: Dimension) -> str:
    if dimension.is_choice:
        return f"the choices {list(dimension.values)}"
    low, high = dimension.values
    step = dimension.distribution.step  # type: ignore[attr-defined]
    words = f"{low:g} ... {high:g}"
    if step and step != 1:
        words += f" in steps of {step:g}"
    return words


def _is(kind: object, of: type) -> bool:
    """Return True for a declared type that is ``of`` or ``of | None``."""
    if get_origin(kind) in (Union, types.UnionType):
        return of in get_args(kind)
    return kind is of
