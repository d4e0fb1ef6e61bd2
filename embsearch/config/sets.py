"""Several sets of data in one study: each set as a study of its own would be asked for.

``data.sets.products.path`` stands for ``data.path`` of that study, and what a set does not say of
its loss and its prompts is what the config says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TypeVar

from embsearch.config.schema import Config, DataConfig, FilesConfig
from embsearch.config.setting import Room
from embsearch.errors import UserError

R = TypeVar("R", bound=Room)

_SETTING = re.compile(rf"(?<![\w./])data\.(?={'|'.join(vars(FilesConfig()))})")


def of_set(config: Config, name: str) -> Config:
    """Return the config of a study of this set alone."""
    one = config.data.sets[name]
    return replace(
        config,
        data=one.files,
        objective=_with(config.objective, one.objective),
        model=replace(config.model, prompts=_with(config.model.prompts, one.prompts)),
        evaluate=replace(config.evaluate, objective=one.metric),
    )


@contextmanager
def faults_of(name: str) -> Iterator[None]:
    """Say of the faults of a study of one set whose they are."""
    try:
        yield
    except UserError as error:
        raise type(error)([f"{name}: {in_set(fault, name)}" for fault in error.faults]) from None


def in_set(fault: str, name: str) -> str:
    """Return a fault of a study of one set as that of the set ``name``."""
    return _SETTING.sub(f"data.sets.{name}.", fault)


def moved(data: DataConfig, now: DataConfig) -> DataConfig:
    """Return the data with files, each set's own, from where ``now`` says."""
    places = {key: getattr(now, key) for key in ("path", "train", "valid", "test")}
    sets = {
        name: replace(one, **{key: getattr(now.sets.get(name, one), key) for key in places})
        for name, one in data.sets.items()
    }
    return replace(data, sets=sets, **({} if sets else places))


def _with(room: R, said: Room) -> R:
    """Return a room with what a set says of it."""
    given = {one.name: getattr(said, one.name) for one in fields(said)}  # type: ignore[arg-type]
    some = {name: value for name, value in given.items() if value is not None}
    return replace(room, **some)  # type: ignore[type-var]  # rooms are records
