"""Plain nested mappings to the typed config and back, with every fault reported at once."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from embsearch.config import secrets
from embsearch.config.schema import Config
from embsearch.errors import ConfigError, did_you_mean

T = TypeVar("T")


def build(values: Mapping[str, Any]) -> Config:
    """The config of ``values``, without the passwords in its addresses (config/secrets.py).

    Raises ConfigError naming every wrong key and value.
    """
    config = _typed(values)
    _check(config)
    return config


def _typed(values: Mapping[str, Any]) -> Config:
    """As ``build``, but the settings are not held against each other."""
    faults: list[str] = []
    config = _build(Config, secrets.taken_out(values), "", faults)
    if faults:
        raise ConfigError(faults)
    return config


def to_dict(config: Any) -> Any:
    """The config as plain dicts and lists, as JSON and YAML write them."""
    if config is None or isinstance(config, (str, int, float)):  # most of it, and every trial asks
        return config
    if is_dataclass(config):
        return {name: to_dict(getattr(config, name)) for name in _names(config.__class__)}
    if isinstance(config, Mapping):
        return {k: to_dict(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(v) for v in config]
    return config


def with_values(config: Config, params: Mapping[str, Any]) -> Config:
    """A copy of ``config`` with the values at the given paths (``{"train.lr": 1e-4}``)."""
    touched = {path.split(".")[0] for path in params}
    tree = {name: to_dict(getattr(config, name, {})) for name in touched}
    for path, value in params.items():
        *rooms, leaf = path.split(".")
        node = tree
        for room in rooms:
            node = node[room]
        node[leaf] = value
    typed = _typed(tree)
    made = replace(config, **{name: getattr(typed, name) for name in touched})
    _check(made)
    return made


def paths(cls: type = Config, prefix: str = "") -> dict[str, Any]:
    """Every config path with its declared type: the names overrides and spaces may use."""
    found: dict[str, Any] = {}
    for name, kind in _hints(cls).items():
        if is_dataclass(kind):
            found |= paths(typing.cast(type, kind), f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = kind
    return found


def value_at(config: Config, path: str) -> Any:
    """The value at a path. Raises AttributeError for a path that is not there."""
    node: Any = config
    for part in path.split("."):
        node = getattr(node, part)
    return node


def _build(cls: type[T], values: Any, at: str, faults: list[str]) -> T:
    if not isinstance(values, Mapping):
        faults.append(f"{at.rstrip('.')}: expected a mapping, got {values!r}")
        return cls()
    hints = _hints(typing.cast(type, cls))
    for key in values:
        if key not in hints:
            known = [f"{at}{k}" for k in hints]
            faults.append(f"{at}{key}: no such setting.{did_you_mean(f'{at}{key}', known)} Known: {', '.join(known)}")
    made: dict[str, Any] = {}
    for name, kind in hints.items():
        if name not in values:
            continue
        if is_dataclass(kind):
            made[name] = _build(typing.cast(type, kind), values[name], f"{at}{name}.", faults)
        else:
            try:
                made[name] = _convert(values[name], kind)
            except (TypeError, ValueError) as error:
                faults.append(f"{at}{name}={values[name]!r}: expected {error}")
    return cls(**made)


@cache
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


@cache  # Python evaluates them anew whenever it is asked, and every trial asks
def _hints(cls: Any) -> dict[str, Any]:
    """The declared types of a class's fields."""
    return get_type_hints(cls)


