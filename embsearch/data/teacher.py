"""A teacher's scores of a row's positives and negatives, as files for distillation carry them.

Three ways to write them: a list or number for the positives and one for the negatives
(FlagEmbedding: ``pos_scores``, ``neg_scores``); one list, the positives' scores before the
negatives' (sentence-transformers: ``score``); or one number, by how much the positive is better
than the negative (MS MARCO's margins).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from embsearch.data.faults import quoted
from embsearch.data.nested import texts_in
from embsearch.data.read import Table
from embsearch.errors import DataError

SCORES = ("pos_score", "neg_score", "scores")
NAMES = {"pos_score": "positive", "neg_score": "negative"}
Texts = Mapping[str, Sequence[Sequence[str]]]  # of each row, under positive and negative


def leave_unreadable(table: Table, found: dict[str, str]) -> None:
    """Take out of ``found`` scores that are no numbers, or that no negative stands beside."""
    for name in SCORES:
        cells = table.frame[found[name]] if name in found else ()
        if name in found and not ("negative" in found and all(map(_readable, cells))):
            del found[name]
    if "pos_score" in found and "neg_score" in found:
        found.pop("scores", None)


def scores_of(
    table: Table, headers: Mapping[str, str], texts: Texts
) -> dict[str, list[list[str | None]]]:
    """Return ``pos_score`` and ``neg_score``: the score of each text of each row, None for none.

    Raises DataError where there are more or fewer scores than texts.
    """
    named = {name: table.frame[headers[name]] for name in SCORES if name in headers}
    if not named or "negative" not in texts:
        return {}
    made: dict[str, list[list[str | None]]] = {"pos_score": [], "neg_score": []}
    for at, (better, worse) in enumerate(zip(texts["positive"], texts["negative"], strict=True)):
        cells = {name: _values(cells.iloc[at]) for name, cells in named.items()}
        both = cells.get("scores", [])
        if len(both) == 1 and len(better) == len(worse) == 1:
            both = [*both, "0"]  # a margin
        cells = {"pos_score": both[: len(better)], "neg_score": both[len(better) :], **cells}
        for name, row in (("pos_score", better), ("neg_score", worse)):
            if len(cells[name]) not in (0, len(row)):
                source = name if name in named else "scores"
                found = f"{len(cells[name])} scores ({source}, header {quoted(headers[source])})"
                raise DataError(
                    f"{table.name}, row {table.rows[at]}: {found} for {len(row)} texts "
                    f"({NAMES[name]}); expected one for each, or data.columns.{source}=null to "
                    "leave them"
                )
            made[name].append([*cells[name]] or [None] * len(row))
    return made


def _values(cell: str) -> list[str]:
    return [text for text in texts_in(cell) if text.strip()]


def _readable(cell: str) -> bool:
    try:
        return all(math.isfinite(float(text)) for text in _values(cell))
    except ValueError:
        return False
