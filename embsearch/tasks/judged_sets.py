"""The rows of several sets of data, and how one model is judged by all of them.

The primary metric is the weighted mean of the sets' own; what a set scores is kept under its name,
``products/auc``. An answer has two columns, the second NaN where the set's task gives one.
Shapes: M rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from embsearch.config.schema import Config, EvaluateConfig
from embsearch.data.dataset import Ids, Rows
from embsearch.data.pairs import Keys
from embsearch.data.several import SeveralData, SeveralRows
from embsearch.errors import ConfigError
from embsearch.evaluate.auc import Vectors
from embsearch.evaluate.bootstrap import mean_of
from embsearch.evaluate.examine import Examined
from embsearch.tasks.base import Answers, AnyTask, Groups, Metric, Scores, Task
from embsearch.values import Interval

T = TypeVar("T")
MEAN = "mean"
Part = tuple[str, AnyTask, Rows, slice]  # a set, its task, its rows, and their place among all


class JudgedBySets(Task[SeveralData, SeveralRows]):
    """A task that is made of the tasks of sets of data, as far as models are judged."""

    no_secondary = "no set has rows"

    def __init__(self, config: Config, tasks: Mapping[str, AnyTask]) -> None:
        sets = config.data.sets
        self.tasks = tasks
        self.weights = {name: one.weight for name, one in sets.items()}
        self.shares = [one.share for one in sets.values()]
        kinds = {name: task.kind for name, task in tasks.items()}
        if len(set(kinds.values())) > 1:
            raise ConfigError(f"data.sets: items of one kind in one study, not of {kinds}")
        self.kind = next(iter(kinds.values()))  # type: ignore[misc]  # that of its tasks
        parts = [f"{task.primary.label} ({self._weighted(n)})" for n, task in tasks.items()]
        *before, words = parts
        if before:
            words = f"{', '.join(before)} and {words}"
        self.primary = Metric(MEAN, "mean of sets", f"the mean of {words}")
        own = {_of(name, task.primary.name): (name, task) for name, task in tasks.items()}
        self.secondary = {k: f"{name}: {task.primary.label}" for k, (name, task) in own.items()}
        self.columns = tuple(self.secondary.values())  # type: ignore[misc]
        every = [_of(name, one) for name, task in tasks.items() for one in task.objectives]
        self.objectives = (MEAN, *every)  # type: ignore[misc]

    def _weighted(self, name: str) -> str:
        alike = len(set(self.weights.values())) == 1
        if alike:
            return name
        return f"{name}, weight {self.weights[name]:g}"

    # rows to judge by

    def rows(self, data: SeveralData, split: str, most: int = 0) -> SeveralRows:
        each = max(1, most // len(self.tasks)) if most else 0
        return self._rows_of(data.rows(split), lambda n, t, _: t.rows(data.sets[n], split, each))

    def sample(self, rows: SeveralRows, groups: int) -> SeveralRows:
        share = groups / self.groups(rows).count
        return self._rows_of(
            rows, lambda _, task, own: task.sample(own, math.ceil(share * task.groups(own).count))
        )

    def select(self, rows: SeveralRows, kept_M: NDArray[np.bool_]) -> SeveralRows:
        at = dict(rows.places)
        return self._rows_of(
            rows, lambda n, task, own: task.select(own, kept_M[at[n]]) if n in at else own
        )

    def _rows_of(
        self, rows: SeveralRows, work: Callable[[str, AnyTask, Rows], Rows]
    ) -> SeveralRows:
        return replace(rows, sets={n: work(n, self.tasks[n], own) for n, own in rows.sets.items()})

    def _parts(self, rows: SeveralRows) -> Iterator[Part]:
        for name, at in rows.places:
            yield name, self.tasks[name], rows.sets[name], at

    def items(self, rows: SeveralRows) -> Ids:
        found = [task.items(own) + rows.first[name] for name, task, own, _ in self._parts(rows)]
        return np.concatenate(found).astype(np.int32)

    def lacking(self, rows: SeveralRows) -> str:
        lacks = {name: self.tasks[name].lacking(own) for name, own in rows.sets.items()}
        return ", ".join(f"{what} of {name}" for name, what in lacks.items() if what)

    def groups(self, rows: SeveralRows) -> Groups:
        every = [task.groups(own) for _, task, own, _ in self._parts(rows)]
        names = dict.fromkeys(one.name for one in every)
        return Groups(sum(one.count for one in every), " and ".join(names))

    def describe(self, rows: SeveralRows) -> str:
        every = [f"{task.describe(own)} ({name})" for name, task, own, _ in self._parts(rows)]
        return " and ".join(every)

    def segments(self, rows: SeveralRows) -> dict[str, NDArray[np.bool_]]:
        found = {}
        for name, task, own, at in self._parts(rows):
            for segment, here in task.segments(own).items():
                found[_of(name, segment)] = np.zeros(len(rows), dtype=bool)
                found[_of(name, segment)][at] = here
        return found

    def row_lines(self, data: SeveralData, rows: SeveralRows) -> Iterator[str]:
        for name, task, own, _ in self._parts(rows):
            for line in task.row_lines(data.sets[name], own):
                yield f"{name}\0{line}"

    def training_keys(self, data: SeveralData) -> Keys:
        """Return the training rows of all sets: one set's are no test rows of another."""
        every = [task.training_keys(data.sets[name]) for name, task in self.tasks.items()]
        return np.unique(np.concatenate(every))

    def row_keys(self, data: SeveralData, rows: SeveralRows) -> Keys | None:
        every = [task.row_keys(data.sets[name], own) for name, task, own, _ in self._parts(rows)]
        known = [keys for keys in every if keys is not None]
        if len(known) < len(every):
            return None
        return np.concatenate(known)

    # judging

    def answers(self, rows: SeveralRows, ids_T: Ids, vectors_TE: Vectors) -> Answers:
        found = np.full((len(rows), 2), np.nan, dtype=np.float32)
        for name, task, own, at in self._parts(rows):
            answers = task.answers(own, *_own_vectors(rows, name, ids_T, vectors_TE))
            width = 1 if answers.ndim == 1 else 2
            found[at, :width] = answers.reshape(len(own), -1)
        return found

    def cosines(self, answers: Answers) -> Answers:
        return answers[:, 0]

    def metrics(self, rows: SeveralRows, answers: Answers) -> dict[str, float]:
        return self._with_mean(
            {n: task.metrics(own, _own(answers[at])) for n, task, own, at in self._parts(rows)}
        )

    def measured(
        self, rows: SeveralRows, ids_T: Ids, vectors_TE: Vectors, config: EvaluateConfig
    ) -> dict[str, float]:
        return self._with_mean(
            {
                name: task.measured(own, *_own_vectors(rows, name, ids_T, vectors_TE), config)
                for name, task, own, _ in self._parts(rows)
            }
        )

    def _with_mean(self, by_set: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Return the metrics of every set by its name, and the mean of the primary ones."""
        own = [found[self.tasks[name].primary.name] for name, found in by_set.items()]
        mean = float(np.average(own, weights=[self.weights[name] for name in by_set]))
        every = {_of(n, metric): v for n, found in by_set.items() for metric, v in found.items()}
        return {MEAN: mean, **every}

    def interval(
        self, rows: SeveralRows, answers: Answers, draws: int, seed: int, level: float = 0.95
    ) -> Interval:
        return self._mean(
            rows, lambda task, own, at: task.interval(own, _own(answers[at]), draws, seed, level)
        )

    def floor(
        self, rows: SeveralRows, answers: Answers, draws: int, seed: int
    ) -> tuple[Metric, Interval]:
        """Return the floor of the set whose interval ends lowest: a mean would hide it."""
        every = [
            (name, *task.floor(own, _own(answers[at]), draws, seed))
            for name, task, own, at in self._parts(rows)
        ]
        name, metric, found = min(every, key=lambda one: one[2].low)
        return Metric(_of(name, metric.name), f"{metric.label} of {name}"), found

    def gain(
        self,
        rows: SeveralRows,
        mine: Answers,
        theirs: Answers,
        draws: int,
        seed: int,
        level: float = 0.95,
    ) -> Interval:
        return self._mean(
            rows,
            lambda task, own, at: task.gain(
                own, _own(mine[at]), _own(theirs[at]), draws, seed, level
            ),
        )

    def _mean(
        self, rows: SeveralRows, work: Callable[[AnyTask, Rows, slice], Interval]
    ) -> Interval:
        every = {name: work(task, own, at) for name, task, own, at in self._parts(rows)}
        return mean_of(list(every.values()), [self.weights[name] for name in every])

    def secondary_gains(
        self, rows: SeveralRows, mine: Answers, theirs: Answers, draws: int, seed: int
    ) -> dict[str, Interval]:
        """Return the gain on each set, 95 % for all together: no set pays for another unseen."""
        parts = list(self._parts(rows))
        level = 1 - 0.05 / len(parts)
        return {
            _of(name, task.primary.name): task.gain(
                own, _own(mine[at]), _own(theirs[at]), draws, seed, level
            )
            for name, task, own, at in parts
        }

    def segment_scores(self, rows: SeveralRows, answers: Answers) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for name, task, own, at in self._parts(rows):
            found |= _segments(name, task, task.segment_scores(own, _own(answers[at])))
        return found

    def score(
        self,
        rows: SeveralRows,
        ids_T: Ids,
        vectors_TE: Vectors,
        answers: Answers,
        config: EvaluateConfig,
        seed: int,
    ) -> Scores:
        every: dict[str, Scores] = {}
        segments: dict[str, dict[str, float]] = {}
        for name, task, own, at in self._parts(rows):
            given = _own_vectors(rows, name, ids_T, vectors_TE)
            every[name] = task.score(own, *given, _own(answers[at]), config, seed)
            segments |= _segments(name, task, every[name].segments)
        intervals = [scores.interval for scores in every.values()]
        mean = mean_of(intervals, [self.weights[name] for name in every])
        metrics = self._with_mean({name: scores.metrics for name, scores in every.items()})
        return Scores(self.primary, mean, metrics, segments)

    def examine(
        self, rows: SeveralRows, ids_T: Ids, vectors_TE: Vectors, answers: Answers
    ) -> Examined:
        return replace(Examined.of_answers(answers[:, 0]), pool=answers[:, 1])

    def usual_objective(self, data: SeveralData) -> str:
        return MEAN

    def column_values(self, metrics: Mapping[str, float]) -> tuple[float | None, ...]:
        """Return the primary metric of each set."""
        return tuple(metrics.get(name) for name in self.secondary)


def _of(name: str, metric: str) -> str:
    """Return the name of a set's metric, or of its segment, among those of all sets."""
    return f"{name}/{metric}"


def _own(answers: Answers) -> Answers:
    """Return the columns of a set's answers that its task gave."""
    return answers[:, 0] if np.isnan(answers[:, 1]).all() else answers


def _own_vectors(
    rows: SeveralRows, name: str, ids_T: Ids, vectors_TE: Vectors
) -> tuple[Ids, Vectors]:
    """Return the vectors of one set's items, by the set's own ids."""
    first = rows.first[name]
    later = [other for other in rows.first.values() if other > first]
    end = min(later, default=2**31 - 1)
    begins, ends = np.searchsorted(ids_T, [first, end]).tolist()
    own_ids = ids_T[begins:ends] - first
    return own_ids.astype(np.int32), vectors_TE[begins:ends]


def _segments(
    name: str, task: AnyTask, found: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Return what the segments of a set scored; their primary metric stands for the mean."""
    primary = task.primary.name
    return {
        _of(name, segment): {MEAN if metric == primary else metric: v for metric, v in one.items()}
        for segment, one in found.items()
    }
