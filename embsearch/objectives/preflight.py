"""Settings that cannot learn on these rows, refused before a minute is spent.

No torch here, so that the coordinator can ask too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from embsearch.config.catalogue import OBJECTIVES
from embsearch.config.schema import ObjectiveConfig
from embsearch.data.dataset import Triplets
from embsearch.errors import ConfigError


def preflight(config: ObjectiveConfig, rows: Triplets, batch_size: int) -> None:
    """Raise ConfigError with every reason why training with ``config`` could not learn."""
    faults = [*_settings(config), *_rows(config, rows, batch_size)]
    if faults:
        raise ConfigError(faults)


def preflight_space(
    config: ObjectiveConfig, batch_size: int, searched: Mapping[str, Sequence[Any]], rows: Triplets
) -> None:
    """Raise ConfigError with what ``preflight`` says of every searched objective.

    The batch is the smallest one that is searched.
    """
    faults: list[str] = []
    smallest = min(searched.get("train.batch_size", (batch_size,)))
    for name in searched.get("objective.name", (config.loss,)):
        faults += [*_settings(one := replace(config, name=name)), *_rows(one, rows, smallest)]
    if faults:
        raise ConfigError(faults)


def _settings(config: ObjectiveConfig) -> Iterator[str]:
    for name in OBJECTIVES[config.loss].settings:
        if name in CHECKS:
            yield from CHECKS[name](config)


def _margin(config: ObjectiveConfig) -> Iterator[str]:
    if not config.margin > 0:  # also NaN
        yield (
            f"objective.margin={config.margin} is not above 0: giving all texts one and the same "
            f"vector would satisfy {config.loss}. Set objective.margin between 0.05 and 0.5"
        )
    elif config.margin > 2:
        yield (
            f"objective.margin={config.margin} can never be met: cosines lie between -1 and 1, so "
            "two of them differ by at most 2. Set objective.margin between 0.05 and 0.5"
        )


def _temperature(config: ObjectiveConfig) -> Iterator[str]:
    if not (config.temperature > 0 and math.isfinite(config.temperature)):
        yield (
            f"objective.temperature={config.temperature} is not a number above 0. "
            "Set objective.temperature between 0.01 and 0.1"
        )


CHECKS = {"margin": _margin, "temperature": _temperature}


def learns(name: str, rows: Triplets) -> bool:
    """Return True where the objective finds in rows of this kind what it learns from."""
    needs, scored = OBJECTIVES[name].needs, len(rows.score) > 0
    if needs in ("scores", "score orders") or scored:
        return scored and needs in ("scores", "score orders")
    if needs == "teacher":
        return bool(np.isfinite(rows.teacher).all(1).any())
    return needs != "negatives" or bool((rows.negative >= 0).any())


def _rows(config: ObjectiveConfig, rows: Triplets, batch_size: int) -> Iterator[str]:
    if len(rows.score):
        yield from _scored(config, rows, batch_size)
    elif OBJECTIVES[config.loss].needs in ("scores", "score orders"):
        yield (
            f"objective.name={config.loss}: learns from scores, and none of the {len(rows)} "
            "training rows has one. Set objective.name=infonce, or give pairs with a score of how "
            "alike they are (data.format=scored)"
        )
    elif OBJECTIVES[config.loss].needs == "teacher" and not learns(config.loss, rows):
        yield (
            f"objective.name={config.loss}: learns from a teacher's scores, and none of the "
            f"{len(rows)} training rows has them for both of its titles. Set "
            "objective.name=infonce, or give pos_scores and neg_scores (or one list: score) beside "
            "positives and negatives"
        )
    elif not (rows.negative >= 0).any():
        yield from _pairs(config, rows, batch_size)


def _scored(config: ObjectiveConfig, rows: Triplets, batch_size: int) -> Iterator[str]:
    if not learns(config.loss, rows):
        yield (
            f"objective.name={config.loss}: takes every pair for a good one, and the {len(rows)} "
            "training rows are pairs with scores, low ones too. Set objective.name=cosent, angle "
            "or cosine_mse; for judgements of titles, whose grades make triplets, "
            "data.format=judgements"
        )
    elif OBJECTIVES[config.loss].needs == "score orders" and batch_size < 2:
        yield (
            f"objective.name={config.loss}: learns from the order of two scores, and with "
            f"train.batch_size={batch_size} there is one. Set train.batch_size to 2 or more "
            "(64 is usual)"
        )


def _pairs(config: ObjectiveConfig, rows: Triplets, batch_size: int) -> Iterator[str]:
    name = f"objective.name={config.loss}"
    none = f"{name}: none of the {len(rows)} training rows has a negative (worse) title"
    give = "give data with negatives (a 'negative' column, judgements of two grades, or unclicked titles)"
    if OBJECTIVES[config.loss].needs == "negatives":
        yield f"{none}, and this objective learns from nothing else. Set objective.name=infonce, or {give}"
    elif batch_size < 2:
        yield (
            f"{none}, and with train.batch_size={batch_size} no other row offers one: there is nothing to "
            f"choose from. Set train.batch_size to 2 or more (64 is usual), or {give}"
        )
    else:
        for column, what in ((rows.anchor, "queries"), (rows.positive, "titles")):
            if len(np.unique(column)) < 2:
                yield f"{none}, and there are no two different {what} to choose among. Add rows, or {give}"
