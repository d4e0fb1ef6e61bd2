"""Similarity: pairs of texts with a score of how alike they are.

A model is judged by the cosine of each pair. The primary metric is Spearman's correlation of cosine
and score; Pearson's is kept beside it, and AUC: of all two rows, one with the mean score or more and
one with less, the share that the cosine puts in this order. ``promote.min_auc`` asks it of AUC,
because how high a correlation can be depends on the noise of the scores. Resampling draws pairs,
those of one first text together. Shapes: M rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from embsearch.data.dataset import JudgedRows
from embsearch.evaluate import correlation
from embsearch.evaluate.auc import roc_auc
from embsearch.evaluate.bootstrap import auc_interval
from embsearch.evaluate.correlation import Statistic, gain, pearson, spearman, value_of
from embsearch.tasks.base import AUC, Answers, Groups, Metric
from embsearch.tasks.judged import JudgedTask
from embsearch.values import Interval


class Similarity(JudgedTask):
    """Tell how alike two texts are."""

    name = "similarity"
    purpose = "the cosine of two texts' vectors says how alike they are"
    one_role = True
    primary = Metric("spearman", "Spearman")
    secondary: Mapping[str, str] = {"pearson": "Pearson", "auc": "AUC"}
    columns: ClassVar[tuple[str, ...]] = ("Pearson", "AUC")
    objectives = ("spearman", "pearson", "auc")
    losses = ("cosent", "angle")

    def lacking(self, rows: JudgedRows) -> str:
        return super().lacking(rows) and "pairs scored above and below the mean"

    def groups(self, rows: JudgedRows) -> Groups:
        return Groups(super().groups(rows).count, "first texts")

    def metrics(self, rows: JudgedRows, answers_M: Answers) -> dict[str, float]:
        found = {
            "spearman": value_of(spearman(answers_M, rows.grade), len(rows)),
            "pearson": value_of(pearson(answers_M, rows.grade), len(rows)),
        }
        return found if self.lacking(rows) else {**found, "auc": roc_auc(answers_M, rows.relevant)}

    def interval(
        self, rows: JudgedRows, answers_M: Answers, draws: int, seed: int, level: float = 0.95
    ) -> Interval:
        found = spearman(answers_M, rows.grade)
        return correlation.interval(found, rows.query, draws, seed, level)

    def floor(
        self, rows: JudgedRows, answers_M: Answers, draws: int, seed: int
    ) -> tuple[Metric, Interval]:
        found = auc_interval(answers_M, rows.relevant, rows.query, draws, seed)
        return AUC, found

    def gain(
        self,
        rows: JudgedRows,
        mine_M: Answers,
        theirs_M: Answers,
        draws: int,
        seed: int,
        level: float = 0.95,
    ) -> Interval:
        found: Statistic = gain(spearman(mine_M, rows.grade), spearman(theirs_M, rows.grade))
        return correlation.interval(found, rows.query, draws, seed, level)

    def secondary_gains(
        self, rows: JudgedRows, mine_M: Answers, theirs_M: Answers, draws: int, seed: int
    ) -> dict[str, Interval]:
        found = gain(pearson(mine_M, rows.grade), pearson(theirs_M, rows.grade))
        return {"pearson": correlation.interval(found, rows.query, draws, seed)}

    def segment_scores(self, rows: JudgedRows, answers_M: Answers) -> dict[str, dict[str, float]]:
        found = {}
        for name, here in self.segments(rows).items():
            part = rows.where(here)
            value = value_of(spearman(answers_M[here], part.grade), len(part))
            counts = {"rows": float(len(part)), "queries": float(len(set(part.query)))}
            found[name] = {**counts, "spearman": value}
        return found

    def column_values(self, metrics: Mapping[str, float]) -> tuple[float | None, ...]:
        """Return Pearson's correlation and AUC."""
        return metrics.get("pearson"), metrics.get("auc")
