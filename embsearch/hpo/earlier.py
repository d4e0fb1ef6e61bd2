"""Words of earlier studies, on other data, about a configuration.

Shipped are fine-tunes of the same configurations on six public data sets (``recorded.json``, made
by benchmarks/record_curves.py). Search spaces are much alike on unlike data: the same rates learn and
the same do not, so that a search need not find that out anew. ``study.like`` names studies of one's
own beside them; a study keeps what it began with in its log, whatever becomes of them.

Shapes: C configurations, N of a study, K studies, D columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from embsearch.config.build import build, with_values
from embsearch.config.schema import Config
from embsearch.errors import ConfigError, UserError
from embsearch.history.folder import StudyFolder
from embsearch.hpo.space import Space, parse
from embsearch.hpo.surrogate import NOISE, Coordinates, Floats, Point, Told, in_logits, matern
from embsearch.values import EarlierStudy

SPREAD = 0.3  # between configurations, in logits, that every study is put to
HEIGHT = 1.7  # variance of a study's configurations, in units of its own; measured as LENGTHS
LEAST_NOISE = 0.15  # in the same units: it must not be believed to the last digit
LEAST_ENDED = 3  # trials of a study of one's own


class Earlier:
    """Studies on other data, of the same configurations: ``values`` at their end, in logits, one
    list a study. ``spread`` of a study's configurations; None: what it measures.
    """

    def __init__(
        self,
        space: Space,
        points: Sequence[Point],
        values: Sequence[Sequence[float]],
        spread: float | None = None,
    ) -> None:
        self.space = space
        self._coordinates = Coordinates(space)
        self._column_ND = self._coordinates.of(points)
        known_NN = HEIGHT * matern(self._column_ND, self._column_ND)
        weights = []
        for v_N in map(np.array, values):
            unit = spread or max(float(v_N.std()), 1e-6)
            noise_NN = max(NOISE / unit, LEAST_NOISE) ** 2 * np.eye(len(v_N))
            weights.append(np.linalg.solve(known_NN + noise_NN, (v_N - v_N.mean()) / unit))
        self._weights_NK = np.array(weights).T

    def expects(self, points: Sequence[Point]) -> Floats:
        """Return (C, K) what each study expects of configurations, in logits from its mean."""
        known = matern(self._coordinates.of(points), self._column_ND)
        found: Floats = SPREAD * HEIGHT * known @ self._weights_NK
        return found


@cache
def recorded(without: str = "") -> Earlier:
    """Return the shipped studies, but for the one that is named."""
    table = json.loads(files("embsearch.hpo").joinpath("recorded.json").read_text())
    values = [v for name, v in table["values"].items() if name != without]
    return Earlier(parse(table["space"], Config()), table["configurations"], values)


def studies_of(config: Config) -> list[EarlierStudy]:
    """Return the studies of ``study.like`` as they are now: names in the home, or their folders.

    Raises ConfigError where one is not there, cannot be read or has too few trials that ended.
    """
    return [_study(config, name) for name in config.study.like]


def _study(config: Config, name: str) -> EarlierStudy:
    said, path = f"study.like: {name}", Path(name).expanduser()
    other = {"study.name": path.name}
    if path.parent != Path():
        other["home"] = str(path.absolute().parents[1])
    folder = StudyFolder(with_values(config, other))
    if not folder.locked.exists():
        raise ConfigError(f"{said}: no such study in {folder.home}; see 'embsearch status'")
    try:
        began = build(folder.read_locked()["config"])
        space = parse(began.space, began)
        state = StudyFolder(with_values(began, other)).state()
        ended = [t for t in state.trials.values() if t.state == "complete" and t.best is not None]
        points = [space.fill(trial.params, began) for trial in ended]
        values = [trial.best for trial in ended if trial.best is not None]
        found = EarlierStudy(name, began.space, space.default(began), points, values)
        if len(ended) >= LEAST_ENDED:
            _earlier(found)
    except UserError as error:
        raise ConfigError(f"{said}: this version cannot read it: {error}; leave it out") from error
    if len(ended) < LEAST_ENDED:
        raise ConfigError(
            f"{said}: {len(ended)} of its trials came to their end, and fewer than {LEAST_ENDED} "
            "say nothing; let it go on with a larger stop.trials, or leave it out"
        )
    return found


def _earlier(study: EarlierStudy) -> Earlier:
    space = parse(study.space, with_values(Config(), study.own))
    return Earlier(space, study.points, [in_logits(study.values).tolist()], SPREAD)


def told_by(space: Space, config: Config, like: Iterable[EarlierStudy] = ()) -> Told:
    """Return the function that says (C, K) by how much earlier studies expect configurations of
    ``space`` to be better than the config's own, each times its share. The shipped ones have one
    share together, each of ``like`` as much.

    Where the config's own point does not lie in a study's ranges that one says nothing: adapters
    and static encoders learn at other rates, and other losses were not recorded.
    """
    own = space.default(config)
    of_ones_own = map(_earlier, like)
    groups = [
        studies
        for studies in (recorded(), *of_ones_own)
        if studies.space.has(studies.space.fill(own, config))
    ]

    def told(points: Sequence[Point]) -> Floats:
        if not groups:
            return np.zeros((len(points), 1))
        found = []
        for studies in groups:
            v_CK = studies.expects([studies.space.fill(one, config) for one in (own, *points)])
            found.append((v_CK[1:] - v_CK[0]) / v_CK.shape[1] / len(groups))
        return np.concatenate(found, axis=1)

    return told
