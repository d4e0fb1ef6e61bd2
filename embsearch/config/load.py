"""From what Hydra composed to the typed config, and what tells two configs apart.

No DictConfig travels further than this file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from embsearch.codec import Json, JsonObject
from embsearch.config import secrets
from embsearch.config.build import build, build_options, to_dict
from embsearch.config.folders import conf_folder, home_folder
from embsearch.config.launchers import ReplayConfig
from embsearch.config.options import Options
from embsearch.config.schema import Config, PromptsConfig
from embsearch.config.settings import may_change
from embsearch.errors import ConfigError, did_you_mean

O = TypeVar("O", bound=Options)  # noqa: E741  # a verb's class

RANGE, CHOICE, WHEN = ("low", "high", "log", "step"), ("choices", "ordered"), ("when", "prior")
DIMENSION = RANGE + CHOICE + WHEN


def compose(overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = ()) -> Config:
    """Return the config that the command line would make of ``overrides``."""
    return from_hydra(compose_raw(overrides, config_dirs))


def compose_options(overrides: Sequence[str], cls: type[O]) -> O:
    """Return what the command line would hand to a verb beside the config."""
    return build_options(plain(compose_raw(overrides)), cls)


def compose_raw(
    overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = (), name: str = "config"
) -> DictConfig:
    """Return what Hydra composes, beginning with the file ``name``. No object is made of it.

    Raises Hydra's own errors, and ConfigError for what would act through Hydra.
    """
    import hydra

    from embsearch.config import foreign
    from embsearch.config.source import last_word, searching

    foreign.check_words(overrides)
    with (
        searching(config_dirs),
        hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"),
    ):
        return hydra.compose(name, overrides=last_word(overrides))


def from_hydra(composed: DictConfig) -> Config:
    """Return the typed config. Raises ConfigError as ``plain`` and ``typed`` do."""
    return typed(plain(composed), Options)[0]


def typed(values: JsonObject, cls: type[O]) -> tuple[Config, O]:
    """Return the typed config, and what a verb takes beside it.

    Raises ConfigError with every fault, and where a secret would be written down.
    """
    config = build(values)
    study = home_folder(config.home) / "studies" / config.study.name / "study.yaml"
    older = ""
    if os.path.isfile(study):  # false also for names that no file can have
        older = study.read_text("utf-8", "replace")
    secrets.check(to_dict(config), older)
    return config, build_options(values, cls)


def plain(composed: DictConfig) -> JsonObject:
    """Return what Hydra composed as plain values, the space by config path.

    Raises ConfigError for an interpolation that cannot be resolved and for a missing value.
    """
    try:
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: must be given, as {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{key}: {reason}" if key else reason) from error
    assert isinstance(values, dict)
    given = {str(key): value for key, value in values.items() if key != "hydra"}
    raw = OmegaConf.to_container(composed, resolve=False)
    given = secrets.referred(given, raw)
    given["space"] = flatten(given.get("space") or {})
    return given


def flatten(space: Json) -> dict[str, JsonObject]:
    """Return the space by config path, each dimension a plain dict of what is set in it:

    ``{"objective.margin": {"low": 0.05, "high": 0.5, "when": {"objective.name": ["triplet"]}}}``

    A dimension that is null, or has nothing set, is left out: ``space.train.l2=null`` drops one.
    Raises ConfigError naming every entry that is no dimension.
    """
    dimensions: dict[str, JsonObject] = {}
    faults: list[str] = []
    _collect(space, "", dimensions, faults)
    if faults:
        raise ConfigError(faults)
    return dimensions


def identity(config: Config) -> JsonObject:
    """Return what must stay the same when a study is resumed, as plain values.

    A path inside the study's folder is written relative to it: a checkout may move.
    """
    tree: JsonObject = to_dict(config)
    if config.study.folder:
        tree = _relative_to(config.study.folder, tree)
    if isinstance(
        config.launcher, ReplayConfig
    ):  # nothing was trained: another study, not another machine
        tree["replay"] = {
            name: tree["launcher"][name] for name in ("curves", "noise", "trial_seconds")
        }
    if config.train.warmup_steps is not None:  # the share is not used; older studies have none
        tree["train"].pop("warmup")
    if not config.data.derive.relevant_alone:  # as before there was such a setting
        tree["data"]["derive"].pop("relevant_alone")
    if not config.data.sets:
        tree["data"].pop("sets")
    if not config.study.like:
        tree["study"].pop("like")
    if not config.evaluate.costs:
        tree["evaluate"].pop("costs")
    if config.model.prompts == PromptsConfig("", ""):
        tree["model"].pop("prompts")
    if config.model.adapter == "none" and "model.adapter" not in config.space:  # the same
        del tree["model"]["adapter"], tree["model"]["lora"]
    for path in may_change():
        room, _, leaf = path.rpartition(".")
        (tree[room] if room else tree).pop(leaf)
    return tree


def digest(config: Config) -> str:
    """Return the sha256 of ``identity`` in canonical JSON."""
    canonical = json.dumps(
        identity(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def diff(old: Json, new: Json) -> list[str]:
    """Return what changed, one line a setting: ``train.lr: 0.0001 -> 0.0002``."""
    before, after = _leaves(old), _leaves(new)
    return [
        f"{path}: {_shown(before, path)} -> {_shown(after, path)}"
        for path in sorted(before.keys() | after.keys())
        if path not in before or path not in after or before[path] != after[path]
    ]


def _collect(node: object, at: str, dimensions: dict[str, JsonObject], faults: list[str]) -> None:
    if node is None:
        return
    if not isinstance(node, Mapping):
        faults.append(
            f"space.{at}={node!r}: expected {{low: ..., high: ...}} or {{choices: [...]}}"
        )
    elif any(key in DIMENSION for key in node):
        for key in node:
            if key not in DIMENSION:
                hint = did_you_mean(str(key), DIMENSION)
                faults.append(f"space.{at}.{key}: expected one of {', '.join(DIMENSION)}.{hint}")
        dimension = {key: value for key, value in node.items() if value is not None}
        if "when" in dimension:
            dimension["when"] = _conditions(dimension["when"], at, faults)
        if dimension.keys() - WHEN:
            dimensions[at] = dimension
    else:
        for key, child in node.items():
            _collect(child, f"{at}.{key}" if at else str(key), dimensions, faults)


def _conditions(when: object, at: str, faults: list[str]) -> dict[str, list[object]]:
    if not isinstance(when, Mapping):
        faults.append(
            f"space.{at}.when={when!r}: expected a mapping, as {{objective.name: triplet}}"
        )
        return {}
    leaves = _leaves(when)
    return {path: value if isinstance(value, list) else [value] for path, value in leaves.items()}


def _relative_to(folder: str, tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _relative_to(folder, value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_relative_to(folder, value) for value in tree]
    if isinstance(tree, str) and (tree == folder or tree.startswith(f"{folder}/")):
        return "${study.folder}" + tree.removeprefix(folder)
    return tree


def _leaves(tree: Json, prefix: str = "") -> JsonObject:
    leaves: JsonObject = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _shown(leaves: Json, path: str) -> str:
    return json.dumps(leaves[path], ensure_ascii=False) if path in leaves else "(not there)"