def _convert(value: Any, kind: Any) -> Any:
    """``value`` as ``kind``. Raises ValueError whose text says what was expected."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Literal:
        if value in args:
            return value
        hint = did_you_mean(str(value), [str(a) for a in args])
        raise ValueError(f"one of {', '.join(map(str, args))}.{hint}")
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(value, next(a for a in args if a is not type(None)))
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError("a list")
        return tuple(_convert(v, args[0]) for v in value)
    if origin is not None and issubclass(origin, Mapping):
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise ValueError("a mapping")
        return {str(k): _convert(v, args[1]) for k, v in value.items()}
    return _scalar(value, kind)


def _scalar(value: Any, kind: type) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ValueError("true or false")
    if kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        raise ValueError("a whole number")
    if kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        try:  # YAML 1.1 reads 1e-4 as a word
            return float(value)
        except (TypeError, ValueError):
            raise ValueError("a number") from None
    if kind is str:
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value)
        raise ValueError("a word")
    raise TypeError(f"a {kind}")


def _check(config: Config) -> None:
    """Values that no type can refuse, all at once."""
    train, evaluate, split, objective = config.train, config.evaluate, config.data.split, config.objective
    at, serve = evaluate.at, config.serve
    rules = [
        (train.lr > 0, f"train.lr={train.lr}: must be above 0; usual values are 1e-5 to 1e-3"),
        (train.batch_size >= 1, f"train.batch_size={train.batch_size}: must be at least 1"),
        (train.texts >= 1, f"train.texts={train.texts}: must be at least 1; 38400 is 12,800 triplets"),
        (train.l2 >= 0, f"train.l2={train.l2}: must be 0 or more; usual values are 0 to 0.1"),
        (train.warmup_steps >= 0, f"train.warmup_steps={train.warmup_steps}: must be 0 or more"),
        (train.clip_norm >= 0, f"train.clip_norm={train.clip_norm}: must be 0 (off) or more"),
        (train.patience >= 0, f"train.patience={train.patience}: must be 0 (off) or more"),
        (train.devices >= 1, f"train.devices={train.devices}: must be at least 1"),
        (config.launcher.workers >= 0, f"launcher.workers={config.launcher.workers}: must be 0 (see conf) or more"),
        (config.launcher.minutes >= 1, f"launcher.minutes={config.launcher.minutes}: must be at least 1"),
        (train.chunk_tokens >= 1, f"train.chunk_tokens={train.chunk_tokens}: must be at least 1"),
        (
            bool(at) and all(0 < a <= 1 for a in at) and list(at) == sorted(set(at)) and at[-1] == 1,
            f"evaluate.at={list(at)}: must rise within (0, 1] and end with 1.0, as [0.25, 0.5, 1.0]",
        ),
        (
            0 <= evaluate.early_error < 0.5,
            f"evaluate.early_error={evaluate.early_error}: a standard error of AUC; use 0.01, or 0 to read all rows",
        ),
        (
            split.valid > 0 and split.test >= 0 and split.valid + split.test < 1,
            f"data.split.valid={split.valid}, data.split.test={split.test}: shares must leave rows to train on",
        ),
        (config.study.seeds >= 1, f"study.seeds={config.study.seeds}: must be at least 1; 3 tell luck from gain"),
        (
            config.confirm.top_k >= 0 and config.confirm.seeds >= 0,
            f"confirm.top_k={config.confirm.top_k}, confirm.seeds={config.confirm.seeds}: must be 0 (off) or more",
        ),
        (
            config.confirm.share is None or config.confirm.share > 0,
            f"confirm.share={config.confirm.share}: must be above 0, or null for no limit; confirm.top_k=0: none",
        ),
        (config.promote.draws >= 100, f"promote.draws={config.promote.draws}: must be at least 100; 2000 is usual"),
        (config.stop.trials >= 1, f"stop.trials={config.stop.trials}: must be at least 1"),
        (
            objective.margin <= 2,
            f"objective.margin={objective.margin}: cosine similarities differ by at most 2, so this margin can "
            "never be met and every triplet pulls for ever; use 0.05 to 0.5",
        ),
        (objective.margin > 0, f"objective.margin={objective.margin}: must be above 0, else nothing is learnt"),
        (
            objective.temperature > 0,
            f"objective.temperature={objective.temperature}: must be above 0; usual values are 0.01 to 0.1",
        ),
        (
            config.model.freeze_layers >= 0,
            f"model.freeze_layers={config.model.freeze_layers}: must be 0 or more",
        ),
        (0 <= serve.port < 65536, f"serve.port={serve.port}: expected 0 (any that is free) to 65535"),
        (serve.threads >= 0, f"serve.threads={serve.threads}: must be 0 (all) or more"),
        (serve.batch >= 1, f"serve.batch={serve.batch}: must be at least 1, which is each request by itself"),
        (serve.max_rows >= 1, f"serve.max_rows={serve.max_rows}: must be at least 1"),
        (serve.max_chars >= 1, f"serve.max_chars={serve.max_chars}: must be at least 1"),
        (serve.max_mb > 0, f"serve.max_mb={serve.max_mb}: must be above 0"),
        (serve.max_waiting >= 1, f"serve.max_waiting={serve.max_waiting}: must be at least 1"),
        (
            config.export.max_auc_loss >= 0,
            f"export.max_auc_loss={config.export.max_auc_loss}: must be 0 or more; the usual value is 0.002",
        ),
        (
            -1 <= config.export.min_cosine <= 1,
            f"export.min_cosine={config.export.min_cosine}: a cosine is between -1 and 1; usual values are 0.98 to 1",
        ),
        (config.k is None or config.k >= 1, f"k={config.k}: must be at least 1"),
        (
            config.tolerance >= 0,
            f"tolerance={config.tolerance}: must be 0 (only the same bits) or more; see the guide reproduce",
        ),
        (
            config.device in ("auto", "cpu", "cuda") or config.device.startswith("cuda:"),
            f"device={config.device}: expected auto, cpu, cuda or cuda:N",
        ),
    ]
    for name in ("drop", "swap", "synonym"):
        p = getattr(train.augment, name)
        rules.append((0 <= p <= 1, f"train.augment.{name}={p}: a probability is between 0 and 1"))
    if train.augment.synonym > 0 and not train.augment.synonyms:
        rules.append((False, "train.augment.synonyms: train.augment.synonym is above 0, so name a synonym file"))
    faults = [message for holds, message in rules if not holds]
    if faults:
        raise ConfigError(faults)
