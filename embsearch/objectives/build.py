"""From the config's name to the objective."""

from __future__ import annotations

from embsearch.config.schema import ObjectiveConfig
from embsearch.errors import ConfigError, did_you_mean
from embsearch.objectives.base import Objective
from embsearch.objectives.bce import BinaryCrossEntropy
from embsearch.objectives.contrastive import Contrastive
from embsearch.objectives.infonce import InfoNCE
from embsearch.objectives.triplet import Triplet

NAMES = ("triplet", "contrastive", "infonce", "bce")


def build(config: ObjectiveConfig) -> Objective:
    """The objective that ``objective.name`` says. ``preflight`` judges its other settings."""
    match config.name:
        case "triplet":
            return Triplet(config.margin)
        case "contrastive":
            return Contrastive(config.margin)
        case "infonce":
            return InfoNCE(config.temperature, config.symmetric)
        case "bce":
            return BinaryCrossEntropy(config.temperature)
    hint = did_you_mean(config.name, NAMES)
    raise ConfigError(f"objective.name={config.name} is not one of {', '.join(NAMES)}.{hint}")
