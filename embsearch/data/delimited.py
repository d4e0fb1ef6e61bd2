"""CSV and TSV as people's tools write them: which mark separates cells, and whether quotes quote.

Most files quote a cell that holds the separator. Some, TSV above all, quote nothing: there a quote
mark at the beginning of a cell would swallow everything up to the next one. A TSV is read without
quoting where its quotes do not match up, any file where a cell would hold whole rows of it.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from typing import Literal

from embsearch.data.faults import Fault, quoted
from embsearch.errors import DataError

csv.field_size_limit(2**31 - 1)  # a text is as long as it is; the encoder cuts it
_SEP = re.compile(r"\ufeff?sep=(.|\\t)\r?\n", re.IGNORECASE)  # Excel's line above the header


@dataclass
class Records:
    """The header of a file, its rows with the line on which each begins, and ragged rows."""

    header: list[str] = field(default_factory=list)
    header_row: int = 1
    cells: list[list[str]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def records(text: str, name: str, delimiter: str) -> Records:
    """Return the records of a file whose cells ``delimiter`` separates, or what its first line says.

    Raises DataError where quotes do not match up, or a line stands above the header.
    """
    above = _SEP.match(text)
    first = text.partition("\n")[0]
    if above:
        delimiter = above[1].replace("\\t", "\t")
        text = text[above.end() :]
    elif delimiter not in first:  # a .csv from a spreadsheet whose locale writes semicolons or tabs
        delimiter = next((mark for mark in "\t;" if mark in first), delimiter)
    found = _read_either_way(text, name, delimiter, 1 if above else 0)
    ragged = [fault for fault in found.faults if fault.kind == "ragged row"]
    if len(ragged) > 1 and not found.cells:
        raise DataError(
            f"{name}, row {found.header_row}: {len(found.header)} cells, and no row after it has as "
            f"many: {ragged[0].what}; expected the header in the first line: remove lines above it"
        )
    return found


def _read_either_way(text: str, name: str, delimiter: str, above: int) -> Records:
    """Return the records, read without quoting where quoting cannot be what the file means."""
    found: Records | None = None
    fault: DataError | None = None
    try:
        found = _read(text, name, delimiter, above, csv.QUOTE_MINIMAL)
        if not _swallowed(found, delimiter):
            return found
    except _Unquoted as error:
        if delimiter != "\t":
            raise error.fault from None
        fault = error.fault
    plain = _read(text, name, delimiter, above, csv.QUOTE_NONE)
    quoting = any(len(c) > 1 and c[0] == c[-1] == '"' for record in plain.cells for c in record)
    if not plain.faults and not quoting:
        return plain
    if found is not None and delimiter != "\t":  # a text may have lines with so many commas
        return found
    raise fault or DataError(
        f"{name}: a quoted cell holds whole rows of the file, so its quote was none; expected every "
        'quote inside a cell doubled and the cell quoted, as "27"" screen"'
    )


class _Unquoted(Exception):
    """Quotes that do not match up."""

    def __init__(self, fault: DataError) -> None:
        super().__init__()
        self.fault = fault


def _read(text: str, name: str, delimiter: str, above: int, quoting: Literal[0, 3]) -> Records:
    found = Records()
    source = io.StringIO(text, newline="")
    reader = csv.reader(source, delimiter=delimiter, quoting=quoting, strict=True)
    begins = 1 + above
    try:
        for record in reader:
            row, begins = begins, reader.line_num + 1 + above
            if not record or (not any(record) and len(record) == 1):
                continue
            if not found.header:
                found.header, found.header_row = record, row
            elif len(record) != len(found.header):
                what = (
                    f"{len(record)} cells where the header has {len(found.header)}, "
                    f"starting {quoted(record[0])}"
                )
                cells = {f"column {n}": cell for n, cell in enumerate(record, start=1)}
                found.faults.append(Fault(name, row, "ragged row", what, cells))
            else:
                found.cells.append(record)
                found.rows.append(row)
    except csv.Error as error:
        raise _Unquoted(
            DataError(
                f"{name}, row {begins}: the quotes of this row do not match up ({error}); expected "
                'every quoted cell to be closed and a quote inside it doubled, as "27"" screen"'
            )
        ) from None
    return found


def _swallowed(found: Records, delimiter: str) -> bool:
    """Return true where a cell holds a line with as many cells as the header."""
    marks = len(found.header) - 1
    if not marks:
        return False
    cells = [cell for record in found.cells for cell in record if "\n" in cell]
    cells += [cell for fault in found.faults for cell in fault.values.values() if "\n" in cell]
    return any(_rows_inside(cell, delimiter, marks) for cell in cells)


def _rows_inside(cell: str, delimiter: str, marks: int) -> bool:
    """Return true where a cell begins in one row and ends in another: what lies between are rows.

    A quoted text with line ends has no separator in its lines, or another number of them.
    """
    first, *between, last = cell.split("\n")
    if between:
        return all(line.count(delimiter) == marks for line in between if line.strip())
    return 0 < first.count(delimiter) + last.count(delimiter) == marks
