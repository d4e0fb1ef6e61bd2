"""Frozen dataclasses to JSON and back: events, jobs and messages are written and read by this one codec."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Json = Mapping[str, Any]  # a JSON object that is only read
JsonObject = dict[str, Any]  # a JSON object that is made or changed
Convert = Callable[[Any], Any]


def to_json(value: object) -> Any:
    """Return ``value`` in JSON's types: dataclasses become objects, tuples lists."""
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(one) for one in value]
    return value


def from_json(kind: type[T], content: Json) -> T:
    """Make a ``kind`` of a JSON object. Fields that it does not know are passed over, those that are missing
    take their defaults. Raises TypeError where one without a default is missing."""
    known = {}
    for name, convert in _converters(kind).items():  # type: ignore[arg-type]
        if name in content:
            known[name] = content[name] if convert is None else convert(content[name])
    return kind(**known)


@cache
def _converters(kind: Any) -> Mapping[str, Convert | None]:
    """Return how each field of a dataclass is made of its JSON; None where JSON has it as it is."""
    hints = get_type_hints(kind)
    return {field.name: _converter(hints[field.name]) for field in fields(kind) if field.init}


def _converter(hint: object) -> Convert | None:
    origin, parameters = get_origin(hint), get_args(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return lambda content: from_json(hint, content)
    if origin in (Union, types.UnionType):
        return _optional(parameters)
    if origin is tuple:
        return _sequence(tuple, parameters)
    if origin in (Sequence, list) and _converter(parameters[0]) is not None:
        return _sequence(list, parameters)
    return None


def _optional(parameters: Sequence[object]) -> Convert | None:
    found = [convert for convert in map(_converter, parameters) if convert is not None]
    if not found:
        return None
    return lambda content: None if content is None else found[0](content)


def _sequence(make: Convert, parameters: Sequence[object]) -> Convert:
    convert = _converter(parameters[0]) if parameters else None
    if convert is None:
        return make
    return lambda content: make(map(convert, content))
