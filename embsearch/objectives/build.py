"""From the config's name to the objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from torch import Tensor

from embsearch.config.catalogue import OBJECTIVES
from embsearch.config.schema import Config, ObjectiveConfig
from embsearch.config.sets import of_set
from embsearch.data.batch import Batch
from embsearch.errors import ConfigError, did_you_mean
from embsearch.objectives.base import Objective


@dataclass(frozen=True)
class OfSets:
    """The loss of a batch is that of its set."""

    losses: Mapping[str, Objective]

    def __call__(self, embeddings_DE: Tensor, batch: Batch) -> Tensor:
        return self.losses[batch.of](embeddings_DE, batch)


def loss_of(config: Config) -> Callable[[Tensor, Batch], Tensor]:
    """Return the loss of batches. Raises ConfigError as ``build`` does."""
    sets = {name: build(of_set(config, name).objective) for name in config.data.sets}
    return OfSets(sets) if sets else build(config.objective)


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
