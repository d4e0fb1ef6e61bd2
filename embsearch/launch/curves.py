"""Learning curves that a replay plays: recorded ones, synthetic ones, or a table of numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from embsearch.codec import Json
from embsearch.errors import UserError
from embsearch.values import FailureClass, Measurement, Scalar

Point = tuple[int, dict[str, float]]  # step, what was reported there


@dataclass(frozen=True)
class Curve:
    """One configuration, from its first evaluation to its end.

    ``measurements`` by rung, the last of them ``last``, or else the ``failure`` that ended it, as
    (class, message).
    """

    measurements: tuple[Measurement, ...]
    points: tuple[Point, ...] = ()
    failure: tuple[FailureClass, str] | None = None


class Curves(Protocol):
    """The measurements that every configuration would give."""

    @property
    def untuned(self) -> Mapping[str, float]:
        """Return metrics of the encoder as it was, their names without val/."""

    @property
    def origin(self) -> str:
        """Say where the curves come from, in a few words."""

    def curve(self, trial: int, config: Json) -> Curve:
        """Return the curve of a trial with this config. Raises UserError where there is none."""


@dataclass(frozen=True)
class Table:
    """Numbers as they are: row ``trial`` holds the objective at each evaluation."""

    values: Sequence[Sequence[float]]
    seconds: float = 1.0  # between two evaluations
    untuned: Mapping[str, float] = field(default_factory=lambda: {"auc": 0.5})
    origin: str = "a table of curves"

    def curve(self, trial: int, config: Json) -> Curve:
        times = [self.seconds * n for n in range(1, len(self.values[trial]) + 1)]
        return _curve(self.values[trial], times, config)


@dataclass(frozen=True)
class Synthetic:
    """Curves over any search space: 1 - exp(-t) from below, as fine-tunes rise.

    Where a configuration ends, 0.65 to 0.95, falls with its distance from a point of the space that
    ``seed`` chooses, so a sampler has something to find; how fast it gets there has nothing to do
    with it, so that early places mislead a scheduler. ``noise`` is the standard deviation of one
    measurement, ``trial_seconds`` the (virtual) time a whole trial takes.
    """

    seed: int = 0
    noise: float = 0.005
    trial_seconds: float = 600.0
    untuned: Mapping[str, float] = field(default_factory=lambda: {"auc": 0.6})
    origin: str = "synthetic curves"

    def curve(self, trial: int, config: Json) -> Curve:
        at = config["evaluate"]["at"]
        end, speed = self.ends_at(config), self._speed(config)
        dice = random.Random(f"noise {self.seed} {trial} {config['train']['seed'] or ''}".rstrip())
        # 27 units a trial, as in the simulations that the defaults were chosen by
        values = [
            end - 0.3 * math.exp(-27 * share / speed) + dice.gauss(0, self.noise) for share in at
        ]
        return _curve(values, [self.trial_seconds * share for share in at], config)

    def ends_at(self, config: Json) -> float:
        """Return what the configuration would measure at its end, without noise."""
        away = [
            (place - random.Random(f"best {self.seed} {path}").uniform(0.1, 0.9)) ** 2
            for path, place in places(config).items()
        ]
        return 0.65 + 0.3 * math.exp(-3 * sum(away) / max(len(away), 1))

    def _speed(self, config: Json) -> float:
        dice = random.Random(f"speed {self.seed} {sorted(places(config).items())}")
        return math.exp(dice.uniform(math.log(0.5), math.log(6)))


@dataclass(frozen=True)
class Recorded:
    """A study that ran: a configuration measures what the nearest recorded one did.

    ``configs[i]`` is what ``curves[i]`` was recorded with, by config path; ``at`` the shares of the
    budget at which it was evaluated. A replay may be evaluated at some of them only.
    """

    at: Sequence[float]
    configs: Sequence[Mapping[str, Scalar]]
    curves: Sequence[Curve]
    untuned: Mapping[str, float]
    origin: str

    def curve(self, trial: int, config: Json) -> Curve:
        found = self.curves[self.nearest(config)]
        at = config["evaluate"]["at"]
        if missing := [share for share in at if share not in self.at]:
            raise UserError(
                f"evaluate.at={list(at)}: {self.origin} was evaluated at {list(self.at)}, "
                f"not at {missing}; a replay measures at some or all of them"
            )
        rungs = {self.at.index(share) + 1: rung for rung, share in enumerate(at, 1)}
        kept = [(m, rungs[m.rung]) for m in found.measurements if m.rung in rungs]
        end = found.measurements[-1] if found.measurements else None
        if (
            end is not None and end.last and end.rung not in rungs
        ):  # early, between two that are asked for
            kept.append((end, len(kept) + 1))
        return Curve(tuple(replace(m, rung=rung) for m, rung in kept), found.points, found.failure)

    def nearest(self, config: Json) -> int:
        """Return the number of the nearest recorded configuration, ranges counted from 0 to 1."""
        space = config["space"]
        here = places(config)

        def away(number: int) -> float:
            there = self.configs[number]
            return sum(
                (_place(there[path], space[path]) - here[path]) ** 2
                for path in here
                if path in there
            )

        return min(self._numbers, key=away)

    @cached_property
    def _numbers(self) -> range:
        if not self.configs:
            raise UserError(
                f"launcher.curves: {self.origin} has no trial that ran to its end; "
                "record one with scheduler=none"
            )
        return range(len(self.configs))


def places(config: Json) -> dict[str, float]:
    """Return each searched path with the config's place on it, from 0 to 1."""
    return {path: _place(_at(config, path), spec) for path, spec in sorted(config["space"].items())}


def _place(value: Any, spec: Json) -> float:
    if "choices" in spec:
        choices = list(spec["choices"])
        return choices.index(value) / max(len(choices) - 1, 1) if value in choices else 0.5
    low, high = float(spec["low"]), float(spec["high"])
    if spec.get("log"):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low) if high > low else 0.0


def _at(config: Json, path: str) -> Any:
    node: Any = config
    for part in path.split("."):
        node = node[part]
    return node


def _curve(values: Sequence[float], times: Sequence[float], config: Json) -> Curve:
    """Return numbers as a trial's measurements, with the config's steps and texts."""
    train, metric, at = config["train"], config["evaluate"]["objective"], config["evaluate"]["at"]
    if len(at) != len(values):
        raise UserError(f"evaluate.at={list(at)}: the curves have {len(values)} evaluations")
    steps = max(math.ceil(train["texts"] / (3 * train["batch_size"])), len(at))
    measured, points = [], []
    for rung, (share, value, seconds) in enumerate(zip(at, values, times, strict=True), 1):
        last = rung == len(at)
        step, texts = max(rung, round(share * steps)), round(share * train["texts"])
        why = "budget spent" if last else ""
        metrics = {f"val/{metric}": value}
        measured.append(Measurement(rung, step, texts, metrics, seconds, last, why))
        speed = train["texts"] / times[-1]
        reported = {"train/loss": 1 - value, "train/lr": train["lr"]}
        points.append((step, reported | {"cost/texts_per_second": speed}))
    return Curve(tuple(measured), tuple(points))
