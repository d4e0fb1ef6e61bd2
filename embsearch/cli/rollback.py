"""embsearch rollback: the champion before, or a named version, is champion again."""

from __future__ import annotations

from embsearch.config.command import same_study
from embsearch.config.options import RollbackOptions
from embsearch.config.schema import Config


def run(config: Config, options: RollbackOptions) -> int:
    """Move the alias back and say so."""
    from embsearch.registry.rollback import rollback

    old, new = rollback(config, options.version, options.reason)
    was = "none" if old is None else f"version {old.version}"
    if config.promote.dry_run:
        print(
            f"dry run: {new.name}@champion would go from {was} to version {new.version}; nothing was changed"
        )
        return 0
    print(f"{new.name}@champion: version {new.version} (before: {was})")
    again = same_study(config)
    print(f"next:  embsearch history {again}")
    if old is not None:
        print(f"       embsearch rollback {again} version={old.version}    forth again")
    return 0
