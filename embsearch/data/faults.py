"""A row that cannot be used: where it is, what is wrong with it, and the error of many of them."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from embsearch.errors import DataError

SHOWN = 20  # faults a message lists; the rest is counted
MANY = 5  # faults of a column that hint at a column of another meaning
_OPTIONAL = {"bad weight": "weight", "bad time": "time", "unknown split": "split"}
_REMEDY = "fix the row or set data.on_bad_row=drop"


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one row. ``row`` is the line an editor shows, the header being line 1;
    ``kind`` is what faults are counted by; ``what`` names the value and what was expected."""

    file: str
    row: int
    kind: str
    what: str
    values: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.what}; {_REMEDY}"


def quoted(value: object, width: int = 60) -> str:
    """Return A cell as messages show it: quoted, on one line, cut when long."""
    text = str(value).replace("\r", " ").replace("\n", " ")
    return f"'{text if len(text) <= width else text[: width - 1] + '…'}'"


def refusal(faults: Sequence[Fault]) -> DataError:
    """Return one error for all faults: the first of them in full, the others counted by kind."""
    lines = [str(fault) for fault in faults[:SHOWN]]
    if len(faults) > SHOWN:
        kinds = ", ".join(f"{kind} {n}" for kind, n in count_kinds(faults).items())
        lines.append(f"... and {len(faults) - SHOWN} more ({len(faults)} in all: {kinds})")
    for kind, name in _OPTIONAL.items():
        if count_kinds(faults).get(kind, 0) >= MANY:
            lines.append(f"if that column is no {name}: data.columns.{name}=null leaves it unread")
    return DataError(lines)


def count_kinds(faults: Iterable[Fault]) -> dict[str, int]:
    """Return the number of faults of each kind, the most frequent first."""
    return dict(Counter(fault.kind for fault in faults).most_common())


def as_csv(faults: Iterable[Fault]) -> str:
    """Return the text of dropped.csv: file, row, reason and the row's cells as JSON."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["file", "row", "reason", "values"])
    for fault in faults:
        cells = json.dumps(dict(fault.values), ensure_ascii=False)
        writer.writerow([fault.file, fault.row, fault.what, cells])
    return out.getvalue()
