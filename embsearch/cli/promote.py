"""embsearch promote: the best checkpoint becomes the champion, only if the evidence says so."""

from __future__ import annotations

from embsearch.config.command import same_study
from embsearch.config.schema import Config


def run(config: Config) -> int:
    """Print what was compared and what was done. Refused ends with exit code 3."""
    from embsearch.registry.promote import promote
    from embsearch.worker import use_all_cores

    use_all_cores()
    done = promote(config)
    auc = done.auc
    print(f"trial {done.trial}: test AUC {auc.value:.4f}, 95 % interval {auc.low:.4f} to {auc.high:.4f}")
    for gate in done.gates:
        print(f"  {gate.against}: test AUC {gate.their_auc:.4f}; {gate.words}")
    if done.version is None:
        print("dry run: every gate passed, nothing was changed")
        return 0
    version = done.version
    words = "was champion already" if done.already else "is now champion"
    print(f"{version.name} version {version.version} {words}: models:/{version.name}@champion")
    name = same_study(config)
    print(f"next:  echo 'some text' | embsearch encode {name}     vectors from the champion")
    print(f"       embsearch evaluate {name} checkpoint=champion")
    print(f"       embsearch ui {name}")
    return 0
