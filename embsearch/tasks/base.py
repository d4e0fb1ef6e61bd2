"""A task says what a row is, which items a model must encode to be judged, and how it is judged.

A task knows no model. A tower (model/tower.py) turns items into vectors; the task turns the vectors
into one answer a row, and the answers into metrics. One metric is the primary one: registry, gates,
tables and pages speak of it alone, and a higher value is a better model.

Nothing here loads torch, so that the coordinator and the report may ask a task.
Shapes: M rows, T items, E dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from embsearch.config.catalogue import OBJECTIVES
from embsearch.config.schema import Config, DataConfig, EvaluateConfig
from embsearch.data.dataset import Ids, Rows, TaskData, steps_of, with_negatives
from embsearch.data.pairs import Keys, training_pairs
from embsearch.evaluate.auc import Vectors
from embsearch.evaluate.examine import Examined
from embsearch.objectives.preflight import preflight_space
from embsearch.values import Interval, Reading

DataT = TypeVar("DataT", bound=TaskData)
RowsT = TypeVar("RowsT", bound=Rows)
Answers = NDArray[
    np.float32
]  # (M,) what a model says of each row: a cosine, a class, right or wrong; or (M, K) such columns


@dataclass(frozen=True)
class Metric:
    """A metric by its ``name`` in logs and MLflow and its ``label`` in tables and sentences.

    ``words`` say what it is made of where the label does not.
    """

    name: str
    label: str
    words: str = ""

    @property
    def in_words(self) -> str:
        """The metric where it is spoken of first."""
        return self.words or self.label


AUC = Metric("auc", "AUC")


@dataclass(frozen=True)
class Scores:
    """The scores of a model on the rows of one split.

    ``metrics`` holds every metric by name, the primary one too; ``segments`` the primary metric
    (and counts) of each segment that has rows.
    """

    metric: Metric
    interval: Interval
    metrics: Mapping[str, float]
    segments: Mapping[str, Mapping[str, float]]

    @property
    def value(self) -> float:
        """The primary metric."""
        return self.interval.value


@dataclass(frozen=True)
class Groups:
    """The units that a bootstrap draws: ``count`` of them, called ``name``."""

    count: int
    name: str


class Task(ABC, Generic[DataT, RowsT]):
    """One kind of rows and the way models are judged by them. Has no state."""

    name: ClassVar[str]
    kind: ClassVar[str] = "text"  # of the items; decides the tower (tasks/catalogue.py)
    purpose: ClassVar[str] = "its vectors serve this task"  # of a tuned model, in words
    one_role: ClassVar[bool] = False  # every text is a query
    primary: Metric
    secondary: Mapping[str, str] = {}  # metrics by name that should not fall, in words
    objectives: ClassVar[tuple[str, ...]] = ()  # metrics that may choose trials; (): not known
    losses: ClassVar[tuple[str, ...]] = ("infonce",)  # usual for its data, the first of all
    no_secondary: ClassVar[str] = (
        "no other metric is guarded"  # what to say without secondary gains
    )
    columns: ClassVar[tuple[str, ...]] = ()  # further columns of result tables
    checker: ClassVar[str] = "embsearch.data.check:describe"  # what data check prints
    batcher: ClassVar[str] = (
        "embsearch.data.batch:triplet_batches"  # module:function; it loads torch
    )

    def judged_by(self, objective: str) -> AnyTask:
        """Return the task whose primary metric is meant where ``objective`` chooses the trials."""
        return self

    def usual_objective(self, data: DataT) -> str:
        """Return the metric that chooses the trials on these data unless another is asked for."""
        return self.primary.name

    # files to rows

    @abstractmethod
    def prepare(self, config: DataConfig, cache: Path) -> Path:
        """Return the folder in ``cache`` that holds the data, read and checked now if it is new.

        Raises ConfigError where no data are named and DataError with every fault found.
        """

    @abstractmethod
    def load(self, folder: Path) -> DataT:
        """Return the data that ``prepare`` wrote. Raises FileNotFoundError."""

    def preflight(self, config: Config, searched: Mapping[str, Sequence[Any]], data: DataT) -> None:
        """Raise ConfigError where no training with ``config``, or with values that are
        ``searched``, can learn on these rows.
        """
        preflight_space(config.objective, config.train.batch_size, searched, data.train)

    def trained_on(self, data: DataT, config: Config) -> DataT:
        """Return the data with those training rows alone that the loss of ``config`` takes."""
        negatives = OBJECTIVES[config.objective.loss].needs == "negatives"
        return with_negatives(data) if negatives else data

    def batches(self, data: DataT, config: Config, start: int = 0) -> Iterator[Any]:
        """Yield training batches (``data.batch.Batch``) without end, from batch number ``start``
        on.

        They are a function of the data, the batch size, the seed and the loss: some losses want
        several rows of a query side by side.
        """
        lists = OBJECTIVES[config.objective.loss].lists
        asked = (config.train.batch_size, config.train.seed, start, *((lists,) if lists else ()))
        made: Iterator[Any] = imported(self.batcher)(data, *asked)
        return made

    def steps(self, data: DataT, texts: int, batch_size: int) -> int:
        """Return the number of batches that show at least ``texts`` items."""
        return steps_of(texts, data.train, batch_size)

    def epoch(self, data: DataT) -> tuple[int, int]:
        """Return the training rows, and the items that they show."""
        rows = data.train
        return len(rows), 2 * len(rows) + int((rows.negative >= 0).sum())

    def plan_lines(self, data: DataT, config: Config) -> Iterator[str]:
        """Yield what a plan says of the items that a trial shows, beside how many these are."""
        yield from ()

    # rows to judge by

    @abstractmethod
    def rows(self, data: DataT, split: str, most: int = 0) -> RowsT:
        """Return the rows of ``split``; about ``most`` of them, spread evenly, unless that is 0."""

    @abstractmethod
    def sample(self, rows: RowsT, groups: int) -> RowsT:
        """Return the rows of ``groups`` groups that belong together (queries), always the same.

        A larger sample holds every smaller one.
        """

    @abstractmethod
    def select(self, rows: RowsT, kept_M: NDArray[np.bool_]) -> RowsT:
        """Return the rows where ``kept_M`` is true."""

    @abstractmethod
    def items(self, rows: RowsT) -> Ids:
        """Return the distinct ids, rising, of the items that must be encoded to judge by ``rows``."""

    def lacking(self, rows: RowsT) -> str:
        """Return what the primary metric needs and ``rows`` lack, in words; empty where it is
        defined.
        """
        return "" if len(rows) else "rows"

    def groups(self, rows: RowsT) -> Groups:
        """Return the units that are drawn when rows are resampled."""
        return Groups(len(rows), "rows")

    def describe(self, rows: RowsT) -> str:
        """Return how many rows and groups there are, in words."""
        groups = self.groups(rows)
        return (
            f"{len(rows)} rows"
            if groups.name == "rows"
            else f"{len(rows)} rows of {groups.count} {groups.name}"
        )

    def segments(self, rows: RowsT) -> dict[str, NDArray[np.bool_]]:
        """Return the rows of each segment by name, where the primary metric is defined there."""
        return {}

    @abstractmethod
    def row_lines(self, data: DataT, rows: RowsT) -> Iterator[str]:
        """Yield a line for each row: equal lines for equal rows, whatever else the data hold."""

    def training_keys(self, data: DataT) -> Keys:
        """Return a number for each distinct training row, rising."""
        return training_pairs(data)

    def row_keys(self, data: DataT, rows: RowsT) -> Keys | None:
        """Return (M,) each row's number among ``training_keys``; None where rows cannot be
        compared.
        """
        return None

    # judging

    @abstractmethod
    def answers(self, rows: RowsT, ids_T: Ids, vectors_TE: Vectors) -> Answers:
        """Return (M,) what a model says of each row.

        ``ids_T`` rises and holds every item of the rows; ``vectors_TE[i]`` is the vector of
        ``ids_T[i]``.
        """

    def cosines(self, answers: Answers) -> Answers:
        """Return (M,) the similarity of each row among its ``answers``, for pictures and tables."""
        return answers

    @abstractmethod
    def metrics(self, rows: RowsT, answers_M: Answers) -> dict[str, float]:
        """Return every metric that the rows define, by name. Raises ValueError on NaN."""

    def measured(
        self, rows: RowsT, ids_T: Ids, vectors_TE: Vectors, config: EvaluateConfig
    ) -> dict[str, float]:
        """Return what an evaluation of a trial measures: ``metrics``, and others that cost little
        beside encoding.
        """
        return self.metrics(rows, self.answers(rows, ids_T, vectors_TE))

    @abstractmethod
    def interval(
        self, rows: RowsT, answers_M: Answers, draws: int, seed: int, level: float = 0.95
    ) -> Interval:
        """Return the primary metric with its bootstrap interval."""

    def floor(
        self, rows: RowsT, answers_M: Answers, draws: int, seed: int
    ) -> tuple[Metric, Interval]:
        """Return the metric, with its interval, of which ``promote.min_auc`` asks a least value."""
        return self.primary, self.interval(rows, answers_M, draws, seed)

    @abstractmethod
    def gain(
        self,
        rows: RowsT,
        mine_M: Answers,
        theirs_M: Answers,
        draws: int,
        seed: int,
        level: float = 0.95,
    ) -> Interval:
        """Return the primary metric of ``mine_M`` minus that of ``theirs_M``, on the same
        resamples.
        """

    def secondary_gains(
        self, rows: RowsT, mine_M: Answers, theirs_M: Answers, draws: int, seed: int
    ) -> dict[str, Interval]:
        """Return paired gains of other metrics that a champion must not lose, 95 % for all
        together.
        """
        return {}

    def segment_gains(
        self, rows: RowsT, mine_M: Answers, theirs_M: Answers, draws: int, seed: int
    ) -> dict[str, Interval]:
        """Return the paired gain of the primary metric in each segment, 95 % for all together."""
        segments = self.segments(rows)
        gains = {}
        for name, here in segments.items():
            level = 1 - 0.05 / len(segments)
            part = self.select(rows, here)
            gains[name] = self.gain(part, mine_M[here], theirs_M[here], draws, seed, level)
        return gains

    def segment_scores(self, rows: RowsT, answers_M: Answers) -> dict[str, dict[str, float]]:
        """Return the ``rows`` and the primary metric of each segment."""
        return {}

    def score(
        self,
        rows: RowsT,
        ids_T: Ids,
        vectors_TE: Vectors,
        answers_M: Answers,
        config: EvaluateConfig,
        seed: int,
    ) -> Scores:
        """Return everything that a model scores on ``rows``."""
        interval = self.interval(rows, answers_M, config.draws, seed)
        metrics = self.metrics(rows, answers_M)
        return Scores(self.primary, interval, metrics, self.segment_scores(rows, answers_M))

    def readings(
        self, rows: RowsT, ids_T: Ids, vectors_TE: Vectors, config: EvaluateConfig, seed: int
    ) -> list[Reading]:
        """Return what each evaluation of a trial reads; empty where all of them read all rows."""
        return []

    def examine(self, rows: RowsT, ids_T: Ids, vectors_TE: Vectors, answers_M: Answers) -> Examined:
        """Return what is kept of a model, so that two can be compared later without either."""
        return Examined.of_answers(answers_M)

    def fits(self, rows: RowsT, kept: Examined) -> bool:
        """Return whether ``kept`` is of these rows."""
        return len(kept.similarity) == len(rows)

    def column_values(self, metrics: Mapping[str, float]) -> tuple[float | None, ...]:
        """Return the values of ``columns``, None where a metric is not defined."""
        return ()


AnyTask = Task[Any, Any]


def imported(path: str) -> Any:
    """Return what ``path`` (module:name) names, imported now."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
