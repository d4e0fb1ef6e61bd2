"""A data file as a table of texts, with the row numbers that an editor shows.

Every cell is a str: 'NA' and 'null' are texts like any other, an absent value is ''.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from embsearch.data.decode import decode
from embsearch.data.faults import Fault, quoted, refusal
from embsearch.data.source_files import Source
from embsearch.errors import DataError


@dataclass(frozen=True)
class Table:
    """The content of a file.

    ``rows[i]`` is the line on which ``frame``'s row i begins (Parquet: its number, from 1).
    ``faults`` are rows that have no cells to check. ``nested`` names headers that hold lists or
    objects somewhere, with the first such row.
    """

    name: str
    split: str | None
    frame: pd.DataFrame
    rows: NDArray[np.int64]
    encoding: str
    faults: tuple[Fault, ...] = ()
    nested: Mapping[str, int] = field(default_factory=dict)
    sha256: str = ""  # of the file


def read(source: Source, encoding: str = "auto") -> Table:
    """Return the table in a file. Raises DataError for a file that is empty or not of its kind."""
    path, suffix = source.path, source.path.suffix.lower()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check the path and its rights"
        ) from None
    if not data.strip():
        raise DataError(
            f"{path.name}: the file is empty; expected a header and rows; check that it was written whole"
        )
    if suffix == ".parquet":
        table = _parquet(data, source)
    else:
        text, codec = decode(data, path.name, encoding)
        if suffix in (".jsonl", ".ndjson"):
            table = _jsonl(text, codec, source)
        else:
            table = _delimited(text, codec, source, "\t" if suffix == ".tsv" else ",")
    if not len(table.frame) and table.faults:
        raise refusal(table.faults)
    if not len(table.frame):
        raise DataError(
            f"{path.name}, row 1: a header but no rows after it; expected rows, of two queries at least; "
            "check that the file was written whole"
        )
    return replace(table, sha256=hashlib.sha256(data).hexdigest())


def _delimited(text: str, codec: str, source: Source, delimiter: str) -> Table:
    name = source.path.name
    first = text.partition("\n")[0]
    if delimiter not in first:  # a .csv from a spreadsheet whose locale writes semicolons or tabs
        delimiter = next((mark for mark in "\t;" if mark in first), delimiter)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    cells, rows, faults, begins = [], [], [], 1
    try:
        for record in reader:
            row, begins = begins, reader.line_num + 1
            if not record or (not any(record) and len(record) == 1):
                continue
            if not header:
                header = _header(record, name, row)
            elif len(record) != len(header):
                what = f"{len(record)} cells where the header has {len(header)}, starting {quoted(record[0])}"
                faults.append(Fault(name, row, "ragged row", what, _numbered(record)))
            else:
                cells.append(record)
                rows.append(row)
    except csv.Error as error:
        raise DataError(
            f"{name}, row {begins}: the quotes of this row do not match up ({error}); expected every quoted cell "
            'to be closed and a quote inside it doubled, as "27"" screen"'
        ) from None
    return Table(
        name, source.split, _frame(cells, header), np.array(rows, np.int64), codec, tuple(faults)
    )


def _jsonl(text: str, codec: str, source: Source) -> Table:
    name = source.path.name
    records: list[dict[str, str]] = []
    header: dict[str, None] = {}
    nested: dict[str, int] = {}
    rows, faults = [], []
    for row, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
            line.encode() if line.isascii() and "\\u" not in line else json.dumps(
                record, ensure_ascii=False
            ).encode()
        except ValueError as error:
            what = f"{quoted(line)} is not a JSON object ({error}); expected one object a line"
            faults.append(Fault(name, row, "unparsable line", what, {"line": line}))
            continue
        for key, value in record.items():
            header.setdefault(key)
            if isinstance(value, (list, dict)):
                nested.setdefault(key, row)
        records.append({key: _cell(value) for key, value in record.items()})
        rows.append(row)
    cells = [[record.get(key, "") for key in header] for record in records]
    frame = _frame(cells, list(header))
    return Table(name, source.split, frame, np.array(rows, np.int64), codec, tuple(faults), nested)


def _parquet(data: bytes, source: Source) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = source.path.name
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name}: not a readable Parquet file ({reason}); write it again") from None
    header = _header(table.column_names, name, 1)
    nested, columns = {}, []
    for key, column in zip(header, table.columns, strict=True):
        if pa.types.is_nested(column.type):
            nested[key] = 1
        columns.append([_cell(value) for value in column.to_pylist()])
    frame = pd.DataFrame(dict(zip(header, columns, strict=True)), dtype=object)
    rows = np.arange(1, len(frame) + 1, dtype=np.int64)
    return Table(name, source.split, frame, rows, "parquet", (), nested)


def _header(record: list[str], name: str, row: int) -> list[str]:
    header = [cell.strip() or f"column {n}" for n, cell in enumerate(record, start=1)]
    twice = [cell for cell, n in Counter(header).items() if n > 1]
    if twice:
        raise DataError(
            f"{name}, row {row}: the header {quoted(twice[0])} stands there twice; expected each name once; "
            "rename one of them"
        )
    return header


def _frame(cells: list[list[str]], header: list[str]) -> pd.DataFrame:
    columns = list(zip(*cells, strict=True)) if cells else [()] * len(header)
    return pd.DataFrame({k: list(c) for k, c in zip(header, columns, strict=True)}, dtype=object)


def _numbered(record: list[str]) -> dict[str, str]:
    return {f"column {n}": cell for n, cell in enumerate(record, start=1)}


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
