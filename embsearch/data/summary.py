"""Counts per split, and what the splits share: plain JSON for the report."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from itertools import combinations

import pandas as pd

from embsearch.codec import Json, JsonObject
from embsearch.config.catalogue import OWN_FORMATS
from embsearch.data.source_files import SPLITS


def summarise(shown: pd.DataFrame, rankable: AbstractSet[str], positive_grade: float) -> JsonObject:
    """Count rows, queries and titles of each split.

    ``shown``: key, title, grade, segment, split, every title of a query once.

    ``rankable`` holds the keys of queries with both a relevant and an irrelevant title.
    """
    rows = {split: shown[shown["split"] == split] for split in SPLITS}
    titles = {split: set(part["title"]) for split, part in rows.items()}
    keys = {split: set(part["key"]) for split, part in rows.items()}
    return {
        "splits": {
            split: {
                "rows": len(part),
                "queries": len(keys[split]),
                "rankable_queries": len(keys[split] & rankable),
                "titles": len(titles[split]),
                "relevant": int((part["grade"] >= positive_grade).sum()),
                "grades": {
                    f"{g:g}": int(n) for g, n in part["grade"].value_counts().sort_index().items()
                },
                "segments": _segments(part),
            }
            for split, part in rows.items()
        },
        "query_overlap": {f"{a}-{b}": len(keys[a] & keys[b]) for a, b in combinations(SPLITS, 2)},
        "title_overlap": {
            f"{a}-{b}": len(titles[a] & titles[b]) for a, b in combinations(SPLITS, 2)
        },
    }


def pairs_and_unread(report: Json) -> str:
    """Return a line on what reading the files found: training rows without a negative, columns that
    nothing reads, rows that were dropped or contradict others; '' where there are none."""
    if sets := report.get("sets"):
        every = {name: pairs_and_unread(one) for name, one in sets.items()}
        return "; ".join(f"{name}: {line}" for name, line in every.items() if line)
    parts = []
    pairs = report.get("pairs")
    if pairs and report.get("format") not in OWN_FORMATS:  # of these all rows are
        rows = report["triplets"] + pairs
        parts.append(f"{pairs:,} of {rows:,} training rows are pairs without a negative")
    for file in report.get("files", ()):
        if file.get("unused"):
            parts.append(f"columns of {file['file']} left unread: {', '.join(file['unused'])}")
    if dropped := report.get("dropped"):
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in dropped.items())
        total, rows = sum(dropped.values()), report["rows"]
        parts.append(f"{total:,} of {rows:,} rows dropped ({kinds})")
    if place := report.get("dropped_to"):
        parts[-1] += f", written to {place}"
    if count := report.get("contradictions"):
        parts.append(f"{count:,} contradictions: 'embsearch data check' shows them")
    return "; ".join(parts)


def _segments(rows: pd.DataFrame) -> dict[str, int]:
    return {str(name): int(n) for name, n in rows["segment"].value_counts().items() if name}
