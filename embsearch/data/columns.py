"""A file's headers to our names, and which of the three formats they make.

Order of belief: data.columns, the exact name, the name beside a gloss in brackets such as
``anchor(搜索词)``, then the synonyms below.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from embsearch.data.faults import quoted
from embsearch.data.read import Table
from embsearch.errors import DataError, did_you_mean

REQUIRED = {
    "judgements": ("query", "title", "grade"),
    "clicks": ("query", "title", "clicked"),
    "triplets": ("anchor", "positive"),
}
_EVERYWHERE = ("weight", "time", "segment", "split")
OPTIONAL = {
    "judgements": ("query_id", *_EVERYWHERE),
    "clicks": ("query_id", *_EVERYWHERE),
    "triplets": ("negative", "query_id", "pos_grade", "neg_grade", *_EVERYWHERE),
}
_QUERY = "query 搜索词 查询 查询词 检索词 搜索 search_term search_query question sentence1 q"
SYNONYMS = {
    name: tuple(words.split())
    for name, words in {
        "anchor": f"{_QUERY} 锚点",
        "query": f"anchor {_QUERY}",
        "positive": "点击商品 正样本 正例 已点击商品 pos positive_title clicked_title sentence2 answer",
        "negative": "未点击商品 负样本 负例 neg negative_title hard_negative unclicked_title sentence3",
        "title": "标题 商品标题 商品 商品名称 product_title product item document doc passage sentence2",
        "grade": "label score relevance rating 等级 相关性 评分 标签",
        "clicked": "click clicks is_click is_clicked 点击 是否点击",
        "query_id": "qid 查询id",
        "product_id": "item_id doc_id pid 商品id",
        "position": "rank 位置 排名",
        "weight": "权重",
        "time": "timestamp date datetime 时间 日期",
        "segment": "category 类目 分类 类别",
        "split": "划分 数据集",
        "pos_grade": "positive_grade",
        "neg_grade": "negative_grade",
    }.items()
}
_GLOSS = re.compile(r"^([^()]*)\(([^()]*)\)$")


@dataclass(frozen=True)
class Columns:
    """``headers`` maps our names to the file's; ``unused`` are the headers nothing reads."""

    format: str
    headers: Mapping[str, str]
    unused: tuple[str, ...]


def choose_columns(table: Table, wanted: str, mapping: Mapping[str, str]) -> Columns:
    """Return the format (``wanted`` unless auto) and its columns.

    Raises DataError with every fault.
    """
    headers = list(table.frame.columns)
    _check_mapping(table.name, headers, mapping)
    found = {f: _match(f, headers, mapping) for f in REQUIRED}
    kind = wanted if wanted != "auto" else _format(table.name, found, mapping)
    missing = [name for name in REQUIRED[kind] if name not in found[kind]]
    if missing:
        raise DataError([_missing(table.name, kind, name, headers) for name in missing])
    for name, header in found[kind].items():
        if header in table.nested:
            raise DataError(
                f"{table.name}, row {table.nested[header]}: {name} (header {quoted(header)}) holds a list or an "
                "object; expected one text or number a row; write one row for each of its values"
            )
    used = set(found[kind].values())
    return Columns(kind, found[kind], tuple(h for h in headers if h not in used))


def one_column(table: Table, name: str, mapping: Mapping[str, str]) -> list[str]:
    """Return the cells of the column that holds what we call ``name``, also where it is the only
    one. Raises DataError.
    """
    headers = list(table.frame.columns)
    _check_mapping(table.name, headers, mapping)
    header = mapping.get(name) or _match("judgements", headers, {}).get(name)
    if header is None and len(headers) == 1:
        header = headers[0]
    if header is None:
        raise DataError(
            f"{table.name}, row 1: no column '{name}'. The file has: {', '.join(headers)}. "
            f"Name it with data.columns.{name}=HEADER"
        )
    return list(table.frame[header])


def renamed(table: Table, columns: Columns) -> pd.DataFrame:
    """Return the table under our names, every column of its format present (None where the file has
    none), with ``file`` and ``row``; the split of the file goes before a split column."""
    frame = pd.DataFrame(index=range(len(table.frame)), dtype=object)
    for name in (*REQUIRED[columns.format], *OPTIONAL[columns.format]):
        header = columns.headers.get(name)
        frame[name] = table.frame[header].to_numpy(object) if header else None
    if table.split:
        frame["split"] = table.split
    frame["file"] = table.name
    frame["row"] = table.rows
    return frame


def _match(kind: str, headers: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return our names found among the headers; no header serves twice."""
    found: dict[str, str] = {}
    names = (*REQUIRED[kind], *OPTIONAL[kind])
    for name in names:
        other = {"anchor": "query", "query": "anchor"}.get(name, name)
        if name in mapping or other in mapping:
            found[name] = mapping.get(name) or mapping[other]
    plain = {header: _plain(header) for header in headers}
    for words in (lambda name: (name,), lambda name: SYNONYMS[name]):
        for name in names:
            if name not in found:
                free = [h for h in headers if h not in found.values()]
                hits = [h for word in words(name) for h in free if word in plain[h]]
                if hits:
                    found[name] = min(hits, key=lambda h: (h != name, plain[h][0] != name))
    return found


def _plain(header: str) -> tuple[str, ...]:
    """Return the words a header may be known by: itself, its name without the gloss, the gloss."""
    text = re.sub(r"[\s\-]+", "_", unicodedata.normalize("NFKC", header).strip().casefold())
    gloss = _GLOSS.match(text)
    return (text, gloss[1].strip("_"), gloss[2].strip("_")) if gloss else (text,)


def _format(name: str, found: Mapping[str, Mapping[str, str]], mapping: Mapping[str, str]) -> str:
    whole = [kind for kind, names in REQUIRED.items() if all(n in found[kind] for n in names)]

    def exact(kind: str) -> int:
        return sum(2 * (n in mapping) or n in _plain(found[kind][n]) for n in REQUIRED[kind])

    if not whole:  # the format that lacks least says best what to add
        return max(
            REQUIRED,
            key=lambda kind: len(set(REQUIRED[kind]) & set(found[kind])) / len(REQUIRED[kind]),
        )
    best = max(exact(kind) for kind in whole)
    whole = [kind for kind in whole if exact(kind) == best]
    if "judgements" in whole and "clicks" in whole:
        raise DataError(
            f"{name}: the headers make both judgements (grade from {quoted(found['judgements']['grade'])}) and "
            f"clicks (clicked from {quoted(found['clicks']['clicked'])}); set data.format=judgements or clicks"
        )
    return whole[0]


def _check_mapping(file: str, headers: Sequence[str], mapping: Mapping[str, str]) -> None:
    faults = []
    for name, header in mapping.items():
        if name not in SYNONYMS:
            known = ", ".join(SYNONYMS)
            faults.append(
                f"data.columns.{name}: no such column.{did_you_mean(name, SYNONYMS)} Known: {known}"
            )
        elif header not in headers:
            faults.append(
                f"{file}, row 1: data.columns.{name}={header} names a header that is not there."
                f"{did_you_mean(header, headers)} The file has: {', '.join(headers)}"
            )
    if faults:
        raise DataError(faults)


def _missing(file: str, kind: str, name: str, headers: Sequence[str]) -> str:
    needs = ", ".join(REQUIRED[kind])
    return (
        f"{file}, row 1: no column '{name}'; {kind} need {needs}. The file has: {', '.join(headers)}."
        f"{did_you_mean(name, headers)} Name it with data.columns.{name}=HEADER"
    )
