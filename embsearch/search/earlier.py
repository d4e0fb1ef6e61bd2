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

from embsearch.config.build import build, with_values
from embsearch.config.schema import Config
from embsearch.errors import ConfigError
from embsearch.history.folder import StudyFolder
from embsearch.search.space import Space, parse
from embsearch.search.surrogate import NOISE, Coordinates, Floats, Point, Told, in_logits, matern

SPREAD = 0.3  # between configurations, in logits, that every study is put to
HEIGHT = 1.7  # variance of a study's configurations, in units of its own; measured as LENGTHS
LEAST_ENDED = 3  # trials of a study of this home
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


def studies_of(config: Config) -> list[Earlier]:
    """Return the studies that a search begins with: those that are shipped, and ``study.like``.

    Raises ConfigError where a named study is not there or has too few trials that ended.
    """
    return [recorded(), *(_of_home(config, name) for name in config.study.like)]


def _of_home(config: Config, name: str) -> Earlier:
    folder = StudyFolder(with_values(config, {"study.name": name}))
    if not folder.locked.exists():
        raise ConfigError(
            f"study.like={name}: no such study in {folder.home}; see 'embsearch status'"
        )
    began = build(folder.read_locked()["config"])
    trials = folder.state().trials.values()
    ended = [t for t in trials if t.state == "complete" and t.best is not None]
    if len(ended) < LEAST_ENDED:
        raise ConfigError(
            f"study.like={name}: {len(ended)} of its trials came to their end, and fewer than "
            f"{LEAST_ENDED} say nothing; give it a larger stop.trials, or leave it out"
        )
    values = in_logits([trial.best for trial in ended if trial.best is not None])
    space = parse(began.space, began)
    return Earlier(space, [space.fill(t.params, began) for t in ended], [values.tolist()])


def told_by(studies: Sequence[Earlier], space: Space, config: Config) -> Told:
    """Return the function that says (C, K) by how much earlier studies expect configurations of
    ``space`` to be better than the config's own.

    Studies in whose ranges the config's own point does not lie say nothing: adapters and static
    encoders learn at other rates, and other losses were not recorded.
    """
    own = space.default(config)
    near = [one for one in studies if one.space.has(one.space.fill(own, config))]

    def told(points: Sequence[Point]) -> Floats:
        said = [np.zeros((len(points), 1))] if not near else []
        for one in near:
            v = one.expects([one.space.fill(point, config) for point in (own, *points)])
            said.append(v[1:] - v[0])
        return np.concatenate(said, axis=1)

    return told
