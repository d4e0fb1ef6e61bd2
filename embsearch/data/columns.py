"""A file's headers to our names, and which of the formats they make.

Order of belief: data.columns, the exact name, the name beside a gloss in brackets such as
``anchor(搜索词)``, then the synonyms below. Underscores, blanks and case do not count. A row may
have several positives and negatives: in numbered columns, or as a list in one cell.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from embsearch.data.faults import quoted
from embsearch.data.keys import query_key
from embsearch.data.nested import texts_in
from embsearch.data.read import Table
from embsearch.data.scored import looks_scored
from embsearch.data.teacher import SCORES, leave_unreadable, scores_of
from embsearch.errors import DataError, did_you_mean

REQUIRED = {
    "judgements": ("query", "title", "grade"),
    "clicks": ("query", "title", "clicked"),
    "triplets": ("anchor", "positive"),
    "scored": ("query", "title", "grade"),
    "classes": ("text", "label"),
}
_BY_HEADERS = ("judgements", "clicks", "triplets")  # formats that headers alone can tell
_EVERYWHERE = ("weight", "time", "segment", "split")
OPTIONAL = {
    "judgements": ("query_id", *_EVERYWHERE),
    "clicks": ("query_id", *_EVERYWHERE),
    "triplets": ("negative", "query_id", "pos_grade", "neg_grade", *SCORES, *_EVERYWHERE),
    "scored": ("query_id", *_EVERYWHERE),
    "classes": ("query_id", *_EVERYWHERE),
}
_QUERY = (
    "query 搜索词 查询 查询词 检索词 搜索 search_term search_query question sentence1 q "
    "question1 sentence_a text1 text_a premise messages 句子1 文本1"
)
_SECOND = (
    "document doc passage sentence2 answer response question2 sentence_b text2 text_b hypothesis "
    "positive_messages 句子2 文本2"
)
SYNONYMS = {
    name: tuple(word.replace("_", "") for word in words.split())
    for name, words in {
        "anchor": f"{_QUERY} 锚点",
        "query": f"anchor {_QUERY}",
        "positive": "点击商品 正样本 正例 已点击商品 pos positives positive_title clicked_title "
        f"positive_document positive_passage positive_passages positive_ctxs {_SECOND}",
        "negative": "未点击商品 负样本 负例 neg negs negatives negative_title hard_negative hard_neg "
        "hard_negatives unclicked_title sentence3 text3 negative_document negative_passage "
        "negative_passages negative_ctxs hard_negative_ctxs rejected_response negative_messages",
        "title": "标题 商品标题 商品 商品名称 product_title product item "
        f"{_SECOND} positive pos text",
        "grade": "label score relevance rating 等级 相关性 评分 标签 labels relevant is_relevant "
        "similarity similarity_score is_duplicate relatedness_score 相似度",
        "text": "sentence utterance query question content document review comment tweet message "
        "title 文本 句子 语料 内容 问题 评论 标题",
        "label": "intent class category class_name label_text topic target emotion sentiment 标签 "
        "类别 意图 分类 类目",
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
        "pos_score": "pos_scores positive_score positive_scores",
        "neg_score": "neg_scores negative_score negative_scores",
        "scores": "score teacher_score teacher_scores margin",
    }.items()
}
_NUMBERED = {
    "positive": re.compile(r"(pos|positive)(text|title|doc|document|passage)?s?\d+|正(样本|例)\d+"),
    "negative": re.compile(
        r"(hard)?(neg|negative)(text|title|doc|document|passage)?s?\d+|负(样本|例)\d+"
    ),
}
SEVERAL = ("positive", "negative")  # a row may have many of them
_MARKS = ({"0", "1"}, {"0.0", "1.0"}, {"false", "true"}, {"no", "yes"}, {"n", "y"})
_GLOSS = re.compile(r"^([^()]*)\(([^()]*)\)$")


@dataclass(frozen=True)
class Columns:
    """``headers`` maps our names to the file's; ``unused`` are the headers nothing reads.

    ``several`` names every header of the positives and of the negatives.
    """

    format: str
    headers: Mapping[str, str]
    unused: tuple[str, ...]
    several: Mapping[str, tuple[str, ...]]

    def described(self) -> dict[str, str]:
        """Return the headers of each of our names, as a person reads them."""
        return {**self.headers, **{name: " + ".join(all_) for name, all_ in self.several.items()}}


def choose_columns(table: Table, wanted: str, mapping: Mapping[str, str | None]) -> Columns:
    """Return the format (``wanted`` unless auto) and its columns.

    Raises DataError with every fault.
    """
    headers = list(table.frame.columns)
    _check_mapping(table.name, headers, mapping)
    found = {f: _match(f, headers, mapping) for f in REQUIRED}
    leave_unreadable(table, found["triplets"])
    kind = wanted if wanted != "auto" else _format(table.name, found, mapping)
    if wanted == "auto" and kind == "judgements":
        read = {name: _plain(header)[0] for name, header in found[kind].items()}
        kind = "scored" if looks_scored(table.frame, found[kind], read) else kind
    missing = [name for name in REQUIRED[kind] if name not in found[kind]]
    if missing:
        raise DataError([_missing(table.name, kind, name, headers) for name in missing])
    several = _several(found[kind], headers, mapping)
    used = {*found[kind].values(), *(header for many in several.values() for header in many)}
    for name, header in found[kind].items():
        for each in () if name in SCORES else several.get(name, (header,)):
            _check_nested(table, name, each)
    columns = Columns(kind, found[kind], tuple(h for h in headers if h not in used), several)
    if wanted == "auto" and kind == "triplets" and "negative" not in columns.headers:
        _refuse_marks(table, columns, mapping)
    if wanted == "auto" and kind == "judgements" and "grade" not in mapping:
        _refuse_classes(table, columns)
    if "grade" in columns.headers:
        _refuse_hidden(table, columns.headers["grade"])
    return columns


def one_column(table: Table, name: str, mapping: Mapping[str, str | None]) -> list[str]:
    """Return the cells of the column that holds what we call ``name``, also where it is the only
    one. Raises DataError.
    """
    headers = list(table.frame.columns)
    _check_mapping(table.name, headers, mapping)
    header = mapping.get(name) or _match("judgements", headers, {}).get(name)
    if header is None and name == "title":
        header = _of_classes(headers, mapping).get("text")
    if header is None and len(headers) == 1:
        header = headers[0]
    if header is None:
        raise DataError(
            f"{table.name}, row 1: no column '{name}'. The file has: {', '.join(headers)}. "
            f"Name it with data.columns.{name}=HEADER"
        )
    return list(table.frame[header])


def class_column(table: Table, mapping: Mapping[str, str | None]) -> list[str]:
    """Return the class of each row where the headers are those of texts with a class; else none."""
    header = _of_classes(list(table.frame.columns), mapping).get("label")
    return [] if header is None else list(table.frame[header])


def _of_classes(headers: Sequence[str], mapping: Mapping[str, str | None]) -> dict[str, str]:
    """Return our names of the headers of texts with a class; none of other headers."""
    found = {kind: _match(kind, headers, mapping) for kind in REQUIRED}
    return found["classes"] if _has_classes(found) else {}


def renamed(table: Table, columns: Columns) -> pd.DataFrame:
    """Return the table under our names, every column of its format present (None where the file has
    none), with ``file`` and ``row``; the split of the file goes before a split column.

    Each positive of a row makes a row with each of its negatives, and one with None where it has
    none. A blank cell of an optional column is None, but a blank split.
    """
    made: dict[str, list[str | None]] = {}
    for name in (*REQUIRED[columns.format], *OPTIONAL[columns.format]):
        header = columns.headers.get(name)
        if header is None or name in SCORES:
            made[name] = [None] * len(table.frame)
            continue
        cells = table.frame[header].tolist()
        if _has_lists(table, header):
            cells = ["".join(texts_in(cell)) for cell in cells]
        optional = name in OPTIONAL[columns.format] and name != "split"
        made[name] = [None if optional and not query_key(cell) else cell for cell in cells]
    frame = pd.DataFrame(made, dtype=object)
    if table.split:
        frame["split"] = table.split
    frame["file"] = table.name
    frame["row"] = table.rows
    texts = {name: _all_texts(table, headers) for name, headers in columns.several.items()}
    scores = scores_of(table, columns.headers, texts)
    for name, rows in texts.items():
        kept = [[at for at, text in enumerate(row) if query_key(text)] for row in rows]
        left: list[list[str | None]] = [
            [*(row[at] for at in keep), *([] if keep else [cell])]
            for row, keep, cell in zip(rows, kept, made[name], strict=True)
        ]
        frame[name] = pd.Series(left)
        for column in _scores_of(name, scores):
            both = zip(scores[column], kept, strict=True)
            frame[column] = pd.Series([[row[at] for at in keep] or [None] for row, keep in both])
    for name in texts:
        lists = [name, *_scores_of(name, scores)]
        flat = {column: [cell for row in frame[column] for cell in row] for column in lists}
        frame = frame.loc[frame.index.repeat(frame[name].map(len))].reset_index(drop=True)
        for column, cells in flat.items():
            frame[column] = pd.Series(cells, dtype=object)
    return frame.drop(columns="scores", errors="ignore")


def _scores_of(name: str, scores: Iterable[str]) -> list[str]:
    return [column for column in scores if column[:3] == name[:3]]


def _all_texts(table: Table, headers: Sequence[str]) -> list[Sequence[str]]:
    """Return the texts of each row under the headers, blank ones too."""
    columns = [table.frame[header] for header in headers]
    listed = [_has_lists(table, header) for header in headers]
    return [
        [
            text
            for nested, cell in zip(listed, cells, strict=True)
            for text in (texts_in(cell) if nested else [cell])
        ]
        for cells in zip(*columns, strict=True)
    ]


def _match(kind: str, headers: Sequence[str], mapping: Mapping[str, str | None]) -> dict[str, str]:
    """Return our names found among the headers; no header serves twice."""
    found: dict[str, str] = {}
    wanted = []
    for name in (*REQUIRED[kind], *OPTIONAL[kind]):
        other = {"anchor": "query", "query": "anchor"}.get(name, name)
        if name not in mapping and other not in mapping:
            wanted.append(name)
        elif header := mapping.get(name) or mapping.get(other):
            found[name] = header
    plain = {header: _plain(header) for header in headers}
    for words in (lambda name: (name.replace("_", ""),), lambda name: SYNONYMS[name]):
        for name in wanted:
            free = [h for h in headers if h not in found.values()]
            hits = [h for word in words(name) for h in free if word in plain[h]]
            if hits and name not in found:
                found[name] = min(hits, key=lambda h: (h != name, plain[h][0] != name))
    for name in SEVERAL:
        numbered = [h for h in headers if _is_numbered(name, h) and h not in found.values()]
        if numbered and name in wanted:
            found.setdefault(name, numbered[0])
    return found


def _several(
    found: Mapping[str, str], headers: Sequence[str], mapping: Mapping[str, str | None]
) -> dict[str, tuple[str, ...]]:
    """Return all headers of the positives and of the negatives; a mapping names the only one."""
    made = {}
    for name in SEVERAL:
        if name in found and name not in mapping:
            free = [h for h in headers if h == found[name] or h not in found.values()]
            made[name] = tuple(h for h in free if h == found[name] or _is_another(name, h))
        elif name in found:
            made[name] = (found[name],)
    return made


def _is_another(name: str, header: str) -> bool:
    """Return True for a header of further positives or negatives."""
    synonym = name == "negative" and not set(_plain(header)).isdisjoint(SYNONYMS[name])
    return synonym or _is_numbered(name, header)


def _is_numbered(name: str, header: str) -> bool:
    return any(_NUMBERED[name].fullmatch(word) for word in _plain(header))


def _check_nested(table: Table, name: str, header: str) -> None:
    """Refuse lists and objects where one text is expected, or that hold no texts."""
    if not _has_lists(table, header):
        return
    for row, cell in zip(table.rows, table.frame[header], strict=True):
        try:
            if name in SEVERAL or sum(map(bool, texts_in(cell))) <= 1:
                texts_in(cell)
                continue
            what = "a list or an object; expected one text or number a row"
        except ValueError as error:
            what = f"{quoted(cell)}, and {error}"
        raise DataError(
            f"{table.name}, row {row}: {name} (header {quoted(header)}) holds {what}; "
            "write one row for each of its values"
        )


def _has_lists(table: Table, header: str) -> bool:
    """Return True where the cells held lists or objects, or are written as lists, every one."""
    if header in table.nested:
        return True
    cells = [cell.strip() for cell in table.frame[header] if cell.strip()]
    return bool(cells) and all(cell[0] == "[" and cell[-1] == "]" for cell in cells)


def _refuse_marks(table: Table, columns: Columns, mapping: Mapping[str, str | None]) -> None:
    """Refuse pairs beside an unread column of two marks: it may say which pairs are good."""
    for header in columns.unused:
        cells = {cell.strip().casefold() for cell in table.frame[header]}
        if cells in _MARKS and not {"grade", "clicked"} & set(mapping):
            raise DataError(
                f"{table.name}, row 1: the column {quoted(header)} holds {' and '.join(sorted(cells))} and would "
                f"stay unread, every row being taken for a good pair; read it with data.columns.grade={header}, or "
                "leave it with data.columns.grade=null"
            )


def _plain(header: str) -> tuple[str, ...]:
    """Return the words a header may be known by: itself, its name without the gloss, the gloss."""
    text = re.sub(r"[\s\-_]+", "", unicodedata.normalize("NFKC", header).casefold())
    gloss = _GLOSS.match(text)
    return (text, gloss[1], gloss[2]) if gloss else (text,)


def _format(
    name: str, found: Mapping[str, Mapping[str, str]], mapping: Mapping[str, str | None]
) -> str:
    """Return the format of the headers: never one that a column left unread contradicts."""
    whole = [kind for kind in _BY_HEADERS if all(n in found[kind] for n in REQUIRED[kind])]

    def exact(kind: str) -> int:
        return sum(2 * (n in mapping) or n in _plain(found[kind][n]) for n in REQUIRED[kind])

    if not whole and _has_classes(found):
        return "classes"
    if not whole:  # the format that lacks least says best what to add
        return max(
            _BY_HEADERS,
            key=lambda kind: len(set(REQUIRED[kind]) & set(found[kind])) / len(REQUIRED[kind]),
        )
    against = {kind: _against(kind, found) for kind in whole}
    sound = [kind for kind in whole if not against[kind]]
    if not sound:
        kind = whole[0]
        raise DataError(
            f"{name}, row 1: the headers make {kind}, and the column {quoted(against[kind])} would stay unread; "
            f"set data.format={kind} to leave it, or name other columns with data.columns.NAME=HEADER"
        )
    best = max(exact(kind) for kind in sound)
    whole = [kind for kind in sound if exact(kind) == best]
    if "judgements" in whole and "clicks" in whole:
        raise DataError(
            f"{name}: the headers make both judgements (grade from {quoted(found['judgements']['grade'])}) and "
            f"clicks (clicked from {quoted(found['clicks']['clicked'])}); set data.format=judgements or clicks"
        )
    return whole[0]


def _has_classes(found: Mapping[str, Mapping[str, str]]) -> bool:
    """Return True for a text and its class, where no other column makes them part of a pair."""
    own = found["classes"]
    if not {"text", "label"} <= set(own):
        return False
    judged = found["judgements"]
    signs = [judged.get("grade"), found["clicks"].get("clicked")]
    signs += [found["triplets"].get(name) for name in ("positive", "negative")]
    pair = {"query", "title"} <= set(judged)
    return not pair and not {sign for sign in signs if sign} - set(own.values())


def _against(kind: str, found: Mapping[str, Mapping[str, str]]) -> str:
    """Return the header that contradicts a format, '' for none: a grade or a click beside pairs, a
    negative beside graded titles."""
    if kind != "triplets":
        signs = [found["triplets"].get("negative")]
    elif "negative" in found[kind]:
        signs = []
    else:
        signs = [found["judgements"].get("grade"), found["clicks"].get("clicked")]
    read = set(found[kind].values())
    return next((header for header in signs if header and header not in read), "")


def _refuse_classes(table: Table, columns: Columns) -> None:
    """Refuse labels of premise and hypothesis that are more than 0 and 1: 0 is the best there."""
    header, first = columns.headers["grade"], _plain(columns.headers["query"])
    labels = {cell.strip() for cell in table.frame[header]} - {"0", "1"}
    if "premise" in first and labels:
        raise DataError(
            f"{table.name}, row 1: {quoted(header)} beside a premise holds {quoted(min(labels))}; expected 0 and 1, "
            "since classes of inference (entailment 0, neutral 1, contradiction 2) are no grades; write 1 for a "
            f"title that fits and 0 for others, or say that higher is better: data.columns.grade={header}"
        )


def _refuse_hidden(table: Table, header: str) -> None:
    """Refuse a file whose grades are all -1, as of tests that are published without labels."""
    if {cell.strip() for cell in table.frame[header]} <= {"-1", "-1.0"}:
        raise DataError(
            f"{table.name}, row 1: every {quoted(header)} is -1, as where labels are kept back; "
            "expected grades; leave the file out and name the others: data.train=FILE data.valid=FILE"
        )


def _check_mapping(file: str, headers: Sequence[str], mapping: Mapping[str, str | None]) -> None:
    faults = []
    for name, header in mapping.items():
        if name not in SYNONYMS:
            known = ", ".join(SYNONYMS)
            faults.append(
                f"data.columns.{name}: no such column.{did_you_mean(name, SYNONYMS)} Known: {known}"
            )
        elif header is not None and header not in headers:
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
