"""Studies played in memory, on a clock that costs nothing: how ``embsearch plan`` knows what one will take.

The policy, the scheduler and the space are the real ones. The values of trials are drawn at random, which is
the neutral guess: a sampler that learns sends later trials up more often, good first points fewer.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import optuna

from embsearch.config.schema import Config
from embsearch.data.dataset import stops_of
from embsearch.history import events
from embsearch.history.state import StudyState
from embsearch.hpo import scheduler
from embsearch.hpo.plan import BATCH, Costs, Draw, Plan, batch_of, final, rungs_of, texts_in
from embsearch.hpo.space import Space
from embsearch.study.actions import (
    BASELINE,
    Action,
    Close,
    Evaluate,
    Log,
    Moment,
    Name,
    Suggest,
    Train,
    Wait,
)
from embsearch.study.policy import LIVE, Policy
from embsearch.values import Measurement, Origin, Scalar, Segment

DRAWS = 40  # studies played, fewer where they are long
TRIALS_PLAYED = 2_000  # in all draws together
LONG = 200  # of a longer study so many trials are played; the rest cost as much each


@dataclass(frozen=True)
class Work:
    """The work of trials. ``steps(batch)``: of a whole trial. ``epoch``: rows and texts of the training rows."""

    space: Space
    costs: Costs
    steps: Callable[[int], int]
    epoch: tuple[int, int]


@dataclass(frozen=True)
class PlayedTrial:
    """A trial that nobody trains. ``quality`` is its value, the same at every evaluation."""

    params: dict[str, Scalar]
    batch: int
    seconds: float  # of a step
    stops: Sequence[int]  # steps at its evaluations
    quality: float


class PlayedStudy:
    """One study with values drawn from ``seed``."""

    def __init__(self, config: Config, work: Work, workers: int, seed: int) -> None:
        self.config, self.work, self.workers = config, work, workers
        # Nobody knows whether values reach the target, so the search is played to its other limits.
        stop = replace(config.stop, target=None)
        self.policy = Policy(replace(config, stop=stop), scheduler.make(config))
        self.state = StudyState(config.evaluate.metric)
        self.trials: dict[int, PlayedTrial] = {}
        self.now = self.training = self.measuring = 0.0
        self.texts = self.kept = 0
        self._seconds: dict[int, float] = defaultdict(float)  # of trials
        self._draw = np.random.default_rng(seed)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._points = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        space = work.space
        for point in (
            space.default(config),
            *(space.start(p, config) for p in config.study.defaults),
        ):
            self._points.enqueue_trial(space.to_optuna(point))
        self._warm: dict[
            int, Segment | None
        ] = {}  # slot -> its last segment; there once its worker has started
        self._idle = set(range(workers))
        self._coming: list[
            tuple[float, int, int, Name, Segment | None]
        ] = []  # when, order, slot, job
        self._order = count()

    def run(self) -> Draw:
        """Play to the end of the search."""
        while True:
            match self._due():
                case Log(event, number):
                    self.state.apply(event, number)
                case Suggest(number):
                    self._create(number)
                case Train(slot, segment, fresh) if not fresh:
                    self._train(slot, segment)
                case Evaluate(slot, "baseline"):
                    seconds = self._start(slot) + self.work.costs.baseline
                    self._give(slot, seconds, BASELINE, None)
                case Wait():
                    self._hear()
                case Evaluate() | Train() | Close():
                    return self._draw_of()

    def _due(self) -> Action:
        given = {name for _, _, _, name, _ in self._coming}
        return self.policy.due(self.state, Moment(self.now, sorted(self._idle), given))

    def _create(self, number: int) -> None:
        params = self.work.space.suggest(self._points.ask())
        batch = batch_of(params, self.config.train.batch_size)
        steps = self.work.steps(batch)
        stops = stops_of(steps, self.config.evaluate.at)
        seconds = self.work.costs.step(params, batch)
        self.trials[number] = PlayedTrial(params, batch, seconds, stops, float(self._draw.random()))
        origin: Origin = "given" if 0 < number <= len(self.config.study.defaults) else ""
        self.state.apply(events.Created(trial=number, params=params, origin=origin), number)

    def _train(self, slot: int, segment: Segment) -> None:
        """Let a slot train a segment: the clock knows how long that takes."""
        number = segment.trial
        self.state.apply(events.Started(segment=segment, slot=slot), number)
        costs, trial = self.work.costs, self.trials[number]
        before = trial.stops[segment.from_checkpoint - 1] if segment.from_checkpoint else 0
        after = trial.stops[segment.until - 1]
        seconds = self._start(slot)
        if not self._is_warm(slot, segment):
            seconds += costs.resume if before else costs.begin
        training = (after - before) * trial.seconds
        measuring = costs.measured(segment.until)
        self.texts += self._texts(trial, after) - self._texts(trial, before)
        self._seconds[number] += training + measuring
        self.training += training
        self.measuring += measuring
        self._warm[slot] = segment
        self._give(slot, seconds + training + measuring, ("train", number, segment.seed), segment)
        self.kept = max(self.kept, sum(self.state.trials.count(state) for state in LIVE))

    def _start(self, slot: int) -> float:
        """Return the seconds until the slot's worker can work."""
        if slot in self._warm:
            return 0.0
        self._warm[slot] = None
        return self.work.costs.load

    def _is_warm(self, slot: int, segment: Segment) -> bool:
        last = self._warm.get(slot)
        return last is not None and (last.trial, last.seed) == (segment.trial, segment.seed)

    def _give(self, slot: int, seconds: float, name: Name, segment: Segment | None) -> None:
        self._idle.discard(slot)
        heapq.heappush(self._coming, (self.now + seconds, next(self._order), slot, name, segment))

    def _hear(self) -> None:
        """Move the clock on to the end of the next job."""
        self.now, _, slot, _, segment = heapq.heappop(self._coming)
        self._idle.add(slot)
        if segment is None:
            self.state.apply(events.Baseline(metrics={}))
            return
        trial, rung = self.trials[segment.trial], segment.until
        last = rung == len(trial.stops)
        steps = trial.stops[rung - 1]
        measurement = Measurement(
            rung=rung,
            step=steps,
            texts_seen=self._texts(trial, steps),
            metrics={
                f"val/{self.state.objective}": rung + trial.quality
            },  # curves rise, and never cross
            seconds=self._seconds[segment.trial],
            last=last,
            why="budget spent" if last else "",
        )
        event = events.evaluated(measurement, segment.seed, self.policy.seeds(rung))
        self.state.apply(event, segment.trial)

    def _texts(self, trial: PlayedTrial, steps: int) -> int:
        return texts_in(steps, trial.batch, *self.work.epoch)

    def _draw_of(self) -> Draw:
        trials = self.state.trials
        rungs = range(1, len(self.config.evaluate.at) + 1)
        return Draw(
            seconds=self.now
            + final(self.config, self.work.costs, self.workers)
            + self.work.costs.command,
            reached=tuple(trials.reached(rung) for rung in rungs),
            trials=len(trials),
            texts=self.texts,
            kept=self.kept,
            training=self.training,
            measuring=self.measuring,
            why=self.policy.over(self.state, self.now),
        )


