"""Retrieval: queries and titles, from triplets, graded judgements or click logs.

A model is judged by the cosine of each row's query and title. The primary metric is the pooled ROC
AUC; nDCG, MRR and recall are kept beside it. Resampling draws whole queries
(evaluate/bootstrap.py). Shapes: M rows, T texts, E dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from embsearch.config.schema import Config, DataConfig, EvaluateConfig
from embsearch.data.dataset import Dataset, Ids, JudgedRows, sample, subset, texts_of
from embsearch.data.load import prepare_dataset
from embsearch.data.pairs import Keys, pair_keys
from embsearch.evaluate import score as scoring
from embsearch.evaluate.auc import Vectors
from embsearch.evaluate.bootstrap import auc_gain, auc_interval, mean_gain
from embsearch.evaluate.early import readings
from embsearch.evaluate.examine import Examined, examine
from embsearch.evaluate.ranking import mrr_by_query, ndcg_by_query
from embsearch.objectives.preflight import preflight_space
from embsearch.tasks.base import Answers, Groups, Metric, Scores, Task
from embsearch.values import Interval, Reading


class Retrieval(Task[Dataset, JudgedRows]):
    """Find the right titles for a query."""

    name = "retrieval"
    primary = Metric("auc", "AUC")
    secondary: ClassVar[Mapping[str, str]] = {
        "ndcg_10": "nDCG@10",
        "pool_recall_1": "recall@1 over all titles",
        "pool_recall_10": "recall@10 over all titles",
    }
    no_secondary = "no query has a relevant title"
    columns = ("nDCG@10", "recall@1", "recall@10")

    def prepare(self, config: DataConfig, cache: Path) -> Path:
        return prepare_dataset(config, cache)

    def preflight(
        self, config: Config, searched: Mapping[str, Sequence[Any]], data: Dataset
    ) -> None:
        preflight_space(config.objective, config.train.batch_size, searched, data.train)

    def load(self, folder: Path) -> Dataset:
        return Dataset.load(folder)

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
        return {name: here for name, here in every.items() if scoring.mixed(rows.relevant[here])}

    def row_lines(self, data: Dataset, rows: JudgedRows) -> Iterator[str]:
        for text, title, grade in zip(rows.text, rows.title, rows.grade, strict=True):
            yield f"{data.texts[text]}\0{data.texts[title]}\0{grade:g}"

    def row_keys(self, data: Dataset, rows: JudgedRows) -> Keys:
        return pair_keys(data, rows.text, rows.title)

    def answers(self, rows: JudgedRows, ids_T: Ids, vectors_TE: Vectors) -> Answers:
        return scoring.similarity(rows, ids_T, vectors_TE)

    def metrics(self, rows: JudgedRows, answers_M: Answers) -> dict[str, float]:
        return scoring.score(rows, answers_M)

    def interval(
        self, rows: JudgedRows, answers_M: Answers, draws: int, seed: int, level: float = 0.95
    ) -> Interval:
        return auc_interval(answers_M, rows.relevant, rows.query, draws, seed, level)

    def gain(
        self,
        rows: JudgedRows,
        mine_M: Answers,
        theirs_M: Answers,
        draws: int,
        seed: int,
        level: float = 0.95,
    ) -> Interval:
        return auc_gain(mine_M, theirs_M, rows.relevant, rows.query, draws, seed, level)

    def secondary_gains(
        self, rows: JudgedRows, mine_M: Answers, theirs_M: Answers, draws: int, seed: int
    ) -> dict[str, Interval]:
        columns = {
            "ndcg_10": [ndcg_by_query(a, rows.grade, rows.query) for a in (mine_M, theirs_M)],
            "mrr_10": [mrr_by_query(a, rows.relevant, rows.query) for a in (mine_M, theirs_M)],
        }
        level = 1 - 0.05 / len(columns)
        gains = {}
        for name, (mine_Q, theirs_Q) in columns.items():
            if not np.isnan(mine_Q).all():
                gains[name] = mean_gain(mine_Q, theirs_Q, draws, seed, level)
        return gains

    def segment_scores(self, rows: JudgedRows, answers_M: Answers) -> dict[str, dict[str, float]]:
        return scoring.by_segment(rows, answers_M)

    def score(
        self,
        rows: JudgedRows,
        ids_T: Ids,
        vectors_TE: Vectors,
        answers_M: Answers,
        config: EvaluateConfig,
        seed: int,
    ) -> Scores:
        found = super().score(rows, ids_T, vectors_TE, answers_M, config, seed)
        if not config.pool:
            return found
        pool = scoring.score_pool(rows, ids_T, vectors_TE)
        return replace(found, metrics={**found.metrics, **pool})

    def readings(
        self,
        rows: JudgedRows,
        ids_T: Ids,
        vectors_TE: Vectors,
        config: EvaluateConfig,
        seed: int,
    ) -> list[Reading]:
        return readings(rows, ids_T, vectors_TE, config, seed)

    def examine(
        self, rows: JudgedRows, ids_T: Ids, vectors_TE: Vectors, answers_M: Answers
    ) -> Examined:
        return examine(rows, ids_T, vectors_TE, answers_M)

    def fits(self, rows: JudgedRows, kept: Examined) -> bool:
        queries = len(np.unique(rows.query))
        return len(kept.similarity) == len(rows) and len(kept.place) == queries

    def column_values(self, metrics: Mapping[str, float]) -> tuple[float | None, ...]:
        """Return nDCG@10, recall@1 and recall@10; recall among all titles where that was measured."""
        recalls = [metrics.get(f"pool_recall_{k}", metrics.get(f"recall_{k}")) for k in (1, 10)]
        return (metrics.get("ndcg_10"), *recalls)
