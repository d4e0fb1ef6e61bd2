"""The titles that a command means: a table's column, a file of lines, or those of the study's data."""

from __future__ import annotations

from pathlib import Path

from embsearch.cli.encode import read_texts
from embsearch.config.folders import home_folder
from embsearch.config.schema import Config
from embsearch.errors import ConfigError, DataError
from embsearch.history.folder import as_begun
from embsearch.study.fit_to_data import with_format


def titles(config: Config, source: str | None) -> tuple[list[str], str]:
    """Return each distinct title once, in order, and where they are from. Raises UserError."""
    from embsearch.data.source_files import SUFFIXES

    if source is None:
        return _of_study(config)
    path = Path(source).expanduser()
    found = _of_table(path, config) if path.suffix.lower() in SUFFIXES else read_texts(source)
    distinct = list(dict.fromkeys(found))
    twice = f", {len(found) - len(distinct)} of them twice" if len(found) > len(distinct) else ""
    return distinct, f"{path}: {len(found)} titles{twice}"


def _of_table(path: Path, config: Config) -> list[str]:
    from embsearch.data.columns import one_column
    from embsearch.data.faults import SHOWN
    from embsearch.data.read import read
    from embsearch.data.source_files import Source

    table = read(Source(path), config.data.encoding)
    if table.faults:
        raise DataError(
            [f"{f.file}, row {f.row}: {f.what}; fix the row" for f in table.faults[:SHOWN]]
        )
    cells = one_column(table, "title", config.data.columns)
    empty = [int(row) for row, cell in zip(table.rows, cells, strict=True) if not cell.strip()]
    if empty:
        more = f", and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise DataError(
            f"{table.name}, row {empty[0]}: the title is empty{more}; expected a text; delete the row"
        )
    return cells


def _of_study(config: Config) -> tuple[list[str], str]:
    """Return every title that was shown for a query, of training, validation and test rows."""
    import numpy as np

    from embsearch.data.dataset import JudgedRows, TaskData
    from embsearch.tasks.catalogue import task_of

    if config.data.sets:
        raise ConfigError(
            "input: data.sets have titles of several kinds; give input=FILE, and the set's prompt "
            f"as prompt_name={next(iter(config.data.sets))}_document where it has one"
        )
    if not config.data.named:
        raise ConfigError(
            "input: no titles; give input=FILE (a table with a title column, or one a line), or study=NAME"
        )
    config = with_format(as_begun(config))[0]
    task = task_of(config)
    data: TaskData = task.load(task.prepare(config.data, home_folder(config.home) / "cache"))
    judged = (task.rows(data, split) for split in ("valid", "test"))
    shown = [rows.title for rows in judged if isinstance(rows, JudgedRows)]
    ids = np.unique(np.concatenate([data.train.positive, data.train.negative, *shown]))
    found = [data.texts[i] for i in ids if i >= 0]
    return found, f"study {config.study.name}: {len(found)} titles"
