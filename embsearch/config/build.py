"""Plain nested mappings to the typed config and back, with every fault reported at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from embsearch.codec import Json, JsonObject
from embsearch.config import secrets
from embsearch.config.convert import converted
from embsearch.config.options import Options
from embsearch.config.schema import Config
from embsearch.config.sets import in_set
from embsearch.config.setting import Room, Setting
from embsearch.config.settings import (
    ROOM,
    declared,
    inside,
    kept,
    named_rooms,
    options,
    rooms,
    settings,
    variants,
)
from embsearch.errors import ConfigError, did_you_mean
from embsearch.values import Scalar

R = TypeVar("R", bound=Room)
O = TypeVar("O", bound=Options)  # noqa: E741  # a verb's class

Passed = dict[str, tuple[object, Setting]]  # by path: what another variant or a verb takes


def build(values: Json) -> Config:
    """Return the config of ``values``, without the passwords in its addresses.

    What another launcher or a single verb takes is checked and passed over. Raises ConfigError
    naming every wrong key and value.
    """
    config, passed = _typed(_of_today(values))
    _check(config, passed)
    return config


def _of_today(values: Json) -> Json:
    """Return a recorded config with what an older version did where there is a setting now."""
    data, model = values.get("data") or {}, values.get("model") or {}
    derive, confirm = data.get("derive") or {}, values.get("confirm") or {}
    found = dict(values)
    if "winner" not in confirm and {"sampler", "scheduler", "train", "stop"} <= values.keys():
        found["confirm"] = {**confirm, "winner": "value"}
    if "relevant_alone" not in derive and {"per_query", "min_gap", "seed"} <= derive.keys():
        found["data"] = {**data, "derive": {**derive, "relevant_alone": False}}
    if "prompts" not in model and {"path", "pooling", "trust_remote_code"} <= model.keys():
        found["model"] = {**model, "prompts": {"query": "", "document": ""}}
    return found


def build_options(values: Json, cls: type[O]) -> O:
    """Return what a verb takes of ``values`` beside the config. ``build`` has checked them."""
    known = declared(cls)
    return cls(**{name: converted(values[name], known[name]) for name in known if name in values})


def to_dict(config: object) -> Any:
    """Return the config as plain dicts and lists, as JSON and YAML write them."""
    if config is None or isinstance(config, (str, int, float)):  # most of it, and every trial asks
        return config
    if is_dataclass(config):
        return {name: to_dict(getattr(config, name)) for name in _names(config.__class__)}
    if isinstance(config, Mapping):
        return {k: to_dict(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(v) for v in config]
    return config


def with_values(config: Config, params: Mapping[str, Scalar]) -> Config:
    """Return a copy of ``config`` with other values at some paths (``{"train.lr": 1e-4}``).

    Raises ConfigError as ``build`` does.
    """
    touched = {path.split(".")[0] for path in params}
    tree = {name: to_dict(getattr(config, name, {})) for name in touched}
    for path, value in params.items():
        *above, leaf = path.split(".")
        node = tree
        for room in above:
            node = node[room]
        node[leaf] = value
    typed, passed = _typed(tree)
    made = replace(config, **{name: getattr(typed, name) for name in touched})
    _check(made, passed)
    return made


def paths() -> JsonObject:
    """Return every setting's path with its declared type: the names that overrides may use."""
    return {path: one.kind for path, one in settings().items()}


def value_at(config: Config, path: str) -> Any:
    """Return the value at a path. Raises AttributeError or KeyError where it is not there."""
    node: Any = config
    for part in path.split("."):
        node = node[part] if isinstance(node, Mapping) else getattr(node, part)
    return node


def _typed(values: Json) -> tuple[Config, Passed]:
    """Return the config before its ranges are checked, and what it has no field for."""
    faults: list[str] = []
    passed: Passed = {}
    config = _build(Config, secrets.taken_out(values), "", ROOM, passed, faults)
    if faults:
        raise ConfigError(faults)
    return config, passed


def _build(
    cls: type[R], values: object, at: str, room: Setting, passed: Passed, faults: list[str]
) -> R:
    """Return a room of ``values``; faults and what is passed over are added to the last two."""
    if not isinstance(values, Mapping):
        faults.append(f"{at.rstrip('.')}: expected a mapping, got {values!r}")
        return cls()
    known = inside(cls, room) if at else {**declared(cls), **options()}
    for key in values:
        if key not in known:
            names = [f"{at}{name}" for name in known]
            hint = did_you_mean(f"{at}{key}", names)
            faults.append(f"{at}{key}: no such setting.{hint} Known: {', '.join(names)}")
    cls = _variant(cls, room, values)
    made: dict[str, Any] = {}
    for name, field in known.items():
        if name not in values:
            continue
        path, value = f"{at}{name}", values[name]
        if name in rooms(cls):
            made[name] = _build(field.kind, value, f"{path}.", field.setting, passed, faults)
            continue
        if name in named_rooms(cls) and isinstance(value, Mapping):
            kind = named_rooms(cls)[name]
            made[name] = {
                str(own): _build(kind, inside, f"{path}.{own}.", ROOM, passed, faults)
                for own, inside in value.items()
            }
            continue
        try:
            made[name] = converted(value, field)
        except (TypeError, ValueError) as error:
            faults.append(f"{path}={value!r}: expected {error}")
    for name in made.keys() - declared(cls).keys():
        passed[f"{at}{name}"] = made.pop(name), known[name].setting
    return cls(**made)


def _variant(cls: type[R], room: Setting, values: Json) -> type[R]:
    """Return the class that ``name`` says, where a room has several."""
    if not room.variants:
        return cls
    named = variants(room)
    name = values.get("name")
    return named.get(name if isinstance(name, str) else "", named[declared(cls)["name"].default])


def _check(config: Config, passed: Passed) -> None:
    """Refuse values that no type can refuse, all at once."""
    faults = list(_faults(config, ""))
    for path, (value, known) in passed.items():
        if known.bounded and (why := known.refusal(value)):
            faults.append(f"{path}={value}: {why}")
    if faults:
        raise ConfigError(faults)


def _faults(room: Room, at: str) -> Iterator[str]:
    for name, known in _bounded(type(room)):
        value = getattr(room, name)
        if why := known.refusal(value):
            yield f"{at}{name}={value}: {why}"
    for name in rooms(type(room)):
        yield from _faults(getattr(room, name), f"{at}{name}.")
    for name in named_rooms(type(room)):
        for own, one in getattr(room, name).items():
            yield from (in_set(fault, own) for fault in _faults(one, f"{at}{name}.{own}."))
    yield from room.faults()


@kept
def _bounded(cls: type) -> tuple[tuple[str, Setting], ...]:
    """Return the fields that have a range, and what is known of them."""
    found = declared(cls).items()
    return tuple((name, one.setting) for name, one in found if one.setting.bounded)


@kept
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))
