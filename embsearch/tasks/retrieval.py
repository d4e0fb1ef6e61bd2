"""Retrieval: queries and titles, from triplets, pairs, graded judgements or click logs.

A model is judged by the cosine of each row's query and title. The primary metric is the pooled ROC
AUC; nDCG, MRR and recall are kept beside it. ``PoolRetrieval`` judges by a metric of the pool.
Resampling draws whole queries (evaluate/bootstrap.py). Shapes: M rows, T texts, E dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from embsearch.config.schema import EvaluateConfig
from embsearch.data.dataset import Dataset, Ids, JudgedRows
from embsearch.evaluate import score as scoring
from embsearch.evaluate.auc import Floats, Vectors
from embsearch.evaluate.bootstrap import auc_gain, auc_interval, mean_gain, mean_interval
from embsearch.evaluate.early import readings
from embsearch.evaluate.examine import Examined, examine
from embsearch.evaluate.ranking import mrr_by_query, ndcg_by_query
from embsearch.tasks.base import AUC, Answers, Metric, Scores
from embsearch.tasks.judged import JudgedTask
from embsearch.values import Interval, Reading

POOL = {
    "pool_ndcg_10": "pool nDCG@10",
    "pool_mrr_10": "pool MRR@10",
    "pool_recall_1": "pool recall@1",
    "pool_recall_10": "pool recall@10",
}


PAIRS = 2**22  # of a query and a title, that an evaluation of a trial compares for them


class Retrieval(JudgedTask):
    """Find the right titles for a query."""

    name = "retrieval"
    purpose = "the cosine of a query's and a title's vector says whether the title is relevant"
    primary = AUC
    secondary: Mapping[str, str] = {
        "ndcg_10": "nDCG@10",
        "pool_recall_1": "recall@1 over all titles",
        "pool_recall_10": "recall@10 over all titles",
    }
    no_secondary = "no query has a relevant title"
    columns: ClassVar[tuple[str, ...]] = ("nDCG@10", "recall@1", "recall@10")
    objectives = (*scoring.METRICS, *POOL)

    def judged_by(self, objective: str) -> Retrieval:
        return PoolRetrieval(objective) if objective in POOL else self

    def usual_objective(self, data: Dataset) -> str:
        return "pool_ndcg_10" if data.report.get("sampled") else "auc"

    def metrics(self, rows: JudgedRows, answers_M: Answers) -> dict[str, float]:
        return scoring.score(rows, answers_M)

    def measured(
        self, rows: JudgedRows, ids_T: Ids, vectors_TE: Vectors, config: EvaluateConfig
    ) -> dict[str, float]:
        """Return the metrics, those of the pool of all titles too: of so many queries, evenly
        drawn, as PAIRS allows.
        """
        found = super().measured(rows, ids_T, vectors_TE, config)
        if not config.pool or not POOL.keys().isdisjoint(found):
            return found
        titles = np.unique(rows.title)
        asked = self.sample(rows, max(1, PAIRS // len(titles)))
        places = scoring.pool_places(asked, ids_T, vectors_TE, titles)
        return {**found, **scoring.score_pool(asked, places)}

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
        if not config.pool or not POOL.keys().isdisjoint(found.metrics):
            return found
        pool = scoring.score_pool(rows, scoring.pool_places(rows, ids_T, vectors_TE))
        return replace(found, metrics={**found.metrics, **pool})

    def readings(
        self, rows: JudgedRows, ids_T: Ids, vectors_TE: Vectors, config: EvaluateConfig, seed: int
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


class PoolRetrieval(Retrieval):
    """Retrieval judged by a metric of the pool: each query against every title of the rows.

    An answer has two columns: the cosine of the row's query and title, and the title's place in
    the pool (0 where the row is not relevant).
    """

    no_secondary = "no other metric is defined"
    columns: ClassVar[tuple[str, ...]] = ("AUC", "recall@1", "recall@10")

    def __init__(self, objective: str) -> None:
        self.primary = Metric(objective, POOL[objective])
        others = {name: f"{label[5:]} over all titles" for name, label in POOL.items()}
        others.pop(objective)
        self.secondary = {"auc": "AUC", **others}

    def lacking(self, rows: JudgedRows) -> str:
        return "" if rows.relevant.any() else "rows with relevant titles"

    def answers(self, rows: JudgedRows, ids_T: Ids, vectors_TE: Vectors) -> Answers:
        cosine_M = super().answers(rows, ids_T, vectors_TE)
        place_M = scoring.pool_places(rows, ids_T, vectors_TE)
        return np.stack([cosine_M, place_M.astype(np.float32)], axis=1)

    def cosines(self, answers: Answers) -> Answers:
        return answers[:, 0]

    def metrics(self, rows: JudgedRows, answers: Answers) -> dict[str, float]:
        return {
            **super().metrics(rows, answers[:, 0]),
            **scoring.score_pool(rows, answers[:, 1].astype(np.int64)),
        }

    def interval(
        self, rows: JudgedRows, answers: Answers, draws: int, seed: int, level: float = 0.95
    ) -> Interval:
        return mean_interval(self._by_query(rows, answers), draws, seed, level)

    def floor(
        self, rows: JudgedRows, answers: Answers, draws: int, seed: int
    ) -> tuple[Metric, Interval]:
        """Return AUC: how high a metric of the pool can be depends on the pool."""
        return AUC, super().interval(rows, answers[:, 0], draws, seed)

    def gain(
        self,
        rows: JudgedRows,
        mine: Answers,
        theirs: Answers,
        draws: int,
        seed: int,
        level: float = 0.95,
    ) -> Interval:
        columns = self._by_query(rows, mine), self._by_query(rows, theirs)
        return mean_gain(*columns, draws, seed, level)

    def secondary_gains(
        self, rows: JudgedRows, mine: Answers, theirs: Answers, draws: int, seed: int
    ) -> dict[str, Interval]:
        level = 1 - 0.05 / 2
        found = {}
        if not super().lacking(rows):
            cosines = mine[:, 0], theirs[:, 0]
            found["auc"] = super().gain(rows, *cosines, draws, seed, level)
        other = "pool_recall_10" if self.primary.name != "pool_recall_10" else "pool_ndcg_10"
        found[other] = PoolRetrieval(other).gain(rows, mine, theirs, draws, seed, level)
        return found

    def segment_scores(self, rows: JudgedRows, answers: Answers) -> dict[str, dict[str, float]]:
        found = super().segment_scores(rows, answers[:, 0])
        for name, here in self.segments(rows).items():
            values = self._by_query(rows.where(here), answers[here])
            found[name][self.primary.name] = float(values.mean())
        return found

    def examine(
        self, rows: JudgedRows, ids_T: Ids, vectors_TE: Vectors, answers: Answers
    ) -> Examined:
        found = super().examine(rows, ids_T, vectors_TE, answers[:, 0])
        return replace(found, pool=answers[:, 1])

    def column_values(self, metrics: Mapping[str, float]) -> tuple[float | None, ...]:
        """Return AUC and recall@1 and recall@10 over all titles."""
        return tuple(metrics.get(name) for name in ("auc", "pool_recall_1", "pool_recall_10"))

    def _by_query(self, rows: JudgedRows, answers: Answers) -> Floats:
        return scoring.pool_by_query(rows, answers[:, 1].astype(np.int64))[self.primary.name]
