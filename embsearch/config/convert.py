"""A plain value as the type that a field declares."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from embsearch.config.settings import Declared
from embsearch.errors import did_you_mean
from embsearch.values import Scalar

T = TypeVar("T")


def converted(value: object, field: Declared) -> Any:
    """Return ``value`` as the field's type. Raises ValueError whose text says what was expected."""
    found = _convert(value, field.kind)
    return _one_of(found, field.choices) if field.setting.choices and found is not None else found


def _convert(value: object, kind: Any) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Literal:
        return _one_of(value, args)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(value, next(a for a in args if a is not type(None)))
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError("a list")
        return tuple(_convert(v, args[0]) for v in value)
    if origin is not None and issubclass(origin, Mapping):
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise ValueError("a mapping")
        return {str(k): _convert(v, args[1]) for k, v in value.items()}
    return _scalar(value, kind)


def _one_of(value: T, choices: Sequence[object]) -> T:
    if value in choices:
        return value
    hint = did_you_mean(str(value), [str(choice) for choice in choices])
    raise ValueError(f"one of {', '.join(map(str, choices))}.{hint}")


def _scalar(value: Any, kind: type) -> Scalar:
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ValueError("true or false")
    if kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        raise ValueError("a whole number")
    if kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        try:  # YAML 1.1 reads 1e-4 as a word
            return float(value)
        except (TypeError, ValueError):
            raise ValueError("a number") from None
    if kind is str:
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value)
        raise ValueError("a word")
    raise TypeError(f"a {kind}")
