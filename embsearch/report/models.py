"""The models of the final table on the same test rows: untuned, default and winner side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
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
    """What the models say of every row. ``by_label`` holds the untuned encoder at least."""

    def __init__(self, data: Dataset, split: str, by_label: Mapping[str, Examined], draws: int, seed: int) -> None:
        self.texts, self.split = data.texts, split
        self.rows: Judged = getattr(data, split)
        self.by_label = by_label
        self._draws, self._seed = draws, seed
        self._gains: dict[tuple[str, str], Interval] = {}

    def gain(self, of: str, over: str) -> Interval | None:
        """AUC of one model minus that of another, with its interval: paired, queries resampled."""
        relevant = self.rows.relevant
        if not {of, over} <= self.by_label.keys() or relevant.all() or not relevant.any():
            return None
        if (of, over) not in self._gains:
            mine, theirs = self.by_label[of].similarity, self.by_label[over].similarity
            self._gains[of, over] = auc_gain(mine, theirs, relevant, self.rows.query, self._draws, self._seed)
        return self._gains[of, over]

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


def read_models(record: Record, data: Dataset) -> Models | None:
    """The models of a finished study. None where the untuned encoder's or the winner's file is missing, or was
    made of other rows: ``missing`` says which."""
    if missing(record, data):
        return None
    split = next(iter(record.tested.values()))["split"]
    found = dict(_files(record))
    examined = {label: Examined.load(path) for label, path in found.items()}
    return Models(data, split, examined, record.config.evaluate.draws, record.config.seed)


def missing(record: Record, data: Dataset) -> list[str]:
    """The labels of the final table whose file must be made (again)."""
    return [label for label, path in _files(record) if not _fits(path, getattr(data, record.tested[label]["split"]))]


def _files(record: Record) -> Iterator[tuple[str, Path]]:
    for label in record.tested:
        yield label, record.folder.tested(label)


def _fits(path: Path, rows: Judged) -> bool:
    try:
        examined = Examined.load(path)
    except (OSError, ValueError):
        return False
    return len(examined.similarity) == len(rows) and len(examined.place) == len(np.unique(rows.query))


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
