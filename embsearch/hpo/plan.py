"""The plan of a study: its cost on a machine, by seconds that were measured there. study/play.py makes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution

from embsearch.config.schema import Config
from embsearch.hpo import scheduler
from embsearch.hpo.space import Dimension, Space
from embsearch.values import Reading, Scalar

Params = Mapping[str, Scalar]

BATCH = "train.batch_size"
# Searched settings that change the price of a step; everything of model.* does too.
DEAR = ("train.precision", "train.chunk_tokens", "train.cache_gradients")
PROBES = 6  # configurations that are timed at most: plan must be quick


@dataclass(frozen=True)
class Speed:
    """One probe: seconds a step of ``params``, which differ from the default in ``path`` alone."""

    params: Params
    step: float
    path: str = BATCH


@dataclass(frozen=True)
class Costs:
    """Seconds on this machine with every slot at work.

    ``command``: until the study opens. ``load``: a worker's start, with encoder and data, once a slot.
    ``begin``: a trial's optimizer and the like. ``resume``: a trial from its checkpoint. ``baseline``: the
    untuned encoder on the validation rows. ``measure``: that for a trial, and saving it. ``test``: a model on
    the test rows. ``speeds``: the first is the default with the smallest batch. ``readings``: what each evaluation
    reads; empty where all read all rows.
    """

    command: float
    load: float
    begin: float
    resume: float
    baseline: float
    measure: float
    test: float
    speeds: tuple[Speed, ...]
    readings: tuple[Reading, ...] = ()

    def measured(self, rung: int) -> float:
        """Seconds of an evaluation and saving: what rows that are not read would take is the encoder's time alone."""
        unread = 0.0
        if self.readings:
            unread = 1 - self.readings[rung - 1].rows / self.readings[-1].rows
        return self.measure - unread * self.baseline

    def step(self, params: Params, otherwise: int) -> float:
        """Linear in the batch (``otherwise`` where it is not searched) between the probed ones; other dear
        settings multiply."""
        known = {batch_of(s.params, otherwise): s.step for s in self.speeds if s.path == BATCH}
        seconds = _line(known, batch_of(params, otherwise))
        for path in {s.path for s in self.speeds} - {BATCH}:
            ends = {
                s.params[path]: s.step / self.speeds[0].step for s in self.speeds if s.path == path
            }
            if path in params:
                seconds *= _line({self.speeds[0].params[path]: 1.0, **ends}, params[path])
        return seconds


@dataclass(frozen=True)
class Machine:
    """Further findings of the probe. Sizes in bytes; ``free``: of the disk, ``available``: of
    memory before the workers started, 0 where they run on other machines.
    """

    compute: str
    workers: int
    batch: int  # the largest
    texts: int  # of its longest batch, and so on
    distinct: int
    tokens: int
    chunks: int
    cached: int  # chunks whose gradients are
    halved: bool
    peak: int  # a worker's
    available: int
    checkpoint: int
    model: int
    free: int
    gpu: int = 0  # a worker's
    gpu_total: int = 0
    per_gpu: int = 1

    @property
    def fits(self) -> bool:
        memory = not self.available or self.peak * self.workers <= self.available
        return memory and self.gpu * self.per_gpu <= self.gpu_total


@dataclass(frozen=True)
class Draw:
    """One study that was played. ``reached``: how many trials were measured at each evaluation;
    ``kept``: the most trials that lay on disk unfinished, with a checkpoint."""

    seconds: float
    reached: tuple[int, ...]
    trials: int
    texts: int
    kept: int
    training: float
    measuring: float
    why: str


@dataclass(frozen=True)
class Plan:
    """The answer, and what it was worked out from. A range holds 80 % of the draws."""

    draws: tuple[Draw, ...]
    costs: Costs
    workers: int
    rungs: tuple[int, ...]  # evaluations at which the scheduler may hold a trial back
    texts: tuple[int, ...]  # a trial's texts at each evaluation
    most_texts: int  # when no trial is held back
    final: float  # seconds of the final test
    earliest: float  # seconds to the first measurement of a trial: no target is reached before it
    unprobed: tuple[str, ...] = ()  # dear settings that were not timed

    def mean(self, what: Callable[[Draw], float]) -> float:
        return sum(map(what, self.draws)) / len(self.draws)

    def likely(self, what: Callable[[Draw], float]) -> tuple[float, float]:
        """Return the 10 % and the 90 % quantile."""
        values = [what(draw) for draw in self.draws]
        return float(np.quantile(values, 0.1)), float(np.quantile(values, 0.9))


def points(space: Space, config: Config) -> tuple[list[tuple[str, Params]], list[str]]:
    """Return what to time, as (the path that differs, the whole point): the default with the
    smallest batch, its own and the largest, then each dear setting at its other ends. And the dear
    settings for which there is no time.
    """
    default = space.default(config)
    searched = {d.path: d for d in space.dimensions}
    found: list[tuple[str, Params]] = [(BATCH, default)]
    if BATCH in default:
        found = [
            (BATCH, default | {BATCH: size})
            for size in sorted({*_ends(searched[BATCH]), default[BATCH]})
        ]
    smallest = {**found[0][1]}
    left = []
    for path, dimension in searched.items():
        if not (path.startswith("model.") or path in DEAR):
            continue
        ends = [v for v in _ends(dimension) if v != default.get(path)]
        if path not in default or len(found) + len(ends) > PROBES:
            left.append(path)
            continue
        found += [(path, smallest | {path: value}) for value in ends]
    return found, left


def _ends(dimension: Dimension) -> Sequence[Any]:
    """Return the two of a range or of ordered choices; every choice of others."""
    if isinstance(dimension.distribution, CategoricalDistribution):
        return dimension.values
    return dimension.values[0], dimension.values[-1]


def final(config: Config, costs: Costs, workers: int) -> float:
    """Return the seconds of the final test: of the untuned encoder, the default, each given point, the best."""
    models = 3 + len(config.study.defaults)
    return costs.test * math.ceil(models / workers)


def rungs_of(config: Config) -> tuple[int, ...]:
    """Return the evaluations at which the scheduler may hold a trial back."""
    rule = scheduler.make(config)
    if config.scheduler.name == "none":
        return ()
    every = range(config.scheduler.min_rung, len(config.evaluate.at))
    return tuple(getattr(rule, "rungs", every))


def texts_in(steps: int, batch: int, rows: int, texts: int) -> int:
    """Return the texts that so many steps show; an epoch's last batch may be short."""
    per_epoch = math.ceil(rows / batch)
    epochs, left = divmod(steps, per_epoch)
    return round(epochs * texts + min(left * batch, rows) * texts / rows)


def batch_of(params: Params, otherwise: int) -> int:
    """Return the batch size of a point; ``otherwise`` where it is not searched."""
    return int(params.get(BATCH) or otherwise)


def _line(known: Mapping[Any, float], at: Any) -> float:
    """Return the value at ``at``, on the line through its neighbours among ``known`` numbers; flat
    beyond them. Anything that is no number must be known.
    """
    if at in known or not all(
        isinstance(k, (int, float)) and not isinstance(k, bool) for k in [*known, at]
    ):
        return known.get(at, 1.0)
    xs = sorted(known)
    return float(np.interp(at, xs, [known[x] for x in xs]))
