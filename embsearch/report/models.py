"""The models of the final table on the same test rows: untuned, default and winner side by side."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embsearch.data.dataset import Dataset, Judged
from embsearch.evaluate.bootstrap import auc_gain
from embsearch.evaluate.examine import Examined
from embsearch.report.record import BEST, UNTUNED, Record
from embsearch.values import Interval

BINS = 48
CLIP = 140  # characters of a text that are shown


@dataclass(frozen=True)
class Moved:
    """A query whose first relevant title moved. Titles are (text, relevant), best first."""

    query: str
    before: int
    after: int
    top_before: tuple[tuple[str, bool], ...]
    top_after: tuple[tuple[str, bool], ...]


class Models:
    """What the models of a finished study say of every row; ``by_label`` holds all of the final table."""

    def __init__(self, record: Record, data: Dataset, by_label: Mapping[str, Examined]) -> None:
        self.texts = data.texts
        self.split: str = next(iter(record.tested.values()))["split"]
        self.rows: Judged = getattr(data, self.split)
        self.by_label = by_label
        self._draws, self._seed = record.config.evaluate.draws, record.config.seed
        self._gains: dict[tuple[str, str], Interval] = {}

    def gain(self, of: str, over: str) -> Interval | None:
        """AUC of one model minus that of another, with its interval. None where either was not tested, or where all
        rows are relevant or none is."""
        relevant = self.rows.relevant
        if not {of, over} <= self.by_label.keys() or relevant.all() or not relevant.any():
            return None
        if (of, over) not in self._gains:
            self._gains[of, over] = self.paired(self.by_label[of], self.by_label[over])
        return self._gains[of, over]

    def paired(self, mine: Examined, theirs: Examined) -> Interval:
        """AUC of ``mine`` minus AUC of ``theirs`` on these rows: paired, queries resampled."""
        rows = self.rows
        return auc_gain(mine.similarity, theirs.similarity, rows.relevant, rows.query, self._draws, self._seed)

    def distributions(self) -> list[dict[str, Any]]:
        """How similarities of relevant and irrelevant rows lie, before and after: shares by bin."""
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
                    for a, b, s in zip(edges[:-1].tolist(), edges[1:].tolist(), shares.tolist(), strict=True)
                ]
        return found

    def projection(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(points, links): the sample of texts in two dimensions (t-SNE, cosine distance, one map a model), and
        lines from each query to its relevant titles. Empty where the sample is too small for a map."""
        points: list[dict[str, Any]] = []
        links: list[dict[str, Any]] = []
        for label in (UNTUNED, BEST):
            examined = self.by_label.get(label)
            if examined is None or len(examined.sample) < 8:
                continue
            place = dict(zip(examined.sample.tolist(), _flat(examined.vectors).tolist(), strict=True))
            here = np.isin(self.rows.text, examined.sample) & np.isin(self.rows.title, examined.sample)
            queries = set(self.rows.text[here].tolist())
            points += [
                {"model": label, "x": x, "y": y, "text": self._text(i), "kind": "query" if i in queries else "title"}
                for i, (x, y) in place.items()
            ]
            joined = here & self.rows.relevant
            for text, title in zip(self.rows.text[joined].tolist(), self.rows.title[joined].tolist(), strict=True):
                (x, y), (x2, y2) = place[text], place[title]
                links.append({"model": label, "x": x, "y": y, "x2": x2, "y2": y2})
        return points, links

    def moved(self, most: int = 6) -> tuple[list[Moved], list[Moved]]:
        """The queries that gained and those that lost most: by 1 / place of the first relevant title among all
        titles of the split."""
        if not {UNTUNED, BEST} <= self.by_label.keys():
            return [], []
        before, after = (self.by_label[label].place.astype(float) for label in (UNTUNED, BEST))
        asked = (before > 0) & (after > 0)
        change = np.where(asked, 1 / np.where(asked, after, 1) - 1 / np.where(asked, before, 1), 0.0)
        order = np.lexsort((np.arange(len(change)), change - 1e-9 * (after - before)))
        gained = [self._moved(int(q)) for q in order[::-1][:most] if change[q] > 0]
        return gained, [self._moved(int(q)) for q in order[:most] if change[q] < 0]

    def places(self) -> dict[str, int]:
        """How many queries found their first relevant title higher up, lower down, or at the same place."""
        before, after = (self.by_label[label].place for label in (UNTUNED, BEST))
        asked = before > 0
        return {
            "higher": int(np.count_nonzero(asked & (after < before))),
            "lower": int(np.count_nonzero(asked & (after > before))),
            "same": int(np.count_nonzero(asked & (after == before))),
        }

    def _moved(self, query: int) -> Moved:
        rows = self.rows
        mine = rows.query == query
        relevant = set(rows.title[mine & rows.relevant].tolist())
        tops = [
            tuple((self._text(t), t in relevant) for t in self.by_label[label].top[query].tolist() if t >= 0)
            for label in (UNTUNED, BEST)
        ]
        before, after = (int(self.by_label[label].place[query]) for label in (UNTUNED, BEST))
        return Moved(self._text(int(rows.text[np.flatnonzero(mine)[0]])), before, after, tops[0], tops[1])

    def _text(self, number: int) -> str:
        text = self.texts[number]
        return text if len(text) <= CLIP else text[: CLIP - 1] + "…"


def examined(record: Record, data: Dataset) -> dict[str, Examined]:
    """Of each row of the final table what was kept, where that is there, whole, and of these very rows."""
    found = {}
    for label, event in record.tested.items():
        rows = getattr(data, event["split"])
        with suppress(OSError, ValueError):
            kept = Examined.load(record.folder.tested(label))
            if len(kept.similarity) == len(rows) and len(kept.place) == len(np.unique(rows.query)):
                found[label] = kept
    return found


def _flat(vectors_SE: NDArray[Any]) -> NDArray[np.float64]:
    """(S, 2), rounded."""
    from sklearn.manifold import TSNE

    exact = np.asarray(vectors_SE, dtype=np.float32)
    made = TSNE(
        perplexity=min(30.0, (len(exact) - 1) / 3), metric="cosine", init="random", max_iter=500,
        random_state=0, n_jobs=1,
    ).fit_transform(exact)  # fmt: skip
    flat: NDArray[np.float64] = np.round(made.astype(np.float64), 2)
    return flat
