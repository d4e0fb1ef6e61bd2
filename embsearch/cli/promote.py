"""embsearch promote: the best checkpoint becomes the champion, only if the evidence says so."""

from __future__ import annotations

import textwrap

from embsearch.config.command import same_study
from embsearch.config.options import TakesTrial
from embsearch.config.schema import Config
from embsearch.errors import Refused
from embsearch.history.folder import as_begun
from embsearch.registry.gates import Gate
from embsearch.tasks.catalogue import task_of


def run(config: Config, options: TakesTrial) -> int:
    """Print what every gate found and what was done. Refused ends with exit code 3."""
    from embsearch.cli.card import card_of
    from embsearch.registry.promote import promote
    from embsearch.report.record import Record
    from embsearch.worker import use_all_cores

    use_all_cores()
    done = promote(config, options.trial, lambda folder, trial: card_of(Record(folder), trial))
    if (scored := done.found.interval) is not None:
        label = task_of(as_begun(config)).primary.label
        ends = f"{scored.low:.4f} to {scored.high:.4f}"
        print(f"trial {done.trial}: test {label} {scored.value:.4f}, 95 % interval {ends}")
    for gate in done.found.gates:
        print(line(gate))
    if done.warning:
        print(f"warning: {done.warning}")
    dry = config.promote.dry_run and not done.already
    if done.found.refused:
        names = ", ".join(dict.fromkeys(gate.name for gate in done.found.refused))
        verb = "would not be" if dry else "is not"
        raise Refused(f"trial {done.trial} {verb} promoted: refused by {names}")
    if done.version is None:
        print("dry run: every gate passed, nothing was changed")
        return 0
    version = done.version
    words = "was champion already" if done.already else "is now champion"
    print(f"{version.name} version {version.version} {words}: models:/{version.name}@champion")
    name = same_study(config)
    print(f"next:  echo 'some text' | embsearch encode {name}     vectors from the champion")
    print(f"       embsearch serve {name}      the champion behind HTTP")
    print(
        f"       embsearch history {name}    every champion there was; 'embsearch rollback' goes back"
    )
    return 0


def line(gate: Gate) -> str:
    """Return a gate's answer as text, wrapped."""
    head = f"  {'passed ' if gate.passed else 'REFUSED'}  {gate.name:<9}  "
    return textwrap.fill(gate.words, 118, initial_indent=head, subsequent_indent=" " * len(head))
