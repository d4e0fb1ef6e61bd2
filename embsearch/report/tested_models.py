"""The models of the final table on the same test rows: untuned, default and winner side by side."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embsearch.codec import JsonObject
from embsearch.data.dataset import JudgedRows, TaskData
from embsearch.evaluate.examine import Examined
from embsearch.history.final_table import BEST, UNTUNED
from embsearch.report.record import Record
from embsearch.tasks.base import Groups
from embsearch.tasks.catalogue import task_of
from embsearch.values import Interval

BINS = 48
CLIP = 140  # characters of a text that are shown


@dataclass(frozen=True)
class MovedQuery:
    """A query whose first relevant title moved. Titles are (text, relevant), best first."""

    query: str
    before: int
    after: int
    top_before: tuple[tuple[str, bool], ...]
    top_after: tuple[tuple[str, bool], ...]


class Models:
    """The answers of a finished study's models for every row; ``by_label`` holds all of the final
    table.
    """

    def __init__(self, record: Record, data: TaskData, by_label: Mapping[str, Examined]) -> None:
        self.texts = data.texts
        self.split: str = next(iter(record.tested.values())).split
        self.task = task_of(record.config)
        self.rows: JudgedRows = self.task.rows(data, self.split)
        self.by_label = by_label
        self._draws, self._seed = record.config.evaluate.draws, record.config.seed
        self._gains: dict[tuple[str, str], Interval] = {}

    def gain(self, of: str, over: str) -> Interval | None:
        """Return the gain in the primary metric of one model over another, with its interval.

        None where either was not tested, or where the rows do not define the metric.
        """
        if not {of, over} <= self.by_label.keys() or self.task.lacking(self.rows):
            return None
        if (of, over) not in self._gains:
            self._gains[of, over] = self.paired(self.by_label[of], self.by_label[over])
        return self._gains[of, over]

    def paired(self, mine: Examined, theirs: Examined) -> Interval:
        """Return the primary metric of ``mine`` minus that of ``theirs`` on these rows, paired."""
        return self.task.gain(self.rows, mine.answers, theirs.answers, self._draws, self._seed)

    @property
    def groups(self) -> Groups:
        """The units that are drawn when rows are resampled."""
        return self.task.groups(self.rows)

    @property
    def of_titles(self) -> bool:
        """True where rows are queries with titles: only these have pictures."""
        return isinstance(self.rows, JudgedRows)

    def distributions(self) -> list[JsonObject]:
        """Return how similarities of relevant and irrelevant rows lie, before and after: shares by
        bin.
        """
        shown = [label for label in (UNTUNED, BEST) if label in self.by_label]
        every = np.concatenate([self.by_label[label].similarity for label in shown])
        edges = np.linspace(float(every.min()), float(every.max()) + 1e-6, BINS + 1)
        found = []
        for label in shown:
            for relevant in (True, False):
                scores = self.by_label[label].similarity[self.rows.relevant == relevant]
                shares = np.histogram(scores, edges)[0] / max(len(scores), 1)
                found += [
                    {
                        "model": label,
                        "relevant": relevant,
                        "from": round(a, 4),
                        "to": round(b, 4),
                        "share": round(s, 5),
                    }
                    for a, b, s in zip(
                        edges[:-1].tolist(), edges[1:].tolist(), shares.tolist(), strict=True
                    )
                ]
        return found

    def projection(self) -> tuple[list[JsonObject], list[JsonObject]]:
        """Return (points, links): the sample of texts in two dimensions, and lines to relevant
        titles.

        One map for each model, by t-SNE of cosine distances; a line goes from a query to each of
        its relevant titles. Both are empty where the sample is too small for a map.
        """
        points: list[JsonObject] = []
        links: list[JsonObject] = []
        for label in (UNTUNED, BEST):
            examined = self.by_label.get(label)
            if examined is None or len(examined.sample) < 8:
                continue
            place = dict(
                zip(examined.sample.tolist(), _flat(examined.vectors).tolist(), strict=True)
            )
            here = np.isin(self.rows.text, examined.sample) & np.isin(
                self.rows.title, examined.sample
            )
            queries = set(self.rows.text[here].tolist())
            points += [
                {
                    "model": label,
                    "x": x,
                    "y": y,
                    "text": self._text(i),
                    "kind": "query" if i in queries else "title",
                }
                for i, (x, y) in place.items()
            ]
            joined = here & self.rows.relevant
            for text, title in zip(
                self.rows.text[joined].tolist(), self.rows.title[joined].tolist(), strict=True
            ):
                (x, y), (x2, y2) = place[text], place[title]
                links.append({"model": label, "x": x, "y": y, "x2": x2, "y2": y2})
        return points, links

    def moved(self, most: int = 6) -> tuple[list[MovedQuery], list[MovedQuery]]:
        """Return the queries that gained and those that lost most: by 1 / place of the first
        relevant title among all titles of the split.
        """
        if not {UNTUNED, BEST} <= self.by_label.keys():
            return [], []
        before, after = (self.by_label[label].place.astype(float) for label in (UNTUNED, BEST))
        asked = (before > 0) & (after > 0)
        change = np.where(
            asked, 1 / np.where(asked, after, 1) - 1 / np.where(asked, before, 1), 0.0
        )
        order = np.lexsort((np.arange(len(change)), change - 1e-9 * (after - before)))
        gained = [self._moved(int(q)) for q in order[::-1][:most] if change[q] > 0]
        return gained, [self._moved(int(q)) for q in order[:most] if change[q] < 0]

    def places(self) -> dict[str, int]:
        """Return how many queries found their first relevant title higher up, lower down, or at the
        same place.
        """
        before, after = (self.by_label[label].place for label in (UNTUNED, BEST))
        asked = before > 0
        return {
            "higher": int(np.count_nonzero(asked & (after < before))),
            "lower": int(np.count_nonzero(asked & (after > before))),
            "same": int(np.count_nonzero(asked & (after == before))),
        }

    def _moved(self, query: int) -> MovedQuery:
        rows = self.rows
        mine = rows.query == query
        relevant = set(rows.title[mine & rows.relevant].tolist())
        tops = [
            tuple(
                (self._text(t), t in relevant)
                for t in self.by_label[label].top[query].tolist()
                if t >= 0
            )
            for label in (UNTUNED, BEST)
        ]
        before, after = (int(self.by_label[label].place[query]) for label in (UNTUNED, BEST))
        return MovedQuery(
            self._text(int(rows.text[np.flatnonzero(mine)[0]])), before, after, tops[0], tops[1]
        )

    def _text(self, number: int) -> str:
        text = self.texts[number]
        return text if len(text) <= CLIP else text[: CLIP - 1] + "…"


def examined(record: Record, data: TaskData) -> dict[str, Examined]:
    """Return what was kept of each row of the final table, where that is whole and of these very
    rows.
    """
    task = task_of(record.config)
    found = {}
    for label, event in record.tested.items():
        rows = task.rows(data, event.split)
        with suppress(OSError, ValueError):
            kept = Examined.load(record.folder.tested(label))
            if task.fits(rows, kept):
                found[label] = kept
    return found


def _flat(vectors_SE: np.ndarray) -> NDArray[np.float64]:
    """Return (S, 2), rounded."""
    from sklearn.manifold import TSNE

    exact = np.asarray(vectors_SE, dtype=np.float32)
    made = TSNE(
        perplexity=min(30.0, (len(exact) - 1) / 3),
        metric="cosine",
        init="random",
        max_iter=500,
        random_state=0,
        n_jobs=1,
    ).fit_transform(exact)
    flat: NDArray[np.float64] = np.round(made.astype(np.float64), 2)
    return flat
