"""The part that tasks on judged pairs of texts share: rows, and the cosine of each row's two texts.

Shapes: M rows, T texts, E dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embsearch.config.schema import DataConfig
from embsearch.data.dataset import Dataset, Ids, JudgedRows, sample, subset, texts_of
from embsearch.data.load import prepare_dataset
from embsearch.data.pairs import Keys, pair_keys
from embsearch.evaluate import score as scoring
from embsearch.evaluate.auc import Vectors
from embsearch.tasks.base import Answers, Groups, Task

_loaded = lru_cache(maxsize=1)(Dataset.load)  # its folder is named by its content


class JudgedTask(Task[Dataset, JudgedRows]):
    """A task whose rows are two texts and a grade."""

    def prepare(self, config: DataConfig, cache: Path) -> Path:
        return prepare_dataset(config, cache)

    def load(self, folder: Path) -> Dataset:
        return _loaded(folder)

    def rows(self, data: Dataset, split: str, most: int = 0) -> JudgedRows:
        rows: JudgedRows = getattr(data, split)
        return subset(rows, most)

    def sample(self, rows: JudgedRows, groups: int) -> JudgedRows:
        return sample(rows, groups)

    def select(self, rows: JudgedRows, kept_M: NDArray[np.bool_]) -> JudgedRows:
        return rows.where(kept_M)

    def items(self, rows: JudgedRows) -> Ids:
        return texts_of(rows)

    def lacking(self, rows: JudgedRows) -> str:
        return "" if scoring.mixed(rows.relevant) else "rows with relevant and irrelevant titles"

    def groups(self, rows: JudgedRows) -> Groups:
        return Groups(int(rows.query.max()) + 1, "queries")

    def segments(self, rows: JudgedRows) -> dict[str, NDArray[np.bool_]]:
        every = {name: rows.segment == number for number, name in enumerate(rows.segments)}
        return {name: here for name, here in every.items() if not self.lacking(rows.where(here))}

    def row_lines(self, data: Dataset, rows: JudgedRows) -> Iterator[str]:
        for text, title, grade in zip(rows.text, rows.title, rows.grade, strict=True):
            yield f"{data.texts[text]}\0{data.texts[title]}\0{grade:g}"

    def row_keys(self, data: Dataset, rows: JudgedRows) -> Keys:
        return pair_keys(data, rows.text, rows.title)

    def answers(self, rows: JudgedRows, ids_T: Ids, vectors_TE: Vectors) -> Answers:
        return scoring.similarity(rows, ids_T, vectors_TE)