def make(config: Config, work: Work, workers: int, unprobed: Sequence[str] = ()) -> Plan:
    """Play the study and sum up."""
    factor = max(1.0, config.stop.trials / LONG)
    seconds = None if config.stop.seconds is None else config.stop.seconds / factor
    short = replace(
        config, stop=replace(config.stop, trials=min(config.stop.trials, LONG), seconds=seconds)
    )
    draws = max(5, min(DRAWS, TRIALS_PLAYED // short.stop.trials))
    costs = work.costs
    fixed = costs.command + costs.load + costs.baseline + final(config, costs, workers)
    played = [PlayedStudy(short, work, workers, seed).run() for seed in range(draws)]
    batch = config.train.batch_size
    stops = stops_of(work.steps(batch), config.evaluate.at)
    first = (
        costs.load
        + costs.begin
        + stops[0] * costs.step(work.space.default(config), batch)
        + costs.measured(1)
    )
    return Plan(
        draws=tuple(_longer(draw, factor, fixed) for draw in played),
        costs=costs,
        workers=workers,
        rungs=rungs_of(config),
        texts=tuple(texts_in(steps, batch, *work.epoch) for steps in stops),
        most_texts=config.stop.trials * _longest(config, work) * config.study.seeds,
        final=final(config, costs, workers),
        earliest=costs.command + first,
        unprobed=tuple(unprobed),
    )


def _longest(config: Config, work: Work) -> int:
    """Return the most texts that a trial may see: batches round them."""
    sizes = {config.train.batch_size}
    for dimension in work.space.dimensions:
        if dimension.path == BATCH:
            sizes.update(dimension.values)
    return max(texts_in(work.steps(size), size, *work.epoch) for size in sizes)


def _longer(draw: Draw, factor: float, fixed: float) -> Draw:
    """Return the draw of a study with ``factor`` times as many trials; ``fixed`` seconds do not grow."""
    if factor == 1:
        return draw
    return replace(
        draw,
        seconds=fixed + (draw.seconds - fixed) * factor,
        reached=tuple(round(trials * factor) for trials in draw.reached),
        trials=round(draw.trials * factor),
        texts=round(draw.texts * factor),
        kept=round(draw.kept * factor),
        training=draw.training * factor,
        measuring=draw.measuring * factor,
    )
