"""embsearch registry verify: a check that every champion is still what was promoted."""

from __future__ import annotations

from embsearch.config.options import Options
from embsearch.config.schema import Config
from embsearch.errors import Refused


def run(config: Config, options: Options) -> int:
    """Print one line a version. End with exit code 3 if something is not as it was."""
    from embsearch.registry.verify import verify
    from embsearch.worker import use_all_cores

    use_all_cores()
    unsound = every = 0
    for found in verify(config):
        every, unsound = every + 1, unsound + (not found.sound)
        print(f"{'ok   ' if found.sound else 'WRONG'}  {found.what}: {found.words}", flush=True)
    if unsound:
        raise Refused(f"{unsound} of {every} are not what was registered")
    print(
        f"{every} version{'s' * (every > 1)}"
        if every
        else "no model is registered here yet; 'embsearch promote' registers one"
    )
    return 0
