"""What a study will cost, before it is run. Pure arithmetic: config and measured seconds in, Plan out.

The study is played many times on a clock that costs nothing: the real scheduler, the rule by which the
coordinator fills its slots, the real space, and trials whose ranks are drawn at random. That is the
neutral guess: a sampler that learns sends later trials up more often, good first points fewer.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from embsearch.config.schema import Config
from embsearch.search import budget, scheduler
from embsearch.search.scheduler import Standing
from embsearch.search.space import Dimension, Space
from embsearch.values import Decision, Reading, Scalar

Params = Mapping[str, Scalar]

BATCH = "train.batch_size"
# Searched settings that change the price of a step; everything of model.* does too.
DEAR = ("train.precision", "train.chunk_tokens", "train.cache_gradients")
PROBES = 6  # configurations that are timed at most: plan must be quick
DRAWS = 40  # studies played, fewer where they are long
TRIALS_PLAYED = 2_000  # in all draws together
LONG = 200  # of a longer study so many trials are played; the rest cost as much each
TESTED = 3  # the untuned encoder, the default, the best


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
        unread = 1 - self.readings[rung - 1].rows / self.readings[-1].rows if self.readings else 0.0
        return self.measure - unread * self.baseline

    def step(self, params: Params, otherwise: int) -> float:
        """Linear in the batch (``otherwise`` where it is not searched) between the probed ones; other dear
        settings multiply."""
        known = {_size(s.params, otherwise): s.step for s in self.speeds if s.path == BATCH}
        seconds = _line(known, _size(params, otherwise))
        for path in {s.path for s in self.speeds} - {BATCH}:
            ends = {s.params[path]: s.step / self.speeds[0].step for s in self.speeds if s.path == path}
            if path in params:
                seconds *= _line({self.speeds[0].params[path]: 1.0, **ends}, params[path])
        return seconds


@dataclass(frozen=True)
class Machine:
    """What else the probe found. Sizes in bytes; ``free``: of the disk, ``available``: of memory before
    the workers started, 0 where they run on other machines."""

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
    earliest: float  # seconds to the first measurement of a trial: no target is reached before it
    unprobed: tuple[str, ...] = field(default=())  # dear settings that were not timed

    @property
    def final(self) -> float:
        return final(self.costs, self.workers)

    def mean(self, what: Callable[[Draw], float]) -> float:
        return sum(map(what, self.draws)) / len(self.draws)

    def likely(self, what: Callable[[Draw], float]) -> tuple[float, float]:
        """The 10 % and the 90 % quantile."""
        values = [what(draw) for draw in self.draws]
        return float(np.quantile(values, 0.1)), float(np.quantile(values, 0.9))


def points(space: Space, config: Config) -> tuple[list[tuple[str, Params]], list[str]]:
    """What to time, as (the path that differs, the whole point): the default with the smallest batch, its own
    and the largest, then each dear setting at its other ends. And the dear settings for which there is no time."""
    default = space.default(config)
    searched = {d.path: d for d in space.dimensions}
    found: list[tuple[str, Params]] = [(BATCH, default)]
    if BATCH in default:
        found = [(BATCH, default | {BATCH: size}) for size in sorted({*_ends(searched[BATCH]), default[BATCH]})]
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
    """The two of a range or of ordered choices; every choice of others."""
    if isinstance(dimension.distribution, CategoricalDistribution):
        return dimension.values
    return dimension.values[0], dimension.values[-1]


def play(
    config: Config, space: Space, costs: Costs, steps: Callable[[int], int], epoch: tuple[int, int],
    workers: int, seed: int,
) -> Draw:  # fmt: skip
    """One study with ranks drawn from ``seed``. ``steps(batch)``: of a whole trial; ``epoch``: rows, texts."""
    return _Played(config, space, costs, steps, epoch, workers, seed).run()


@dataclass
class _Trial(Standing):
    slot: int | None = None
    batch: int = 0
    step: float = 0.0  # seconds
    stops: list[int] = field(default_factory=list)
    quality: float = 0.0
    done: int = 0  # steps
    repeated: int = 0  # steps of each of its other seeds


class _Played:
    """The coordinator's loop (study.py) without workers, logs and waiting."""

    def __init__(
        self, config: Config, space: Space, costs: Costs, steps: Callable[[int], int], epoch: tuple[int, int],
        workers: int, seed: int,
    ) -> None:  # fmt: skip
        self.config, self.space, self.costs = config, space, costs
        self.steps, self.epoch, self.workers = steps, epoch, workers
        self.rule = scheduler.make(config)
        self.draw = np.random.default_rng(seed)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = optuna.create_study(
            study_name=config.study.name, direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed),
            pruner=getattr(self.rule, "pruner", None) or optuna.pruners.NopPruner(),
        )  # fmt: skip
        for point in (space.default(config), *(space.start(p, config) for p in config.study.defaults)):
            self.study.enqueue_trial(space.to_optuna(point))
        self.board: dict[int, _Trial] = {}
        self.now = 0.0
        self.at: dict[int, int | None] = {}  # slot -> the trial it holds warm, after its first task
        self.texts = self.kept = 0
        self.training = self.measuring = 0.0

    def run(self) -> Draw:
        ends: list[tuple[float, int, int, _Trial | None]] = []
        order, idle, baseline = count(), set(range(self.workers)), False
        while True:
            over = budget.spent(self.config.stop, len(self.board), self.now, None)
            warm = {t.slot for t in self.board.values() if t.state == "waiting"}
            for slot in sorted(idle, key=lambda s: (s not in warm, s)):
                trial = None
                if not baseline:
                    baseline, seconds = True, self._first(slot) + self.costs.baseline
                elif (trial := self._next(over, slot)) is not None:
                    seconds = self._segment(trial, slot)
                else:
                    continue
                idle.discard(slot)
                heapq.heappush(ends, (self.now + seconds, next(order), slot, trial))
            if not ends:
                break
            self.now, _, slot, trial = heapq.heappop(ends)
            idle.add(slot)
            if trial is not None:
                self._measured(trial)
        seconds = self.now + final(self.costs, self.workers)
        rungs = range(1, len(self.config.evaluate.at) + 1)
        reached = tuple(sum(r in t.values for t in self.board.values()) for r in rungs)
        return Draw(seconds + self.costs.command, reached, len(self.board), self.texts, self.kept, self.training,
                    self.measuring, over)  # fmt: skip

    def _next(self, over: str, slot: int) -> _Trial | None:
        waiting = [t for t in self.board.values() if t.state == "waiting"]
        if waiting:
            return min(waiting, key=lambda t: (t.slot != slot, t.number))
        if not budget.cut_short(self.config.stop, self.now, None):
            number = self.rule.next_paused(self.board)
            if number is not None:
                return self.board[number]
        return None if over else self._new()

    def _new(self) -> _Trial:
        asked = self.study.ask()
        params = self.space.suggest(asked)
        batch = _size(params, self.config.train.batch_size)
        steps = self.steps(batch)
        trial = _Trial(
            len(self.board), optuna=asked, params=params, batch=batch, quality=float(self.draw.random()),
            step=self.costs.step(params, batch),
            stops=[max(1, round(steps * share)) for share in self.config.evaluate.at],
        )  # fmt: skip
        self.board[trial.number] = trial
        return trial

    def _segment(self, trial: _Trial, slot: int) -> float:
        """Seconds to the trial's next evaluation."""
        before, trial.done = trial.done, next(s for s in trial.stops if s > trial.done)
        seconds = self._first(slot) if slot not in self.at else 0.0
        if self.at.get(slot) != trial.number:
            seconds += self.costs.resume if before else self.costs.begin
        trial.state, trial.slot = "running", slot
        self.at[slot] = trial.number
        seconds += self._train(trial, before, trial.done)
        rung = sum(s <= trial.done for s in trial.stops)
        if self.config.study.seeds > 1 and rung >= scheduler.repeats_from(self.config):
            for _ in range(self.config.study.seeds - 1):
                seconds += self.costs.resume if trial.repeated else self.costs.begin
                seconds += self._train(trial, trial.repeated, trial.done)
            trial.repeated = trial.done
            self.at[slot] = None  # the trial's own run is not warm any more
        return seconds

    def _train(self, trial: _Trial, before: int, until: int) -> float:
        """Seconds of one run from step to step, with its evaluations."""
        self.texts += self._texts(trial, until) - self._texts(trial, before)
        training = (until - before) * trial.step
        measuring = sum(self.costs.measured(rung) for rung, s in enumerate(trial.stops, 1) if before < s <= until)
        self.training += training
        self.measuring += measuring
        return training + measuring

    def _first(self, slot: int) -> float:
        self.at[slot] = None
        return self.costs.load

    def _texts(self, trial: _Trial, steps: int) -> int:
        return texts_in(steps, trial.batch, *self.epoch)

    def _measured(self, trial: _Trial) -> None:
        rung = sum(s <= trial.done for s in trial.stops)
        trial.values = {**trial.values, rung: rung + trial.quality}  # curves rise, and never cross
        if rung == len(trial.stops):
            self._end(trial, "complete")
        else:
            decision = self.rule.decide(trial, self.board)
            if decision.kind != "stop" and (cut := budget.cut_short(self.config.stop, self.now, None)):
                decision = Decision("stop", cut)
            if decision.kind == "stop":
                self._end(trial, "pruned")
            else:
                trial.state = "waiting" if decision.kind == "continue" else "paused"
        self.kept = max(self.kept, sum(t.state in ("waiting", "paused", "running") for t in self.board.values()))

    def _end(self, trial: _Trial, state: Any) -> None:
        trial.state = state
        if state == "complete":
            self.study.tell(trial.optuna, trial.best)
        else:
            self.study.tell(trial.optuna, state=TrialState.PRUNED)


