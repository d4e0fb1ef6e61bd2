"""The encoders that the trials of a search may have: each is tried before the first trial begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from embsearch.config.build import with_values
from embsearch.config.schema import Config
from embsearch.hpo.space import Dimension, Space
from embsearch.values import Scalar

ROOM, PATH, FROZEN = "model.", "model.path", "model.freeze_layers"


def untuned(space: Space, config: Config) -> Config:
    """Return ``config`` with as many layers frozen as any trial may have.

    That changes no vector, and tells an encoder with fewer layers before the study begins.
    """
    most = {d.path: max(d.values) for d in space.dimensions if d.path == FROZEN}
    return with_values(config, most)


def others(space: Space, config: Config) -> list[Config]:
    """Return configs that show every value of the encoder's settings that trials may have.

    They are those of each encoder in turn, without that of ``untuned``.
    """
    known = [untuned(space, config)]
    for point in _points(space, config.model.path):
        one = with_values(config, point)
        if one.model not in [other.model for other in known]:
            known.append(one)
    return known[1:]


def _points(space: Space, own: str) -> Iterator[dict[str, Scalar]]:
    """Yield settings of the encoder: in turn the values of each, for each encoder, ``own`` first."""
    searched = [d for d in space.dimensions if d.path.startswith(ROOM)]
    values = {d.path: _values(d) for d in searched}
    paths = values.pop(PATH, (own,))
    turns = max(map(len, values.values()), default=1)
    for path in sorted(paths, key=lambda path: path != own):
        for turn in range(turns):
            yield _point(searched, values | {PATH: (path,)}, turn)


def _point(
    searched: Sequence[Dimension], values: Mapping[str, Sequence[Scalar]], turn: int
) -> dict[str, Scalar]:
    point: dict[str, Scalar] = {}
    for dimension in searched:
        if not _holds(dimension, point):
            continue
        some = values[dimension.path]
        point[dimension.path] = some[min(turn, len(some) - 1)]
    return point


def _values(dimension: Dimension) -> Sequence[Scalar]:
    """Return values to try: of frozen layers the most, which fewer are a part of."""
    if dimension.path == FROZEN:
        return (max(dimension.values),)
    return dimension.values


def _holds(dimension: Dimension, point: Mapping[str, Scalar]) -> bool:
    """Return whether the encoder's settings allow it; what else it depends on may come."""
    asked = {on: values for on, values in dimension.when.items() if on.startswith(ROOM)}
    return all(point.get(on) in values for on, values in asked.items())
