"""embsearch status: how a study stands, while it runs and after; without a study, all of them."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from embsearch.config.options import StatusOptions
from embsearch.config.schema import Config
from embsearch.errors import StudyError, did_you_mean
from embsearch.history.folder import StudyFolder, holder
from embsearch.history.log import read_events
from embsearch.launch.slurm.mailbox import get
from embsearch.report.front import show_front
from embsearch.report.live import clock, summary, trials_table
from embsearch.report.record import Record
from embsearch.report.result import result_table, show_configuration
from embsearch.report.story import story
from embsearch.tasks.catalogue import task_of


def run(config: Config, options: StatusOptions) -> int:
    """Print the study's table. Raises StudyError where it has not been begun."""
    folder = StudyFolder(config)
    if not folder.locked.exists():
        known = sorted(p.parent.name for p in folder.path.parent.glob("*/study.yaml"))
        if config.study.name == "default" and known:
            return _list(folder.home, known)
        raise StudyError(
            f"study {config.study.name}: not begun in {folder.home}.{did_you_mean(config.study.name, known)} "
            f"Studies there: {', '.join(known) or 'none'}; begin it with 'embsearch search study.name=...'"
        )
    study = Record(folder)
    if options.trial is not None and options.why:
        return _why(study, options.trial)
    console = Console()
    print(f"study {config.study.name}: {study.running or 'not running'}")
    console.print(trials_table(study, most=100))
    print(summary(study))
    if study.running:
        _show_jobs(folder.path)
    for trial in study.trials.values():
        if trial.failures:
            after = trial.state if trial.outcome is not None else "goes on"
            print(
                f"trial {trial.number} failures: {', '.join(trial.failures)}; {after}".replace(
                    "_", " "
                )
            )
        if options.verbose or options.trial == trial.number:
            print(f"trial {trial.number} {trial.state}: {trial.why}")
    if study.result is not None:
        console.print(result_table(study.result["table"], study.objective, task_of(study.config)))
    if (ahead := study.configuration) is not None:
        show_configuration(ahead.trial.params)
    show_front(study)
    return 0


def _show_jobs(study: Path) -> None:
    """Print the Slurm jobs of a running study's workers."""
    jobs = (get(study / "workers" / "slurm" / "jobs.json") or {}).get("slots", {})
    for slot, entry in jobs.items():
        state = entry["state"] or {"name": "submitted", "node": "", "reason": "None"}
        where = ""
        if state["node"]:
            where = f" on {state['node']}"
        why = ""
        if state["name"] == "PENDING":
            why = f" ({state['reason']})"
        print(f"worker {slot}: Slurm job {entry['job']} {state['name'].lower()}{where}{why}")


def _why(study: Record, number: int) -> int:
    """Everything that happened to one trial, and why. Raises StudyError where there is no such
    trial.
    """
    study.check_trial(number)
    for line in story(read_events(study.folder.trial_log(number).path), study.objective):
        print(line)
    return 0


def _list(home: Path, names: list[str]) -> int:
    print(f"studies in {home}:")
    for name in names:
        path = home / "studies" / name
        trials = len(list((path / "trials").glob("t[0-9]*")))
        age = max(time.time() - (path / "events.jsonl").stat().st_mtime, 0)
        print(
            f"  {name}: {trials} trials, {holder(path / 'lock') or f'last event {clock(age)} ago'}"
        )
    return 0
