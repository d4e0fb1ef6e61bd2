"""embsearch promote: the best checkpoint becomes the champion, only if the evidence says so."""

from __future__ import annotations

import textwrap

from embsearch.config.command import same_study
from embsearch.config.schema import Config
from embsearch.errors import Refused
from embsearch.registry.gates import Gate


def run(config: Config) -> int:
    """Print what every gate found and what was done. Refused ends with exit code 3."""
    from embsearch.cli.card import card_of
    from embsearch.registry.promote import promote
    from embsearch.report.record import Record
    from embsearch.worker import use_all_cores

    use_all_cores()
    done = promote(config, lambda folder, trial: card_of(Record(folder), trial))
    if (auc := done.found.auc) is not None:
        print(f"trial {done.trial}: test AUC {auc.value:.4f}, 95 % interval {auc.low:.4f} to {auc.high:.4f}")
    for gate in done.found.gates:
        print(line(gate))
    if done.warning:
        print(f"warning: {done.warning}")
    dry = config.promote.dry_run and not done.already
    if done.found.refused:
        names = ", ".join(dict.fromkeys(gate.name for gate in done.found.refused))
        raise Refused(f"trial {done.trial} {'would not be' if dry else 'is not'} promoted: refused by {names}")
    if done.version is None:
        print("dry run: every gate passed, nothing was changed")
        return 0
    version = done.version
    words = "was champion already" if done.already else "is now champion"
    print(f"{version.name} version {version.version} {words}: models:/{version.name}@champion")
    name = same_study(config)
    print(f"next:  echo 'some text' | embsearch encode {name}     vectors from the champion")
    print(f"       embsearch serve {name}      the champion behind HTTP")
    print(f"       embsearch history {name}    every champion there was; 'embsearch rollback' goes back")
    return 0


def line(gate: Gate) -> str:
    """A gate's answer, wrapped under its words."""
    head = f"  {'passed ' if gate.passed else 'REFUSED'}  {gate.name:<9}  "
    return textwrap.fill(gate.words, 118, initial_indent=head, subsequent_indent=" " * len(head))
