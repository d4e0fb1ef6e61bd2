"""Classes: texts with a label, such as intents or topics.

A model is judged by the nearest class centre: accuracy is the primary metric, macro-F1 is kept
beside it, and AUC: the share of other classes that are further from a text than its own, mean over
texts. ``promote.min_auc`` asks it of AUC, because how high accuracy can be depends on the number of
classes. An answer has two columns: the nearest class and that share. Resampling draws texts.
Shapes: M rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from embsearch.config.schema import DataConfig
from embsearch.data.class_data import ClassData, ClassRows
from embsearch.data.dataset import Ids
from embsearch.data.keys import query_keys, salted
from embsearch.data.load import prepare_dataset
from embsearch.data.pairs import Keys
from embsearch.evaluate.auc import Vectors
from embsearch.evaluate.bootstrap import mean_gain, mean_interval
from embsearch.evaluate.classes import macro_f1, macro_f1_gain, nearest
from embsearch.evaluate.examine import Examined
from embsearch.tasks.base import AUC, Answers, Groups, Metric, Task
from embsearch.values import Interval

_loaded = lru_cache(maxsize=1)(ClassData.load)  # its folder is named by its content


class Classes(Task[ClassData, ClassRows]):
    """Tell the class of a text."""

    name = "classes"
    purpose = "texts of one class lie near each other and far from those of others"
    one_role = True
    primary = Metric("accuracy", "accuracy")
    secondary: Mapping[str, str] = {"macro_f1": "macro-F1", "auc": "AUC"}
    columns: ClassVar[tuple[str, ...]] = ("macro-F1", "AUC")
    objectives = ("accuracy", "macro_f1", "auc")
    losses = ("infonce", "supcon")
    batcher = "embsearch.data.class_batches:class_batches"
    checker = "embsearch.data.check_classes:describe"

    def prepare(self, config: DataConfig, cache: Path) -> Path:
        return prepare_dataset(config, cache)

    def load(self, folder: Path) -> ClassData:
        return _loaded(folder)

    def rows(self, data: ClassData, split: str, most: int = 0) -> ClassRows:
        rows: ClassRows = getattr(data, split)
        if not most or len(rows) <= most:
            return rows
        kept = np.zeros(len(rows), dtype=bool)
        kept[np.linspace(0, len(rows) - 1, most).astype(int)] = True
        return rows.where(kept)

    def sample(self, rows: ClassRows, groups: int) -> ClassRows:
        drawn = np.random.default_rng(0).permutation(len(rows))
        return rows.where(drawn < groups)

    def select(self, rows: ClassRows, kept_M: NDArray[np.bool_]) -> ClassRows:
        return rows.where(kept_M)

    def items(self, rows: ClassRows) -> Ids:
        return np.unique(np.concatenate([rows.text, rows.centre]))

    def groups(self, rows: ClassRows) -> Groups:
        return Groups(len(rows), "texts")

    def segments(self, rows: ClassRows) -> dict[str, NDArray[np.bool_]]:
        every = {name: rows.segment == number for number, name in enumerate(rows.segments)}
        return {name: here for name, here in every.items() if here.any()}

    def row_lines(self, data: ClassData, rows: ClassRows) -> Iterator[str]:
        for text, label in zip(rows.text, rows.label, strict=True):
            yield f"{data.texts[text]}\0{rows.classes[label]}"

    def training_keys(self, data: ClassData) -> Keys:
        return np.unique(_keys(data, data.train.anchor))

    def row_keys(self, data: ClassData, rows: ClassRows) -> Keys:
        return _keys(data, rows.text)

    def answers(self, rows: ClassRows, ids_T: Ids, vectors_TE: Vectors) -> Answers:
        own_M, centres_R = (np.searchsorted(ids_T, ids) for ids in (rows.text, rows.centre))
        nearest_M, auc_M = nearest(
            vectors_TE[own_M],
            rows.label,
            vectors_TE[centres_R],
            rows.centre_label,
            len(rows.classes),
        )
        return np.stack([nearest_M.astype(np.float32), auc_M], axis=1)

    def metrics(self, rows: ClassRows, answers: Answers) -> dict[str, float]:
        return {
            "accuracy": float(_right(rows, answers).mean()),
            "macro_f1": macro_f1(rows.label, _guesses(answers), len(rows.classes)),
            "auc": float(answers[:, 1].mean(dtype=np.float64)),
        }

    def interval(
        self, rows: ClassRows, answers: Answers, draws: int, seed: int, level: float = 0.95
    ) -> Interval:
        return mean_interval(_right(rows, answers), draws, seed, level)

    def floor(
        self, rows: ClassRows, answers: Answers, draws: int, seed: int
    ) -> tuple[Metric, Interval]:
        return AUC, mean_interval(answers[:, 1], draws, seed)

    def gain(
        self,
        rows: ClassRows,
        mine: Answers,
        theirs: Answers,
        draws: int,
        seed: int,
        level: float = 0.95,
    ) -> Interval:
        return mean_gain(_right(rows, mine), _right(rows, theirs), draws, seed, level)

    def secondary_gains(
        self, rows: ClassRows, mine: Answers, theirs: Answers, draws: int, seed: int
    ) -> dict[str, Interval]:
        guesses = _guesses(mine), _guesses(theirs)
        return {"macro_f1": macro_f1_gain(rows.label, *guesses, len(rows.classes), draws, seed)}

    def segment_scores(self, rows: ClassRows, answers: Answers) -> dict[str, dict[str, float]]:
        found = {}
        for name, here in self.segments(rows).items():
            count = float(here.sum())
            right = float(_right(rows, answers)[here].mean())
            found[name] = {"rows": count, "queries": count, "accuracy": right}
        return found

    def examine(
        self, rows: ClassRows, ids_T: Ids, vectors_TE: Vectors, answers: Answers
    ) -> Examined:
        return replace(Examined.of_answers(answers[:, 0]), pool=answers[:, 1])

    def column_values(self, metrics: Mapping[str, float]) -> tuple[float | None, ...]:
        """Return macro-F1 and AUC."""
        return metrics.get("macro_f1"), metrics.get("auc")


def _guesses(answers: Answers) -> Ids:
    return answers[:, 0].astype(np.int32)


def _right(rows: ClassRows, answers: Answers) -> NDArray[np.float64]:
    right_M: NDArray[np.bool_] = _guesses(answers) == rows.label
    return right_M.astype(np.float64)


def _keys(data: ClassData, ids: Ids) -> Keys:
    texts = query_keys(data.texts[i] for i in ids.tolist())
    return np.array([salted(0, text) for text in texts], dtype=np.uint64)
