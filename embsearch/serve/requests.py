"""The question of a request: MLflow's and OpenAI's bodies to texts, every fault with its row.

MLflow's forms are {"inputs": ...}, {"instances": ...}, {"dataframe_records": [...]} and
{"dataframe_split": {"columns": [...], "data": [...]}}. A row is a text, {"text": ...}, or
{"query": ..., "title": ...}, for which the answer is their cosine.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from embsearch.codec import JsonObject
from embsearch.model.prompts import Role

FORMS = ("inputs", "instances", "dataframe_records", "dataframe_split")
TEXT, PAIR = ("text",), ("query", "title")
INPUT_TYPES: Mapping[str, Role] = {
    "query": "query",
    "document": "document",
    "passage": "document",
    "search_query": "query",
    "search_document": "document",
}
EXPECTED = '{"inputs": ["a text", ...]} or {"inputs": [{"query": "...", "title": "..."}, ...]}'
EXPECTED_OPENAI = '{"input": ["a text", ...]}'


# A text, or what begins or goes on with a list or an object. A text without an end takes the rest.
_VALUE = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{,]', re.DOTALL)
_OF_A_ROW = 8  # such values: {"query": "", "title": ""}, has seven


class Refusal(Exception):
    """A request gets no vectors; the text says why. ``status`` is HTTP's.

    ``retry_after``: seconds after which it may be answered.
    """

    def __init__(
        self, message: str, status: int, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.retry_after = status, param, retry_after


class BadRequest(Refusal):
    """The client can mend this; the text says what and where."""

    def __init__(self, message: str, status: int = 400, param: str | None = None) -> None:
        super().__init__(message, status, param)


@dataclass(frozen=True)
class Limits:
    rows: int
    chars: int


@dataclass(frozen=True)
class Rows:
    """Texts to encode, or pairs to compare: then ``titles`` has one for each of ``texts``, which
    are queries.
    """

    texts: tuple[str, ...]
    titles: tuple[str, ...] | None = None
    role: Role | None = None  # of texts without titles


@dataclass(frozen=True)
class Embeddings:
    """OpenAI's question. ``base64``: vectors as bytes of float32 instead of numbers.

    ``role`` or ``prompt_name`` says which of the model's prompts stands before the texts.
    """

    texts: tuple[str, ...]
    model: str | None
    base64: bool
    role: Role | None = None
    prompt_name: str | None = None


def invocation(body: bytes, limits: Limits) -> Rows:
    """Return the rows of a body for /invocations. Raises BadRequest."""
    given = _object(body, EXPECTED, limits)
    form = _only(given, FORMS, ("params",), EXPECTED)
    params = given.get("params") or {}
    if not isinstance(params, dict) or params.keys() - {"input_type"}:
        raise BadRequest(
            f'params: expected none, or {{"input_type": "query"}}, got {_shown(params)}; '
            "what a row holds says what is done"
        )
    found = _invoked(form, given[form], limits)
    if params and found.titles is not None:
        raise BadRequest("params.input_type: expected none beside rows of a query and a title")
    return replace(found, role=_role(params))


def csv_table(body: bytes, limits: Limits) -> Rows:
    """Return the rows of CSV with a header. Read no further than the limits. Raises BadRequest."""
    try:
        lines = csv.reader(_lines(body, limits), strict=True)
        columns = next(lines, [])
        rows: list[list[str]] = []
        for row in lines:
            if row and len(row) != len(columns):
                raise BadRequest(
                    f"line {lines.line_num}: {len(row)} cells; expected {len(columns)} as the header"
                )
            rows.append(row)
            _count("rows", rows, limits)  # blank lines too: sixteen million take seconds
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadRequest(f"the body is not CSV in UTF-8: {error}") from None
    rows = [row for row in rows if row]
    _count("rows", rows, limits)
    return table(columns, list(zip(*rows, strict=True)), "rows", limits)


def _lines(body: bytes, limits: Limits) -> Iterator[str]:
    """Yield the lines. Refuse one that is longer than two texts of doubled quotes."""
    most = 4 * limits.chars + 100
    file = io.TextIOWrapper(io.BytesIO(body), encoding="utf-8-sig", newline="")
    for number, line in enumerate(iter(lambda: file.readline(most + 1), ""), 1):
        if len(line) > most:
            raise BadRequest(
                f"line {number}: more than {most} characters; expected at most {limits.chars} a "
                "text (serve.max_chars)"
            )
        yield line


def _invoked(form: str, value: object, limits: Limits) -> Rows:
    if form == "dataframe_split":
        return _split(value, limits)
    if isinstance(value, dict):
        return _columns(form, value, limits)
    value = [value] if isinstance(value, str) and form == "inputs" else value
    if not isinstance(value, list):
        raise BadRequest(f"{form}: expected a list of rows, got {_shown(value)}")
    return _rows(form, value, limits)


def embeddings(body: bytes, limits: Limits) -> Embeddings:
    """Return the question of a body for /v1/embeddings. Raises BadRequest."""
    given = _object(body, EXPECTED_OPENAI, limits)
    if "input" not in given:
        raise BadRequest(f"input: is missing; expected {EXPECTED_OPENAI}", param="input")
    encoding = given.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise BadRequest(
            f"encoding_format: expected float or base64, got {_shown(encoding)}",
            param="encoding_format",
        )
    if given.get("dimensions") is not None:
        raise BadRequest("dimensions: this model has one width; leave it out", param="dimensions")
    model = given.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRequest(f"model: expected a name, got {_shown(model)}", param="model")
    texts = [given["input"]] if isinstance(given["input"], str) else given["input"]
    if not isinstance(texts, list):
        raise BadRequest(
            f"input: expected a text or a list of texts, got {_shown(texts)}", param="input"
        )
    name, role = given.get("prompt_name"), _role(given)
    if name is not None and (role or not isinstance(name, str)):
        raise BadRequest(
            f"prompt_name: expected a name, and no input_type beside it, got {_shown(name)}",
            param="prompt_name",
        )
    try:
        found = _texts("input", texts, limits)
        return Embeddings(found, model, encoding == "base64", role, name)
    except BadRequest as error:
        error.param = "input"
        raise


def _role(given: JsonObject) -> Role | None:
    """Return the role that ``input_type`` names. Raises BadRequest."""
    asked = given.get("input_type")
    if asked is None:
        return None
    if not isinstance(asked, str) or asked not in INPUT_TYPES:
        raise BadRequest(
            f"input_type: expected one of {', '.join(INPUT_TYPES)}, got {_shown(asked)}",
            param="input_type",
        )
    return INPUT_TYPES[asked]


def table(
    columns: Sequence[str], data: Sequence[Sequence[object]], where: str, limits: Limits
) -> Rows:
    """Return rows by column, as CSV has them: one column of texts, or query and title.

    Raises BadRequest.
    """
    names = tuple(sorted(map(str, columns)))
    if names == tuple(sorted(PAIR)):
        queries, titles = (list(data[list(columns).index(name)]) for name in PAIR)
        return Rows(
            _texts(where, queries, limits, ".query"), _texts(where, titles, limits, ".title")
        )
    if len(columns) == 1:  # one column is texts, whatever it is called
        return Rows(_texts(where, list(data[0]), limits))
    raise BadRequest(
        f"{where}: expected the columns text, or query and title, got {_shown(list(columns))}"
    )


def _object(body: bytes, expected: str, limits: Limits) -> JsonObject:
    try:
        text = body.decode("utf-8-sig")
        _check_values(text, limits)
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON ({error}); expected {expected}") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # bytes of no encoding, numbers of a million digits, [[[[...
        raise BadRequest(
            f"the body is not JSON ({type(error).__name__}); expected {expected}"
        ) from None
    if not isinstance(given, dict):
        raise BadRequest(f"the body is {_shown(given)}; expected an object, {expected}")
    return given


def _check_values(text: str, limits: Limits) -> None:
    """Raise BadRequest where JSON holds more values than rows need: each takes 60 bytes."""
    most = _OF_A_ROW * (limits.rows + 8)
    if sum(map(text.count, "[{,")) <= most:  # no text need be told from a list: fifty times faster
        return
    if any(number > most for number, _ in enumerate(_VALUE.finditer(text), 1)):
        raise BadRequest(
            f"the body holds more than {most} values; expected no more than {limits.rows} rows "
            "need (serve.max_rows)"
        )


def _only(given: JsonObject, forms: Sequence[str], beside: Sequence[str], expected: str) -> str:
    unknown = [key for key in given if key not in (*forms, *beside)]
    if unknown:
        raise BadRequest(
            f"{_shown(unknown[0])}: no such field; expected one of {', '.join(forms)}, as {expected}"
        )
    found = [form for form in forms if form in given]
    if len(found) != 1:
        raise BadRequest(
            f"expected one of {', '.join(forms)}, as {expected}; got {', '.join(found) or 'none of them'}"
        )
    return found[0]


def _split(value: object, limits: Limits) -> Rows:
    at = "dataframe_split"
    if not isinstance(value, dict) or not {"columns", "data"} <= value.keys():
        raise BadRequest(
            f'{at}: expected {{"columns": [...], "data": [[...], ...]}}, got {_shown(value)}'
        )
    columns, data = value["columns"], value["data"]
    if (
        not isinstance(columns, list)
        or not isinstance(data, list)
        or not all(isinstance(c, str) for c in columns)
    ):
        raise BadRequest(f"{at}: expected lists of names and of rows, got {_shown(value)}")
    _count(at, data, limits)
    for number, row in enumerate(data, 1):
        if not isinstance(row, list) or len(row) != len(columns):
            raise BadRequest(
                f"{at}, row {number}: expected {len(columns)} cells in a list, got {_shown(row)}"
            )
    return table(columns, [list(column) for column in zip(*data, strict=True)], at, limits)


def _columns(form: str, value: JsonObject, limits: Limits) -> Rows:
    """Return {"query": [...], "title": [...]}."""
    lists = [[cells] if isinstance(cells, str) else cells for cells in value.values()]
    for name, cells in zip(value, lists, strict=True):
        if not isinstance(cells, list):
            raise BadRequest(f"{form}.{name}: expected a list of texts, got {_shown(cells)}")
    if len({len(cells) for cells in lists}) > 1:
        lengths = ", ".join(
            f"{name} {len(cells)}" for name, cells in zip(value, lists, strict=True)
        )
        raise BadRequest(f"{form}: expected columns of one length, got {lengths}")
    if tuple(value) not in (TEXT, PAIR, PAIR[::-1]):
        raise BadRequest(
            f"{form}: expected the columns text, or query and title, got {_shown(list(value))}"
        )
    return table(list(value), lists, form, limits)


def _rows(form: str, rows: list[Any], limits: Limits) -> Rows:
    _count(form, rows, limits)
    kinds = [_kind(form, number, row) for number, row in enumerate(rows, 1)]
    if len(set(kinds)) > 1:
        other = next(n for n, kind in enumerate(kinds, 1) if kind != kinds[0])
        raise BadRequest(
            f"{form}, row {other}: expected {kinds[0]} as in row 1, got {kinds[other - 1]}"
        )
    if kinds[0] == "a text":
        return Rows(
            _texts(form, [row if isinstance(row, str) else row["text"] for row in rows], limits)
        )
    queries, titles = ([row[name] for row in rows] for name in PAIR)
    return Rows(_texts(form, queries, limits, ".query"), _texts(form, titles, limits, ".title"))


def _kind(form: str, number: int, row: object) -> str:
    if isinstance(row, str) or (isinstance(row, dict) and tuple(row) == TEXT):
        return "a text"
    if isinstance(row, dict) and tuple(sorted(row)) == tuple(sorted(PAIR)):
        return "a query and a title"
    raise BadRequest(
        f'{form}, row {number}: expected a text or {{"query": ..., "title": ...}}, got {_shown(row)}'
    )


def _texts(
    where: str, values: Sequence[object], limits: Limits, field: str = ""
) -> tuple[str, ...]:
    _count(where, values, limits)
    texts = []
    for number, value in enumerate(values, 1):
        at = f"{where}, row {number}{field}"
        if not isinstance(value, str):
            raise BadRequest(f"{at}: expected a text, got {_shown(value)}")
        if len(value) > limits.chars:
            raise BadRequest(
                f"{at}: {len(value)} characters; expected at most {limits.chars} (serve.max_chars)"
            )
        if not value.strip():
            raise BadRequest(f"{at}: is empty; expected a text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRequest(
                f"{at}: holds half of a surrogate pair; expected Unicode text"
            ) from None
        texts.append(value)
    return tuple(texts)


def _count(where: str, values: Sequence[object], limits: Limits) -> None:
    if not values:
        raise BadRequest(f"{where}: no rows; expected at least one")
    if len(values) > limits.rows:
        raise BadRequest(
            f"{where}: {len(values)} rows; expected at most {limits.rows} in one request (serve.max_rows)"
        )


def _shown(value: object) -> str:
    """Return A value as JSON writes it, short."""
    text = json.dumps(value)  # ASCII: also of what no encoding takes
    return text if len(text) <= 60 else f"{text[:57]}..."
