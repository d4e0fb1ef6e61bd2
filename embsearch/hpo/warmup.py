"""Warm-ups that are given in steps, held against the steps that trials have.

A share of the steps (``train.warmup``) ends by the first evaluation, whatever it is; steps do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from embsearch.config.schema import Config
from embsearch.data.dataset import stops_of
from embsearch.errors import ConfigError
from embsearch.hpo.memory_study import memory_study
from embsearch.hpo.plan import BATCH, Params, batch_of
from embsearch.hpo.space import Space

STEPS = "train.warmup_steps"
DRAWS = 1000  # a share of them is known to 3 %


@dataclass(frozen=True)
class Warmups:
    """The warm-ups of a study. ``steps(batch)``: of a whole trial."""

    config: Config
    space: Space
    steps: Callable[[int], int]

    def check(self) -> None:
        """Raise ConfigError where a point to try first, or the whole range, outlasts the trial."""
        config, space = self.config, self.space
        faults = self._faults("", space.default(config))
        for number, point in enumerate(config.study.defaults):
            faults += self._faults(f"study.defaults[{number}]: ", space.start(point, config))
        searched = {one.path: one.values for one in space.dimensions if one.path in (STEPS, BATCH)}
        if None not in searched.get(STEPS, (None,)):
            lowest = {path: min(values) for path, values in searched.items()}
            faults += self._faults(f"space.{STEPS}: ", lowest)
        if faults:
            raise ConfigError(faults)

    def line(self) -> str:
        """Return how many draws warm up for too long, in words; empty where none does."""
        searched = any(one.path == STEPS for one in self.space.dimensions)
        if not searched and self.config.train.warmup_steps is None:
            return ""
        study = memory_study((), 0, "draws")
        beyond = [self._beyond(self.space.suggest(study.ask())) for _ in range(DRAWS)]
        late, never = (round(100 * sum(each) / DRAWS) for each in zip(*beyond, strict=True))
        if not (never or (late and searched)):
            return ""
        return (
            f"the warm-up outlasts the first evaluation in {late} % of the draws, the whole "
            f"trial in {never} % (they cannot train at their rate); search train.warmup, a share, "
            f"in place of {STEPS}, or give fewer steps"
        )

    def _faults(self, at: str, point: Params) -> list[str]:
        warmup, batch, steps = self._of(point)
        if warmup <= steps:
            return []
        texts = self.config.train.texts
        return [
            f"{at}{STEPS}={warmup}: a trial has {steps} steps (train.texts={texts}, "
            f"{BATCH}={batch}), so its rate would never reach train.lr; give at most {steps}, or "
            f"drop {STEPS}: train.warmup is a share of the steps"
        ]

    def _beyond(self, point: Params) -> tuple[bool, bool]:
        """Return whether the warm-up outlasts the first evaluation, and the trial."""
        warmup, _, steps = self._of(point)
        return warmup > stops_of(steps, self.config.evaluate.at)[0], warmup > steps

    def _of(self, point: Params) -> tuple[int, int, int]:
        """Return the warm-up in steps (0: a share), the batch size and the steps of a trial."""
        batch = batch_of(point, self.config.train.batch_size)
        warmup = point.get(STEPS, self.config.train.warmup_steps)
        return int(warmup or 0), batch, self.steps(batch)
