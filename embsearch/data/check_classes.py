"""The text that ``embsearch data check`` prints of texts with a class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from embsearch.codec import JsonObject
from embsearch.data.check import Lengths, files_of, left_out, lengths_of, table
from embsearch.data.class_data import ClassData
from embsearch.data.faults import quoted
from embsearch.data.source_files import SPLITS

SHOWN = 20  # classes


def describe(
    data: ClassData, lengths: Lengths | None = None, prompts: Mapping[str, str] | None = None
) -> str:
    """Return plain text that lines up in Chinese too.

    ``lengths`` counts the tokens of texts; ``prompts``, by role, stand before example rows.
    """
    report = data.report
    parts = [
        files_of(report),
        _splits(report),
        _classes(report),
        _examples(data, (prompts or {}).get("query", "")),
        left_out(report),
        lengths_of([("texts", list(data.texts))], lengths),
    ]
    return "\n\n".join(parts) + f"\n\nfingerprint {data.fingerprint}\n"


def _splits(report: JsonObject) -> str:
    rows = [("split", "texts", "classes")]
    for split in SPLITS:
        counts = report["splits"][split]
        rows.append((split, f"{counts['rows']:,}", f"{counts['classes']:,}"))
    return f"split {report['split']}\n{table(rows)}"


def _classes(report: JsonObject) -> str:
    sizes = {split: report["splits"][split]["sizes"] for split in SPLITS}
    named = sorted(sizes["train"], key=lambda name: (-sizes["train"][name], name))
    rows: list[tuple[str, ...]] = [("class", *SPLITS)]
    for name in named[:SHOWN]:
        rows.append((name, *(f"{sizes[split].get(name, 0):,}" for split in SPLITS)))
    lines = [table(rows)]
    if len(named) > SHOWN:
        lines.append(f"and {len(named) - SHOWN} smaller ones")
    lines.append(
        f"a class is known by the mean of its training texts, {report['centres']:,} in all"
    )
    if alone := report["alone"]:
        said = ", ".join(alone[:SHOWN])
        lines.append(f"{len(alone)} of one training text, which trains in no pair: {said}")
    return "\n".join(lines)


def _examples(data: ClassData, prompt: str) -> str:
    """Return five training rows, spread evenly."""
    rows, texts = data.train, data.texts
    lines = ["training rows, paired anew for every epoch: text | another of its class | class"]
    for at in np.linspace(0, len(rows) - 1, min(5, len(rows))).astype(int):
        one, other = int(rows.anchor[at]), int(rows.positive[at])
        name = data.classes[data.label[one]]
        both = (quoted(prompt + texts[i]) for i in (one, other))
        lines.append(f"  {' | '.join(both)} | {name}")
    return "\n".join(lines)
