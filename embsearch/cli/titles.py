"""The titles that a command means: a table's column, a file of lines, or those of the study's data.

Texts with a class keep it beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embsearch.cli.encode import read_texts
from embsearch.config.schema import Config
from embsearch.errors import ConfigError, DataError
from embsearch.study.fit_to_data import data_of


@dataclass(frozen=True)
class Titles:
    """Distinct titles, where they are ``from``, and the class of each where they have classes."""

    texts: Sequence[str]
    words: str
    classes: Sequence[str] = ()


def titles(config: Config, source: str | None) -> Titles:
    """Return each distinct title once, in order. Raises UserError."""
    from embsearch.data.source_files import SUFFIXES

    if source is None:
        return _of_study(config)
    path = Path(source).expanduser()
    if path.suffix.lower() in SUFFIXES:
        found, classes = _of_table(path, config)
    else:
        found, classes = read_texts(source), []
    first_place: dict[str, int] = {}
    for place, text in enumerate(found):
        first_place.setdefault(text, place)
    distinct = list(first_place)
    repeated = len(found) - len(distinct)
    twice = ""
    if repeated:
        twice = f", {repeated} of them twice"
    if not classes:
        return Titles(distinct, f"{path}: {len(found)} titles{twice}")
    kept = [classes[place] for place in first_place.values()]
    return Titles(distinct, f"{path}: {len(found)} texts{twice}", kept)


def _of_table(path: Path, config: Config) -> tuple[list[str], list[str]]:
    from embsearch.data.columns import class_column, one_column
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
        more = ""
        if len(empty) > 1:
            more = f", and {len(empty) - 1} more"
        raise DataError(
            f"{table.name}, row {empty[0]}: the title is empty{more}; expected a text; delete the row"
        )
    return cells, class_column(table, config.data.columns)


def _of_study(config: Config) -> Titles:
    """Return every title that was shown for a query, of training, validation and test rows; of
    texts with a class those of training.
    """
    import numpy as np

    from embsearch.data.class_data import ClassData
    from embsearch.data.dataset import JudgedRows

    if config.data.sets:
        raise ConfigError(
            "input: data.sets have titles of several kinds; give input=FILE, and the set's prompt "
            f"as prompt_name={next(iter(config.data.sets))}_document where it has one"
        )
    if not config.data.named:
        raise ConfigError(
            "input: no titles; give input=FILE (a table with a title column, or one a line), or "
            "data.path=..., or study.name=... of a study of this home"
        )
    task, data = data_of(config)
    judged = (task.rows(data, split) for split in ("valid", "test"))
    shown = [rows.title for rows in judged if isinstance(rows, JudgedRows)]
    ids = np.unique(np.concatenate([data.train.positive, data.train.negative, *shown]))
    ids = ids[ids >= 0]
    found = [data.texts[i] for i in ids]
    if isinstance(data, ClassData):
        classes = [data.classes[i] for i in data.label[ids]]
        return Titles(found, f"study {config.study.name}: {len(found)} texts", classes)
    return Titles(found, f"study {config.study.name}: {len(found)} titles")
