"""Back to an earlier champion."""

from __future__ import annotations

from embsearch.config.folders import home_folder
from embsearch.config.schema import Config
from embsearch.disk import file_lock
from embsearch.errors import ModelError
from embsearch.registry import alias_history, journal
from embsearch.registry import mlflow_registry as registry
from embsearch.registry.candidate import registered_name
from embsearch.registry.evidence import missing, verified
from embsearch.values import ModelVersion


def rollback(
    config: Config, version: int | None, reason: str
) -> tuple[ModelVersion | None, ModelVersion]:
    """Make ``version``, else the champion before the present one, champion again.

    Return the old and the new champion.

    There may be no old one: MLflow drops the alias of a version that is deleted. Raises ModelError
    where there is no such version or its files are not what was registered.
    """
    home = home_folder(config.home)
    with file_lock(home / "registry.lock"):
        client, name = registry.registry(config), registered_name(config)
        now = registry.by_alias(client, name, registry.CHAMPION)
        found = {one.version: one for one in registry.versions(client, name)}
        if not found:
            gone = missing(config, client, name)
            raise ModelError(gone or f"no model is named {name}; 'embsearch promote' registers one")
        cut = None if config.promote.dry_run else journal.settle_last_move(config, client, name)
        if cut and now and "rolled back" in cut["reason"] and version in (None, cut["version"]):
            return found.get(cut["before"]), now  # this command was killed after it had moved
        number = version
        if number is None:
            number = before(alias_history.history(client, name), name, now)
        if number not in found:
            known = ", ".join(map(str, found))
            raise ModelError(f"version={number}: {name} has no such version; it has {known}")
        if now is not None and number == now.version:
            raise ModelError(f"version={number}: is the champion of {name} already")
        target = registry.files_of(client, found[number], home / "cache" / "models")
        verified(config, target)
        if config.promote.dry_run:
            return now, target.version
        expected = None if now is None else now.version
        why = f"rolled back: {reason or 'no reason given'}"

        def note() -> None:
            journal.note(config, client, name)

        try:
            moved = alias_history.move_champion(client, name, number, expected, why, note)
        except alias_history.AliasMoved:  # by somebody who does not hold the lock
            journal.settle_last_move(config, client, name)
            raise
        note()
        return now, moved


def before(history: list[dict[str, object]], name: str, now: ModelVersion | None) -> int:
    """Return the champion before the present one. Raises ModelError where there was none."""
    last = next(
        (entry for entry in reversed(history) if now is None or entry["version"] == now.version),
        None,
    )
    earlier = None if last is None else last["before"]
    if not isinstance(earlier, int):
        this = "its first one" if now is None else f"version {now.version}"
        raise ModelError(f"{name} had no champion before {this}; name one: version=N")
    return earlier
