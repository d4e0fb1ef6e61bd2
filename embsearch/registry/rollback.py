"""Back to an earlier champion."""

from __future__ import annotations

from pathlib import Path

from embsearch.config.schema import Config
from embsearch.disk import file_lock
from embsearch.errors import ModelError
from embsearch.registry import mlflow_registry as registry
from embsearch.registry import moves
from embsearch.registry.candidate import registered_name
from embsearch.track.unaltered import check
from embsearch.values import ModelVersion


def rollback(config: Config) -> tuple[ModelVersion | None, ModelVersion]:
    """Make ``version``, else the champion before the present one, champion again: the old and the new champion.

    There may be none now: MLflow drops the alias of a version that is deleted. Raises ModelError where there is no
    such version or its files are not what was registered.
    """
    home = Path(config.home).expanduser().resolve()
    with file_lock(home / "registry.lock"):
        client, name = registry.registry(config), registered_name(config)
        now = registry.by_alias(client, name, registry.CHAMPION)
        found = {version.version: version for version in registry.versions(client, name)}
        if not found:
            raise ModelError(f"no model is named {name}; 'embsearch promote' registers one")
        cut = None if config.promote.dry_run else moves.settle(client, name)
        if cut and now and "rolled back" in cut["reason"] and config.version in (None, cut["version"]):
            return found.get(cut["before"]), now  # this command was killed after it had moved
        number = config.version if config.version is not None else before(moves.history(client, name), name, now)
        if number not in found:
            known = ", ".join(map(str, found))
            raise ModelError(f"version={number}: {name} has no such version; it has {known}")
        if now is not None and number == now.version:
            raise ModelError(f"version={number}: is the champion of {name} already")
        target = registry.files_of(client, found[number], home / "cache" / "models")
        check(target.folder, target.version.digest)
        if config.promote.dry_run:
            return now, target.version
        reason = config.reason or "no reason given"
        expected = None if now is None else now.version
        return now, moves.move(client, name, number, expected, f"rolled back: {reason}")


def before(history: list[dict[str, object]], name: str, now: ModelVersion | None) -> int:
    """The champion before the present one. Raises ModelError where there was none."""
    last = next((entry for entry in reversed(history) if now is None or entry["version"] == now.version), None)
    earlier = None if last is None else last["before"]
    if not isinstance(earlier, int):
        this = "its first one" if now is None else f"version {now.version}"
        raise ModelError(f"{name} had no champion before {this}; name one: version=N")
    return earlier
