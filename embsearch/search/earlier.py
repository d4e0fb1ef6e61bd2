"""Words of earlier studies, on other data, about a configuration.

Shipped are fine-tunes of the same configurations on six public data sets (``recorded.json``, made
by benchmarks/record_curves.py). Search spaces are much alike on unlike data: the same rates learn and
the same do not, so that a search need not find that out anew.

Shapes: C configurations, N of a study, K studies, D columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np

from embsearch.config.schema import Config
from embsearch.search.space import Space, parse
from embsearch.search.surrogate import NOISE, Coordinates, Floats, Point, Told, matern

SPREAD = 0.3  # between configurations, in logits, that every study is put to
HEIGHT = 1.7  # variance of a study's configurations, in units of its own; measured as LENGTHS
LEAST_NOISE = 0.15  # in the same units: it must not be believed to the last digit


class Earlier:
    """Studies on other data, of the same configurations: ``values`` at their end, in logits, one
    list a study.
    """

    def __init__(
        self, space: Space, points: Sequence[Point], values: Sequence[Sequence[float]]
    ) -> None:
        self.space = space
        self._coordinates = Coordinates(space)
        self._column_ND = self._coordinates.of(points)
        known_NN = HEIGHT * matern(self._column_ND, self._column_ND)
        weights = []
        for v_N in map(np.array, values):
            spread = max(float(v_N.std()), 1e-6)
            noise_NN = max(NOISE / spread, LEAST_NOISE) ** 2 * np.eye(len(v_N))
            weights.append(np.linalg.solve(known_NN + noise_NN, (v_N - v_N.mean()) / spread))
        self._weights_NK = np.array(weights).T

    def expects(self, points: Sequence[Point]) -> Floats:
        """Return (C, K) what each study expects of configurations, in logits from its mean."""
        known = matern(self._coordinates.of(points), self._column_ND)
        found: Floats = SPREAD * HEIGHT * known @ self._weights_NK
        return found


@cache
def recorded(without: str = "") -> Earlier:
    """Return the shipped studies, but for the one that is named."""
    table = json.loads(files("embsearch.search").joinpath("recorded.json").read_text())
    values = [v for name, v in table["values"].items() if name != without]
    return Earlier(parse(table["space"], Config()), table["configurations"], values)


def told_by(studies: Earlier, space: Space, config: Config) -> Told:
    """Return the function that says (C, K) by how much earlier studies expect configurations of
    ``space`` to be better than the config's own.

    Where the config's own point does not lie in their ranges they say nothing: adapters and static
    encoders learn at other rates, and other losses were not recorded.
    """
    own = space.default(config)
    if not studies.space.has(studies.space.fill(own, config)):
        return lambda points: np.zeros((len(points), 1))

    def told(points: Sequence[Point]) -> Floats:
        v_CK = studies.expects([studies.space.fill(point, config) for point in (own, *points)])
        return v_CK[1:] - v_CK[0]

    return told
