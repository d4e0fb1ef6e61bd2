"""Every setting by its path, as its field declares it. Whoever needs a list of settings asks here.

Standard library only: ``--help`` reads this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, replace
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints

from embsearch.config.options import EVERY
from embsearch.config.schema import Config, DataConfig
from embsearch.config.setting import KEY, Room, Setting

ROOM = Setting("")  # of a room that says nothing about itself


F = TypeVar("F", bound=Callable[..., Any])


def kept(make: F) -> F:
    """Return ``make`` with each of its answers made once. A checker still sees its types."""
    return cast(F, cache(make))


class Declared(NamedTuple):
    """One field of a class: a setting, or a room."""

    name: str
    kind: Any  # the declared type
    default: Any
    setting: Setting

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that are allowed, where only some are."""
        if get_origin(self.kind) is Literal:
            return get_args(self.kind)
        return tuple(self.setting.choices)


@kept  # Python evaluates types anew whenever it is asked, and every trial asks
def declared(cls: type) -> Mapping[str, Declared]:
    """Return the fields of a class by name."""
    hints = get_type_hints(cls)
    return {
        one.name: Declared(one.name, hints[one.name], _default(one), one.metadata.get(KEY, ROOM))
        for one in fields(cls)
    }


@kept
def rooms(cls: type) -> Mapping[str, Declared]:
    """Return those fields of a class that are rooms, by name."""
    return {name: one for name, one in declared(cls).items() if hasattr(one.kind, "faults")}


@kept
def named_rooms(cls: type) -> Mapping[str, type[Room]]:
    """Return the class of the rooms in each field that holds rooms by names of the user's own."""
    held = {name: get_args(one.kind) for name, one in declared(cls).items()}
    return {n: kinds[1] for n, kinds in held.items() if kinds[1:] and hasattr(kinds[1], "faults")}


@kept
def variants(room: Setting) -> Mapping[str, type]:
    """Return the classes of a room whose ``name`` says which it is, by that name."""
    return {declared(cls)["name"].default: cls for cls in room.variants}


@kept
def inside(cls: type, room: Setting = ROOM) -> Mapping[str, Declared]:
    """Return the fields of a room by name, those of all its variants where it has some."""
    if not room.variants:
        return declared(cls)
    found = dict(declared(cls))
    for variant in room.variants:
        for name, one in declared(variant).items():
            found.setdefault(name, one)
    which = found["name"].setting
    choices = tuple(variants(room))
    found["name"] = found["name"]._replace(setting=replace(which, choices=choices))
    return found


@kept
def options() -> Mapping[str, Declared]:
    """Return the settings of single verbs by name."""
    return {name: one for cls in EVERY for name, one in declared(cls).items()}


@kept
def settings() -> Mapping[str, Declared]:
    """Return every setting by path: those of the config, then those of single verbs."""
    return {**dict(_below(Config, "")), **options()}


def settings_of(config: Config) -> Mapping[str, Declared]:
    """Return every setting by path, those of the sets of data in ``config`` too."""
    inside = dict(_below(named_rooms(DataConfig)["sets"], ""))
    of_sets = {f"data.sets.{n}.{path}": inside[path] for n in config.data.sets for path in inside}
    return {**settings(), **of_sets}


@kept
def may_change() -> tuple[str, ...]:
    """Return the rooms and settings with which a study may be gone on with otherwise."""
    return tuple(_changeable(Config, ""))


def _below(cls: type, at: str, room: Setting = ROOM) -> Iterator[tuple[str, Declared]]:
    for name, one in inside(cls, room).items():
        if name in rooms(cls):
            yield from _below(one.kind, f"{at}{name}.", one.setting)
        else:
            yield f"{at}{name}", one


def _changeable(cls: type, at: str) -> Iterator[str]:
    for name, one in declared(cls).items():
        if not one.setting.identity:
            yield f"{at}{name}"
        elif name in rooms(cls):
            yield from _changeable(one.kind, f"{at}{name}.")


def _default(one: Field[object]) -> object:
    if one.default_factory is not MISSING:
        return one.default_factory()
    return one.default
