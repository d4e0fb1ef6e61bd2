"""The texts in a cell that held a list or an object in its file."""

from __future__ import annotations

import ast
import json
from contextlib import suppress


def texts_in(cell: str) -> list[str]:
    """Return the texts of a cell: of a list each of its items, of anything else the cell.

    An item is a text, nothing ('' then), an object with ``text`` and perhaps ``title`` (joined by a
    blank), or a conversation, a list of messages with ``role`` and ``content`` (joined by line
    ends).
    Raises ValueError, whose text says what was expected.
    """
    return _texts(_value(cell.strip())) if cell.strip()[:1] in ("[", "{") else [cell]


def _value(cell: str) -> object:
    """Return what JSON or, as in the CSV of a data frame, Python reads in a cell; else the cell."""
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return parse(cell)
    return cell


def _texts(value: object) -> list[str]:
    if value is None:
        return [""]
    if isinstance(value, dict):
        return [_text(value)]
    if not isinstance(value, list):
        return [str(value)]
    if value and all(isinstance(item, dict) and "role" in item for item in value):
        return ["\n".join(text for message in value if (text := _text(message)))]
    return [text for item in value for text in _texts(item)]


def _text(value: dict[str, object]) -> str:
    found = [value[key] for key in ("title", "text", "content") if value.get(key)]
    if not {"text", "content"} & set(value) or not all(isinstance(part, str) for part in found):
        keys = ", ".join(value)
        raise ValueError(
            f"expected texts, or objects with 'text' or 'content', not one with {keys}"
        )
    return " ".join(map(str, found))
