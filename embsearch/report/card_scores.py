"""The part of a model's card that is measured: results on held-out rows, and what a cosine means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from embsearch.data.dataset import Dataset, Judged
from embsearch.evaluate.bootstrap import auc_gain, auc_interval
from embsearch.evaluate.score import by_segment, score
from embsearch.report.calibration import QUANTILES, best_cut, cut_at, quantiles
from embsearch.report.findings import signed
from embsearch.report.models import Models
from embsearch.report.record import BEST, DEFAULT, UNTUNED, Course, Record
from embsearch.report.result import number, ranks
from embsearch.values import Interval
from embsearch.values import record as plain

MOST_SEGMENTS = 12


@dataclass(frozen=True)
class Evidence:
    """What models say of single rows: those of the final table of the held-out ones (``models``), the card's own of
    each split (``scores``, (M,) cosines)."""

    data: Dataset
    models: Models
    scores: Mapping[str, NDArray[Any]]


class Scores:
    """Of one trial's model, beside the untuned encoder and the default configuration."""

    def __init__(self, record: Record, course: Course, evidence: Evidence | None) -> None:
        self.record, self.course, self.evidence = record, course, evidence
        self.split = str(next(iter(record.tested.values()))["split"]) if record.tested else "test"
        self.rows: Judged | None = None if evidence is None else getattr(evidence.data, self.split)

    @property
    def _pooled(self) -> bool:
        """Whether the study's recall is among all titles of the split."""
        return any("pool_recall_1" in event["metrics"] for event in self.record.tested.values())

    def results(self) -> Iterator[str]:
        """AUC with its interval, the paired gain, ranking metrics, segments."""
        tested = {label: event for label, event in self.record.tested.items() if label != BEST}
        mine = self._mine()
        if mine is None and not tested:
            return
        rows = "test rows, by which no trial was chosen"
        if self.split != "test":
            rows = "VALIDATION rows, by which trials were chosen, as there are no test rows: every number is too good"
        pool = "all titles of the split" if self._pooled else "the same"
        yield "## Results"
        yield ""
        yield (
            f"On the {rows}. Intervals of 95 % by resampling queries, the gain paired on the same rows. nDCG is "
            f"among the titles shown for a query, recall among {pool}."
        )
        yield ""
        yield "| encoder | AUC | gain over the untuned encoder | nDCG@10 | recall@1 | recall@10 |"
        yield "|---|---|---|---|---|---|"
        for label, event in tested.items():
            if event["trial"] != self.course.number:
                yield _line(label, event, None if label == UNTUNED else self._gain(label, UNTUNED))
        if mine is not None:
            yield _line(f"**this model** (trial {self.course.number})", mine, self._gain(None, UNTUNED))
        yield ""
        yield " ".join(self._remarks())
        yield from _segments(mine, tested.get(UNTUNED))

    def _mine(self) -> Mapping[str, Any] | None:
        """This model's test as a ``tested`` event holds it; from its scores where the study did not test it."""
        for event in self.record.tested.values():
            if event["trial"] == self.course.number:
                return event
        if self.evidence is None or self.rows is None or self.split not in self.evidence.scores:
            return None
        scores, rows, evaluate = self.evidence.scores[self.split], self.rows, self.record.config.evaluate
        auc = auc_interval(scores, rows.relevant, rows.query, evaluate.draws, self.record.config.seed)
        metrics = score(rows, scores)
        if self._pooled:  # recall among fewer titles would look better than it is beside the others
            metrics = {name: value for name, value in metrics.items() if not name.startswith("recall")}
        return {"metrics": metrics, "auc": plain(auc), "segments": by_segment(rows, scores)}

    def _gain(self, of: str | None, over: str) -> Interval | None:
        """AUC of a model of the table, or of this one (None), minus that of another of the table."""
        if self.evidence is None or self.rows is None or over not in self.evidence.models.by_label:
            return None
        models, rows = self.evidence.models, self.rows
        if of is not None:
            return models.gain(of, over)
        if self.split not in self.evidence.scores or rows.relevant.all() or not rows.relevant.any():
            return None
        theirs, config = models.by_label[over].similarity, self.record.config
        mine = self.evidence.scores[self.split]
        return auc_gain(mine, theirs, rows.relevant, rows.query, config.evaluate.draws, config.seed)

    def _remarks(self) -> Iterator[str]:
        best = self.record.best
        if self.course.number == 0:
            yield "This is the default configuration."
        elif over := self._gain(None, DEFAULT):
            yield f"Gain over the default configuration: {signed(over)} AUC."
        yield f"Validation {self.record.objective}, by which trials were compared: {number(self.course.best)}."
        if best is not None and best.number != self.course.number:
            yield (
                f"The study's best is trial {best.number} ({number(best.best)}); the {self.split} rows were read for "
                "this card after that was known."
            )

    def cosine(self) -> Iterator[str]:
        """How scores lie, and a threshold: chosen on validation rows where their scores are there."""
        if self.evidence is None or self.rows is None or self.split not in self.evidence.scores:
            return
        scores, relevant = self.evidence.scores[self.split], self.rows.relevant
        if relevant.all() or not relevant.any():
            return
        yield "## What a cosine means"
        yield ""
        yield f"Quantiles of the scores of the {self.split} rows:"
        yield ""
        yield f"| | {' | '.join(f'{100 * q:.0f} %' for q in QUANTILES)} |"
        yield f"|---|{'---|' * len(QUANTILES)}"
        for name, values in quantiles(scores, relevant).items():
            yield f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |"
        yield ""
        valid = self.evidence.data.valid.relevant
        chosen_on = "valid" if "valid" in self.evidence.scores and valid.any() and not valid.all() else self.split
        cut = best_cut(self.evidence.scores[chosen_on], getattr(self.evidence.data, chosen_on).relevant)
        there = cut_at(cut.threshold, scores, relevant)
        where = "the validation rows" if chosen_on != self.split else f"these {self.split} rows, so it is flattered"
        yield (
            f"Suggested threshold: **{cut.threshold:.2f}**, the one with the highest F1 on {where}. On the "
            f"{self.split} rows it has precision {there.precision:.3f}, recall {there.recall:.3f}, F1 {there.f1:.3f} "
            f"where {100 * relevant.mean():.0f} % of the rows are relevant. Where another share is, choose another."
        )


def _line(name: str, event: Mapping[str, Any], gain: Interval | None) -> str:
    auc, more = event["auc"], " | ".join(number(value) for value in ranks(event["metrics"]))
    interval = f"{auc['value']:.4f} ({auc['low']:.4f} to {auc['high']:.4f})"
    return f"| {name} | {interval} | {signed(gain) if gain else ''} | {more} |"


def _segments(mine: Mapping[str, Any] | None, untuned: Mapping[str, Any] | None) -> Iterator[str]:
    before = {} if untuned is None else untuned["segments"]
    found = {} if mine is None else {name: row for name, row in mine["segments"].items() if "auc" in row}
    if len(found) < 2:
        return
    rows = sorted(found.items(), key=lambda item: (-item[1]["rows"], item[0]))
    yield ""
    if len(rows) > MOST_SEGMENTS:
        yield f"The {MOST_SEGMENTS} largest of {len(rows)} segments:"
        yield ""
    yield "| segment | queries | rows | AUC untuned | AUC |"
    yield "|---|---|---|---|---|"
    for name, row in rows[:MOST_SEGMENTS]:
        old, shown = number(before.get(name, {}).get("auc")), " ".join(name.split()).replace("|", "\\|")
        yield f"| {shown} | {row['queries']:,.0f} | {row['rows']:,.0f} | {old} | {row['auc']:.4f} |"
