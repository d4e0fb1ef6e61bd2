"""A data file as a table of texts, with the row numbers that an editor shows.

Every cell is a str: 'NA' and 'null' are texts like any other, an absent value is ''.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from embsearch.codec import JsonObject
from embsearch.data.decode import decode
from embsearch.data.delimited import records
from embsearch.data.faults import Fault, quoted, refusal
from embsearch.data.source_files import COMPRESSED, Source, kind_of
from embsearch.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


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
    path, suffix = source.path, kind_of(source.path)
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check the path and its rights"
        ) from None
    data = _unpacked(packed, path)
    if not data.strip():
        raise DataError(
            f"{path.name}: the file is empty; expected a header and rows; check that it was written whole"
        )
    if suffix in (".parquet", ".arrow"):
        table = _arrow(data, source)
    elif suffix == ".xlsx":
        table = _excel(data, source)
    else:
        text, codec = decode(data, path.name, encoding)
        if suffix in (".jsonl", ".ndjson"):
            table = _jsonl(text, codec, source)
        elif suffix == ".json":
            table = _json(text, codec, source)
        else:
            table = _delimited(text, codec, source, "\t" if suffix == ".tsv" else ",")
    if not len(table.frame) and table.faults:
        raise refusal(table.faults)
    if not len(table.frame):
        raise DataError(
            f"{path.name}, row 1: a header but no rows after it; expected rows, of two queries at least; "
            "check that the file was written whole"
        )
    return replace(table, sha256=hashlib.sha256(packed).hexdigest())


def _unpacked(data: bytes, path: Path) -> bytes:
    """Return the content of a compressed file, or of one that is not. Raises DataError."""
    codec = COMPRESSED.get(path.suffix.lower())
    if codec is None:
        return data
    import pyarrow as pa

    try:
        with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
            unpacked: bytes = stream.read()
            return unpacked
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path.name}: not a whole {codec} file ({reason}); write it again"
        ) from None


def _delimited(text: str, codec: str, source: Source, delimiter: str) -> Table:
    name = source.path.name
    found = records(text, name, delimiter)
    frame = _frame(found.cells, _header(found.header, name, found.header_row))
    rows = np.array(found.rows, np.int64)
    return Table(name, source.split, frame, rows, codec, tuple(found.faults))


def _json(text: str, codec: str, source: Source) -> Table:
    """Return the table of an array of objects; a row's number is its place in the array."""
    name = source.path.name
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError(
            f"{name}: not JSON ({error}); expected an array of objects, or one object a line in "
            "a .jsonl"
        ) from None
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise DataError(
            f"{name}: {quoted(text)} is no array of objects; expected [{{...}}, {{...}}], or one "
            "object a line in a .jsonl"
        )
    return _of_objects(found, list(range(1, len(found) + 1)), [], codec, source)


def _jsonl(text: str, codec: str, source: Source) -> Table:
    name = source.path.name
    records: list[JsonObject] = []
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
        records.append(record)
        rows.append(row)
    return _of_objects(records, rows, faults, codec, source)


def _of_objects(
    records: list[JsonObject], rows: list[int], faults: list[Fault], codec: str, source: Source
) -> Table:
    header: dict[str, None] = {}
    nested: dict[str, int] = {}
    for row, record in zip(rows, records, strict=True):
        for key, value in record.items():
            header.setdefault(key)
            if isinstance(value, (list, dict)):
                nested.setdefault(key, row)
    cells = [[_cell(record.get(key)) for key in header] for record in records]
    frame, numbers = _frame(cells, list(header)), np.array(rows, np.int64)
    return Table(source.path.name, source.split, frame, numbers, codec, tuple(faults), nested)


def _excel(data: bytes, source: Source) -> Table:
    """Return the table of the first sheet of a workbook. Raises DataError."""
    name = source.path.name
    if find_spec("openpyxl") is None:
        raise DataError(
            f"{name}: workbooks need openpyxl; run 'pip install openpyxl', or save the sheet as CSV"
        )
    try:
        sheet = pd.read_excel(io.BytesIO(data), header=None, dtype=str, keep_default_na=False)
    except Exception as error:  # of zip, of XML, of openpyxl
        raise DataError(
            f"{name}: not a readable workbook ({error}); save it again, or as CSV"
        ) from None
    cells = [[str(cell) for cell in row] for row in sheet.to_numpy()]
    header = next((n for n, row in enumerate(cells) if sum(map(bool, row)) > 1), 0)
    body = [(n + 1, row) for n, row in enumerate(cells) if n > header and any(row)]
    frame = _frame([row for _, row in body], _header(cells[header], name, header + 1))
    rows = np.array([row for row, _ in body], np.int64)
    return Table(name, source.split, frame, rows, "xlsx")


def _arrow(data: bytes, source: Source) -> Table:
    """Return the table of a Parquet or an Arrow file, as ``datasets`` writes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name, kind = source.path.name, kind_of(source.path)[1:]
    try:
        if kind == "parquet":
            table = pq.read_table(io.BytesIO(data))
        else:
            file = data.startswith(b"ARROW1")
            opened = pa.ipc.open_file(data) if file else pa.ipc.open_stream(data)
            table = opened.read_all()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{name}: not a readable {kind.capitalize()} file ({reason}); write it again"
        ) from None
    header = _header(table.column_names, name, 1)
    nested, columns = {}, []
    for key, column in zip(header, table.columns, strict=True):
        if pa.types.is_nested(column.type):
            nested[key] = 1
        columns.append([_cell(value) for value in _as_text(column, key, name).to_pylist()])
    frame = pd.DataFrame(dict(zip(header, columns, strict=True)), dtype=object)
    rows = np.arange(1, len(frame) + 1, dtype=np.int64)
    return Table(name, source.split, frame, rows, kind, (), nested)


def _as_text(column: pa.ChunkedArray, key: str, name: str) -> pa.ChunkedArray:
    """Return a column of bytes as text. Raises DataError with the row where it is not UTF-8."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return column
    for row, value in enumerate(column.to_pylist(), start=1):
        try:
            (value or b"").decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{name}, row {row}: column {quoted(key)} holds bytes that are no UTF-8 ({error}); "
                "expected texts; write the column as strings"
            ) from None
    return column.cast(pa.large_string())


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


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