def make(
    config: Config, space: Space, costs: Costs, steps: Callable[[int], int], epoch: tuple[int, int], workers: int,
    unprobed: Sequence[str] = (),
) -> Plan:  # fmt: skip
    """Play the study and sum up."""
    factor = max(1.0, config.stop.trials / LONG)
    seconds = None if config.stop.seconds is None else config.stop.seconds / factor
    short = replace(config, stop=replace(config.stop, trials=min(config.stop.trials, LONG), seconds=seconds))
    draws = max(5, min(DRAWS, TRIALS_PLAYED // short.stop.trials))
    fixed = costs.command + costs.load + costs.baseline + final(costs, workers)
    played = tuple(
        _longer(play(short, space, costs, steps, epoch, workers, seed), factor, fixed) for seed in range(draws)
    )
    batch = config.train.batch_size
    stops = [max(1, round(steps(batch) * share)) for share in config.evaluate.at]
    sizes = {batch, *(space[BATCH].values if BATCH in {d.path for d in space.dimensions} else ())}
    longest = max(texts_in(steps(size), size, *epoch) for size in sizes)
    first = costs.load + costs.begin + stops[0] * costs.step(space.default(config), batch) + costs.measured(1)
    return Plan(
        played, costs, workers, rungs_of(config), tuple(texts_in(s, batch, *epoch) for s in stops),
        config.stop.trials * longest * config.study.seeds, costs.command + first, tuple(unprobed),
    )  # fmt: skip


def _longer(draw: Draw, factor: float, fixed: float) -> Draw:
    """The draw of a study with ``factor`` times as many trials; ``fixed`` seconds do not grow."""
    if factor == 1:
        return draw
    return Draw(
        fixed + (draw.seconds - fixed) * factor, tuple(round(r * factor) for r in draw.reached),
        round(draw.trials * factor), round(draw.texts * factor), round(draw.kept * factor), draw.training * factor,
        draw.measuring * factor, draw.why,
    )  # fmt: skip


def final(costs: Costs, workers: int) -> float:
    """Seconds of the final test."""
    return costs.test * math.ceil(TESTED / workers)


def rungs_of(config: Config) -> tuple[int, ...]:
    """The evaluations at which the scheduler may hold a trial back."""
    rule = scheduler.make(config)
    if config.scheduler.name == "none":
        return ()
    every = range(config.scheduler.min_rung, len(config.evaluate.at))
    return tuple(getattr(rule, "rungs", every))


def texts_in(steps: int, batch: int, rows: int, texts: int) -> int:
    """The texts that so many steps show; an epoch's last batch may be short."""
    per_epoch = math.ceil(rows / batch)
    epochs, left = divmod(steps, per_epoch)
    return round(epochs * texts + min(left * batch, rows) * texts / rows)


def _size(params: Params, otherwise: int) -> int:
    return int(params.get(BATCH) or otherwise)


def _line(known: Mapping[Any, float], at: Any) -> float:
    """The value at ``at``, on the line through its neighbours among ``known`` numbers; flat beyond them.
    Anything that is no number must be known."""
    if at in known or not all(isinstance(k, (int, float)) and not isinstance(k, bool) for k in [*known, at]):
        return known.get(at, 1.0)
    xs = sorted(known)
    return float(np.interp(at, xs, [known[x] for x in xs]))
