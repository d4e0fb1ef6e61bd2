"""From the config's name to the objective."""

from __future__ import annotations

from importlib import import_module

from embsearch.config.catalogue import OBJECTIVES
from embsearch.config.schema import ObjectiveConfig
from embsearch.errors import ConfigError, did_you_mean
from embsearch.objectives.base import Objective


def build(config: ObjectiveConfig) -> Objective:
    """Return the objective that ``objective.name`` says. ``preflight`` judges its settings.

    Raises ConfigError for a name that is not in config/catalogue.py.
    """
    entry = OBJECTIVES.get(config.loss)
    if entry is None:
        known, hint = ", ".join(OBJECTIVES), did_you_mean(config.name, OBJECTIVES)
        raise ConfigError(f"objective.name={config.name} is not one of {known}.{hint}")
    module, _, name = entry.place.partition(":")
    made: Objective = getattr(import_module(module), name)(
        **{setting: getattr(config, setting) for setting in entry.settings}
    )
    return made
