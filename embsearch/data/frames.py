"""Tables in memory as data of a study: kept in the home under a name that their content decides, so
that the same table is the same data, in another process and on the command line too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from embsearch import disk
from embsearch.config.folders import home_folder
from embsearch.config.words import words_of
from embsearch.errors import DataError

Table = Any  # a pandas, polars or Arrow table, or a datasets.Dataset
Data = Table | str | Path | Mapping[str, Table | str | Path]
SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "test": "test"}


def words_of_data(data: Data | None, home: str) -> list[str]:
    """Return the words of a command that reads ``data``. Raises DataError for what is no table."""
    if data is None:
        return []
    if not isinstance(data, Mapping):
        return words_of({"data.path": _path(data, home)})
    if unknown := [str(split) for split in data if split not in SPLITS]:
        raise DataError(f"data: no such split: {', '.join(unknown)}; expected train, valid, test")
    there = {name: part for name, part in data.items() if part is not None}
    return words_of({f"data.{SPLITS[name]}": _path(part, home) for name, part in there.items()})


def _path(part: Table | str | Path, home: str) -> str:
    """Return where the rows are: an address as it is, a path whole, a table in its file."""
    if not isinstance(part, (str, Path)):
        try:
            return str(_kept(_arrow(part), home_folder(home) / "tables"))
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise DataError(
                f"data: {error}; expected columns of numbers or of texts, each with a name of its own"
            ) from error
    there = Path(part).expanduser()
    return str(there.absolute()) if there.exists() else str(part)


def _arrow(table: Table) -> pa.Table:
    """Return a table of any kind as Arrow has it."""
    if isinstance(table, pa.Table):
        return table
    if isinstance(table, pd.DataFrame):
        return pa.Table.from_pandas(table, preserve_index=False)
    if hasattr(table, "to_arrow"):
        return table.to_arrow()
    if hasattr(table, "with_format"):
        return table.with_format("arrow")[:]
    raise DataError(
        f"data: {type(table).__name__}: expected a pandas, polars or Arrow table, a "
        "datasets.Dataset, a path, or train, valid and test of these"
    )


def _kept(table: pa.Table, folder: Path) -> Path:
    """Return the file of a table, written where it is not there yet."""
    table = table.replace_schema_metadata(None).combine_chunks()
    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, table.schema) as stream:
        stream.write_table(table)
    path = folder / f"{hashlib.sha256(content.getvalue()).hexdigest()[:16]}.parquet"
    if not path.exists():
        disk.make_folder(folder)
        with disk.whole(path) as draft:
            pq.write_table(table, draft)
    return path
