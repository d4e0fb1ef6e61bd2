"""The text that ``embsearch data check`` prints: the data in numbers, and everything that was left
out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from embsearch.codec import Json, JsonObject
from embsearch.data.dataset import Dataset, Ids
from embsearch.data.faults import quoted
from embsearch.data.source_files import SPLITS

Lengths = Callable[[Sequence[str]], NDArray[np.integer]]
ROWS = {
    "triplets": "a query with its positives, and negatives where it has them",
    "judgements": "a query, a title and its grade",
    "clicks": "a query, a title that was shown, and its click",
    "scored": "two texts and how alike they are",
    "classes": "a text and its class",
}
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_SHARES = (0.5, 0.9, 0.99, 0.999, 1.0)
_SHARED = (("queries", "query_overlap"), ("titles", "title_overlap"))


def describe(
    dataset: Dataset, lengths: Lengths | None = None, prompts: Mapping[str, str] | None = None
) -> str:
    """Return plain text that lines up in Chinese too.

    ``lengths`` counts the tokens of texts; ``prompts``, by role, stand before example rows.
    """
    report = dataset.report
    parts = [
        files_of(report),
        _splits(report, dataset),
        _examples(dataset, prompts or {}),
        left_out(report),
        _overlap(report),
        _texts(dataset, lengths),
        _segments(report),
    ]
    return "\n\n".join(part for part in parts if part) + f"\n\nfingerprint {dataset.fingerprint}\n"


def files_of(report: JsonObject) -> str:
    """Return the files and their columns."""
    lines = [f"format      {report['format']}: a row is {ROWS[report['format']]}"]
    for file in report["files"]:
        split = ""
        if file["split"]:
            split = f", {file['split']}"
        lines.append(
            f"file        {file['file']}: {file['rows']:,} rows, {file['encoding']}{split}"
        )
        lines.append(
            "  columns   " + ", ".join(_named(ours, h) for ours, h in file["columns"].items())
        )
        if file["unused"]:
            lines.append("  unused    " + ", ".join(file["unused"]))
    return "\n".join([*lines, *(f"note        {note}" for note in report["notes"])])


def _named(ours: str, header: str) -> str:
    if ours == header:
        return ours
    return f"{ours} = {header}"


def _splits(report: JsonObject, dataset: Dataset) -> str:
    rows: list[tuple[str, ...]] = [
        ("split", "rows", "queries", "with both", "titles", "relevant", "triplets", "pairs")
    ]
    for split in SPLITS:
        counts = report["splits"][split]
        both = counts["rankable_queries"] / max(counts["queries"], 1)
        numbers = [
            f"{counts['rows']:,}",
            f"{counts['queries']:,}",
            f"{both:.1%}",
            f"{counts['titles']:,}",
        ]
        relevant = counts["relevant"] / max(counts["rows"], 1)
        numbers.append(f"{relevant:.1%}")
        trained = ["", ""]
        if split == "train":
            trained = [f"{report['triplets']:,}", f"{report['pairs']:,}"]
        rows.append((split, *numbers, *trained))
    weights = dataset.train.weight
    weighted = ""
    if np.ptp(weights):
        weighted = f"\nweights from {weights.min():g} to {weights.max():g}"
    legend = (
        "rows: titles shown for a query, each once; with both: queries with a relevant and an irrelevant one;\n"
        "pairs: training rows without a negative"
    )
    shares = (f"{split}: {_grades(report['splits'][split])}" for split in SPLITS)
    grades = _scores(report, dataset) or f"grades  {'; '.join(shares)}"
    parts = [f"split {report['split']}", table(rows), legend, f"{grades}{weighted}"]
    return "\n".join([*parts, *sampled_line(report)])


def _scores(report: Json, dataset: Dataset) -> str:
    """Return what the scores of pairs are; '' where rows have none."""
    found = report.get("scores")
    if not found:
        return ""
    columns = (dataset.train.score, dataset.valid.grade, dataset.test.grade)
    quarters = []
    for split, column in zip(SPLITS, columns, strict=True):
        if len(column):
            quartiles = np.quantile(column, (0, 0.25, 0.5, 0.75, 1))
            words = " ".join(f"{q:.2f}" for q in quartiles)
            quarters.append(f"{split} {words}")
    return (
        f"scores  from {found['from']:g} to {found['to']:g}, here 0 to 1; a pair from their mean "
        f"{found['mean']:.3f} on counts as relevant, for AUC alone\n"
        f"quartiles  {'; '.join(quarters)}"
    )


def sampled_line(report: Json) -> list[str]:
    """Return the line that says which titles were sampled as irrelevant; none where none were."""
    sampled = report.get("sampled")
    if not sampled:
        return []
    splits = " and ".join(f"{n:,} rows of {split}" for split, n in sampled["rows"].items())
    return [
        f"sampled {splits}: no validation title is irrelevant, so each query is shown "
        f"{sampled['titles']} titles of its split that are not its own (seed {sampled['seed']}); "
        "AUC is against these"
    ]


def _examples(dataset: Dataset, prompts: Mapping[str, str]) -> str:
    """Return five training rows, spread evenly, as a trial sees them."""
    rows, texts = dataset.train, dataset.texts
    query = prompts.get("query", "")
    title = query
    if not dataset.symmetric:
        title = prompts.get("document", "")
    scored = bool(len(rows.score))
    lines = ["training rows: query | positive | negative"]
    if scored:
        lines = ["training rows: text | text | score"]
    for at in np.linspace(0, len(rows) - 1, min(5, len(rows))).astype(int):
        cells = [quoted(query + texts[rows.anchor[at]]), quoted(title + texts[rows.positive[at]])]
        last = rows.negative[at]
        if scored:
            cells.append(f"{rows.score[at]:.3f}")
        elif last >= 0:
            cells.append(quoted(title + texts[last]))
        else:
            cells.append("none")
        lines.append("  " + " | ".join(cells))
    return "\n".join(lines)


def _grades(counts: JsonObject) -> str:
    grades = list(counts["grades"].items())
    shown = ", ".join(f"{grade} {n / counts['rows']:.1%}" for grade, n in grades[:8])
    if not shown:
        return "none"
    if len(grades) > 8:
        return f"{shown} and {len(grades) - 8} more"
    return shown


def left_out(report: JsonObject) -> str:
    """Return what was left out of the rows."""
    total = sum(report["dropped"].values())
    lines = [f"dropped         {total:,} of {report['rows']:,} rows"]
    lines += [f"  {n:,}  {kind}" for kind, n in report["dropped"].items()]
    if total:
        lines.append(f"  written to {report['dropped_to']}")
    lines.append(f"duplicates      {report['duplicates']:,}, each kept once")
    lines.append(f"contradictions  {report['contradictions']:,}")
    return "\n".join([*lines, *(f"  {example}" for example in report["contradiction_examples"])])


def _overlap(report: JsonObject) -> str:
    rows = [("in both splits", *report["query_overlap"])]
    rows += [(what, *(f"{n:,}" for n in report[key].values())) for what, key in _SHARED]
    return table(rows)


def _texts(dataset: Dataset, lengths: Lengths | None) -> str:
    queries = _distinct(dataset.train.anchor, dataset.valid.text, dataset.test.text)
    titles = _distinct(
        dataset.train.positive, dataset.train.negative, dataset.valid.title, dataset.test.title
    )
    parts = [
        (name, [dataset.texts[at] for at in ids])
        for name, ids in (("queries", queries), ("titles", titles))
    ]
    return lengths_of(parts, lengths)


def lengths_of(parts: Sequence[tuple[str, list[str]]], lengths: Lengths | None) -> str:
    """Return how long the texts of each part are, and the share of them that is CJK."""
    heads = ("longest" if share == 1 else f"{share:.1%}" for share in _SHARES)
    rows: list[tuple[str, ...]] = [("length", *heads)]
    lines = []
    for name, texts in parts:
        rows.append((f"{name}, characters", *_quantiles(np.array([len(text) for text in texts]))))
        if lengths:
            rows.append((f"{name}, tokens", *_quantiles(np.asarray(lengths(texts)))))
        lines.append(f"{name}: {cjk_share(texts):.1%} of letters are Chinese, Japanese or Korean")
    return "\n".join([table(rows), *lines])


def _segments(report: JsonObject) -> str:
    names = sorted({name for split in SPLITS for name in report["splits"][split]["segments"]})
    if not names:
        return ""
    rows: list[tuple[str, ...]] = [("segment rows", *SPLITS)]
    for name in names:
        counts = [report["splits"][split]["segments"].get(name, 0) for split in SPLITS]
        rows.append((name, *(f"{n:,}" for n in counts)))
    return table(rows)


def _distinct(*columns: Ids) -> Ids:
    ids = np.unique(np.concatenate(columns))
    return ids[ids >= 0]


def _quantiles(counts: NDArray[np.integer]) -> list[str]:
    return [f"{int(n):,}" for n in np.quantile(counts, _SHARES, method="higher")]


def cjk_share(texts: Iterable[str]) -> float:
    """Return share of the letters that are Chinese, Japanese or Korean."""
    text = "".join(texts)
    letters = sum(map(str.isalpha, text))
    if not letters:
        return 0.0
    return len(_CJK.findall(text)) / letters


def width(text: str) -> int:
    """Return columns a terminal gives the text: wide characters two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows under each other: the first column to the left, the others to the right."""
    widths = [max(width(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [" " * (w - width(cell)) + cell for cell, w in zip(row, widths, strict=True)]
        cells[0] = row[0] + " " * (widths[0] - width(row[0]))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
