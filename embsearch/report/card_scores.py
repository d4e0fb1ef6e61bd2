"""The part of a model's card that is measured: results on held-out rows, and what a cosine means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from embsearch.codec import Json
from embsearch.data.dataset import JudgedRows, Rows, TaskData
from embsearch.history.events import encode
from embsearch.history.final_table import BEST, UNTUNED, label_of
from embsearch.report.calibration import QUANTILES, best_cut, cut_at, quantiles
from embsearch.report.findings import signed
from embsearch.report.record import Course, Record
from embsearch.report.result import best_given, number, with_interval
from embsearch.report.tested_models import Models
from embsearch.tasks.base import Metric
from embsearch.tasks.catalogue import task_of
from embsearch.values import PRIMARY, Interval, primary_interval
from embsearch.values import record as plain

MOST_SEGMENTS = 12


@dataclass(frozen=True)
class RowScores:
    """The answers of models by row: ``models`` of the final table, ``scores`` of the card's own
    model by split.
    """

    data: TaskData
    models: Models
    scores: Mapping[str, np.ndarray]


class CardScores:
    """The measured sections of a card: one trial's model beside the untuned encoder and the
    default.
    """

    def __init__(self, record: Record, course: Course, evidence: RowScores | None) -> None:
        self.record, self.course, self.evidence = record, course, evidence
        self.split = str(next(iter(record.tested.values())).split) if record.tested else "test"
        self.task = task_of(record.config)
        self.rows: Rows | None = (
            None if evidence is None else self.task.rows(evidence.data, self.split)
        )

    @property
    def _pooled(self) -> bool:
        """True where the study's recall is among all titles of the split."""
        return any("pool_recall_1" in event.metrics for event in self.record.tested.values())

    def results(self) -> Iterator[str]:
        """Yield the primary metric with its interval, the paired gain, further metrics, segments."""
        tested = {
            label: event for label, event in self.record.tested.items() if self._name(label) != BEST
        }
        mine = self._mine()
        if mine is None and not tested:
            return
        rows = "test rows, by which no trial was chosen"
        if self.split != "test":
            rows = "VALIDATION rows, by which trials were chosen, as there are no test rows: every number is too good"
        pool = "all titles of the split" if self._pooled else "the same"
        yield "## Results"
        yield ""
        drawn = "queries" if self.rows is None else self.task.groups(self.rows).name
        how = f"On the {rows}. Intervals of 95 % by resampling {drawn}, "
        how += "the gain paired on the same rows."
        if self.task.primary.words:
            how += f" {self.task.primary.label}: {self.task.primary.words}."
        if "nDCG@10" in self.task.columns:
            how += f" nDCG is among the titles shown for a query, recall among {pool}."
        yield how
        yield ""
        heads = [
            "encoder",
            self.task.primary.label,
            "gain over the untuned encoder",
            *self.task.columns,
        ]
        yield f"| {' | '.join(heads)} |"
        yield f"|{'---|' * len(heads)}"
        for label, event in tested.items():
            if event.trial != self.course.number:
                gain = None if label == UNTUNED else self._gain(label, UNTUNED)
                yield self._line(self._name(label), encode(event), gain)
        if mine is not None:
            yield self._line(
                f"**this model** (trial {self.course.number})", mine, self._gain(None, UNTUNED)
            )
        yield ""
        yield " ".join(self._remarks())
        untuned = tested.get(UNTUNED)
        before = None if untuned is None else encode(untuned)
        yield from _segments(mine, before, self.task.primary)

    def _name(self, label: str) -> str:
        """Return what a row of the final table is: of a winner that was given, which given point."""
        rows = [] if self.record.result is None else self.record.result["table"]
        return next((row.get("given") or label for row in rows if row["label"] == label), label)

    def _line(self, name: str, event: Json, gain: Interval | None) -> str:
        cells = [name, with_interval(primary_interval(event)), signed(gain) if gain else ""]
        cells += [number(value) for value in self.task.column_values(event["metrics"])]
        return f"| {' | '.join(cells)} |"

    def _mine(self) -> Json | None:
        """Return this model's test as a ``tested`` event holds it; from its scores where there is
        none.
        """
        for event in self.record.tested.values():
            if event.trial == self.course.number:
                return encode(event)
        if self.evidence is None or self.rows is None or self.split not in self.evidence.scores:
            return None
        scores, rows, evaluate = (
            self.evidence.scores[self.split],
            self.rows,
            self.record.config.evaluate,
        )
        interval = self.task.interval(rows, scores, evaluate.draws, self.record.config.seed)
        metrics = self.task.metrics(rows, scores)
        if self._pooled:  # recall among fewer titles would look better than it is beside the others
            metrics = {
                name: value for name, value in metrics.items() if not name.startswith("recall")
            }
        segments = self.task.segment_scores(rows, scores)
        return {"metrics": metrics, PRIMARY: plain(interval), "segments": segments}

    def _gain(self, of: str | None, over: str) -> Interval | None:
        """Return the gain of a model of the table, or of this one (None), over another of the
        table.
        """
        if self.evidence is None or self.rows is None or over not in self.evidence.models.by_label:
            return None
        models, rows = self.evidence.models, self.rows
        if of is not None:
            return models.gain(of, over)
        if self.split not in self.evidence.scores or self.task.lacking(rows):
            return None
        theirs, config = models.by_label[over].answers, self.record.config
        mine = self.evidence.scores[self.split]
        return self.task.gain(rows, mine, theirs, config.evaluate.draws, config.seed)

    def _remarks(self) -> Iterator[str]:
        best = self.record.best
        given = best_given(self.record.result)
        if self.course.trial.given:
            yield f"This is the {label_of(self.course.trial)}."
        elif given is not None and (over := self._gain(None, given["label"])):
            metric = self.task.primary.label
            name = self._name(given["label"])
            yield f"Gain over the {name}, the best that was given: {signed(over)} {metric}."
        yield f"Validation {self.record.objective}, by which trials were compared: {number(self.course.best)}."
        if best is not None and best is not self.course:
            yield (
                f"The study's best is trial {best.number} ({number(best.best)}); the {self.split} rows were read for "
                "this card after that was known."
            )

    def cosine(self) -> Iterator[str]:
        """Yield how scores lie, and a threshold: chosen on validation rows where their scores are
        there.
        """
        if self.evidence is None or self.split not in self.evidence.scores:
            return
        if not isinstance(self.rows, JudgedRows) or self.task.lacking(self.rows):
            return
        scores = self.task.cosines(self.evidence.scores[self.split])
        relevant = self.rows.relevant
        yield "## What a cosine means"
        yield ""
        yield f"Quantiles of the scores of the {self.split} rows:"
        yield ""
        yield f"| | {' | '.join(f'{100 * q:.0f} %' for q in QUANTILES)} |"
        yield f"|---|{'---|' * len(QUANTILES)}"
        for name, values in quantiles(scores, relevant).items():
            yield f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |"
        yield ""
        valid = self.task.rows(self.evidence.data, "valid").relevant
        chosen_on = (
            "valid"
            if "valid" in self.evidence.scores and valid.any() and not valid.all()
            else self.split
        )
        cut = best_cut(
            self.task.cosines(self.evidence.scores[chosen_on]),
            self.task.rows(self.evidence.data, chosen_on).relevant,
        )
        there = cut_at(cut.threshold, scores, relevant)
        where = (
            "the validation rows"
            if chosen_on != self.split
            else f"these {self.split} rows, so it is flattered"
        )
        yield (
            f"Suggested threshold: **{cut.threshold:.2f}**, the one with the highest F1 on {where}. On the "
            f"{self.split} rows it has precision {there.precision:.3f}, recall {there.recall:.3f}, F1 {there.f1:.3f} "
            f"where {100 * relevant.mean():.0f} % of the rows are relevant. Where another share is, choose another."
        )


def _segments(mine: Json | None, untuned: Json | None, primary: Metric) -> Iterator[str]:
    before = {} if untuned is None else untuned["segments"]
    found = (
        {}
        if mine is None
        else {name: row for name, row in mine["segments"].items() if primary.name in row}
    )
    if len(found) < 2:
        return
    rows = sorted(found.items(), key=lambda item: (-item[1]["rows"], item[0]))
    yield ""
    if len(rows) > MOST_SEGMENTS:
        yield f"The {MOST_SEGMENTS} largest of {len(rows)} segments:"
        yield ""
    yield f"| segment | queries | rows | {primary.label} untuned | {primary.label} |"
    yield "|---|---|---|---|---|"
    for name, row in rows[:MOST_SEGMENTS]:
        old, shown = (
            number(before.get(name, {}).get(primary.name)),
            " ".join(name.split()).replace("|", "\\|"),
        )
        yield f"| {shown} | {row['queries']:,.0f} | {row['rows']:,.0f} | {old} | {row[primary.name]:.4f} |"
