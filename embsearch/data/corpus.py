"""A corpus, queries, and judgements of their ids (qrels), joined to judged texts: the folders of
BEIR, TREC and MS MARCO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from embsearch.data.faults import Fault, quoted
from embsearch.data.read import Table
from embsearch.data.source_files import Source
from embsearch.errors import DataError

_QUERY_ID = ("query-id", "query_id", "qid")
_TITLE_ID = ("corpus-id", "corpus_id", "docid", "doc_id", "pid")
_GRADE = ("score", "relevance", "rel", "label", "grade")
_ID = ("_id", "id", *_QUERY_ID, *_TITLE_ID)
Cells = Sequence[str]


def joined(sources: Sequence[Source], tables: Sequence[Table]) -> list[Table]:
    """Return the tables, qrels with the texts of their ids: query_id, query, title, grade.

    A text of the corpus is its title and its text. An id that is not there is a fault of its row.
    Raises DataError for a file that is not of its part.
    """
    texts: dict[str, dict[str, str]] = {"queries": {}, "corpus": {}}
    for source, table in zip(sources, tables, strict=True):
        if source.part in texts:
            _add_texts(table, texts[source.part])
    if not texts["corpus"]:
        return list(tables)
    parts = zip(sources, tables, strict=True)
    return [_judged(table, texts) for source, table in parts if source.part == "qrels"]


def _add_texts(table: Table, texts: dict[str, str]) -> None:
    """Add a table's texts by id: named columns, or the first and the others without a header."""
    header, rows, lines = _records(table, _ID)
    at = _place(header, _ID) or 0
    wanted = [n for n, name in enumerate(header) if name in ("title", "text")]
    if not wanted:
        wanted = [n for n in range(len(header)) if n != at]
    for row, cells in zip(rows, lines, strict=True):
        parts = [cells[n].strip() for n in wanted]
        text = " ".join(part for part in parts if part)
        if texts.setdefault(cells[at], text) != text:
            raise DataError(
                f"{table.name}, row {row}: the id {quoted(cells[at])} stands there twice, with other texts; "
                "expected each id once; delete one of them"
            )


def _judged(table: Table, texts: dict[str, dict[str, str]]) -> Table:
    header, rows, lines = _records(table, _TITLE_ID)
    if header[:1] == [""] and len(header) not in (3, 4):
        raise DataError(
            f"{table.name}, row 1: {len(header)} cells; expected query-id, corpus-id and score, or the four "
            "columns of TREC (query, iteration, document, grade)"
        )
    query = _place(header, _QUERY_ID) or 0
    title = _place(header, _TITLE_ID) or len(header) - 2
    grade = _place(header, _GRADE) or len(header) - 1
    made, kept, faults = [], [], list(table.faults)
    for row, cells in zip(rows, lines, strict=True):
        ids = {"queries": cells[query].strip(), "corpus": cells[title].strip()}
        missing = [
            f"{id_!r} is not in the {part}" for part, id_ in ids.items() if id_ not in texts[part]
        ]
        if missing:
            what = f"the id {' and '.join(missing)}; expected ids that are there"
            faults.append(Fault(table.name, int(row), "unknown id", what, ids))
            continue
        found = [texts[part][id_] for part, id_ in ids.items()]
        made.append((ids["queries"], *found, cells[grade]))
        kept.append(row)
    frame = pd.DataFrame(made, columns=["query_id", "query", "title", "grade"], dtype=object)
    return replace(table, frame=frame, rows=np.array(kept, np.int64), faults=tuple(faults))


def _records(table: Table, known: Cells) -> tuple[list[str], list[int], Sequence[Cells]]:
    """Return header, row numbers and rows. Without a known name the first line is no header: then
    the names are ''. A single column is cut at its blanks."""
    header = [str(name) for name in table.frame.columns]
    rows = [int(row) for row in table.rows]
    lines: Sequence[Cells] = table.frame.to_numpy().tolist()
    if len(header) == 1:
        header = header[0].split()
        lines = [cells[0].split() for cells in lines]
    if _place(header, known) is None:
        return [""] * len(header), [1, *rows], [header, *lines]
    return [name.casefold() for name in header], rows, lines


def _place(header: Cells, known: Cells) -> int | None:
    """Return the place of the first known name."""
    for place, name in enumerate(header):
        if name.casefold() in known:
            return place
    return None
