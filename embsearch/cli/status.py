"""embsearch status: how a study stands, while it runs and after; without a study, all of them."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from embsearch.config.build import build
from embsearch.config.schema import Config
from embsearch.errors import StudyError, did_you_mean
from embsearch.folder import StudyFolder, holder
from embsearch.history import read_trials
from embsearch.report.live import clock, summary, trials_table
from embsearch.report.result import result_table
from embsearch.report.story import story
from embsearch.search.space import parse


def run(config: Config) -> int:
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
    study = view(folder)
    if config.trial is not None and config.why:
        return _why(folder, config.trial, study.config.evaluate.objective)
    console = Console()
    print(f"study {config.study.name}: {study.running or 'not running'}")
    console.print(trials_table(study, most=100))
    print(summary(study))
    for trial in study.trials.values():
        if trial.failures:
            after = trial.state if trial.outcome is not None else "goes on"
            print(f"trial {trial.number} failures: {', '.join(trial.failures)}; {after}".replace("_", " "))
        if config.verbose or config.trial == trial.number:
            print(f"trial {trial.number} {trial.state}: {trial.why}")
    if (result := folder.result()) is not None:
        console.print(result_table(result["table"], study.config.evaluate.objective))
    return 0


def _why(folder: StudyFolder, number: int, objective: str) -> int:
    """Everything that happened to one trial, and why. Raises StudyError where there is no such trial."""
    for there, events in folder.trial_logs():
        if there == number:
            for line in story(events, objective):
                print(line)
            return 0
    known = [there for there, _ in folder.trial_logs()]
    raise StudyError(
        f"trial={number}: study {folder.config.study.name} has "
        + (f"the trials {min(known)} to {max(known)}" if known else "no trial yet")
    )


def view(folder: StudyFolder) -> SimpleNamespace:
    """The study as its logs tell it: what the live table shows, without a running coordinator."""
    config = build(folder.read_locked()["config"])
    trials = read_trials(folder, config.evaluate.objective)
    running = holder(folder.path / "lock")
    if not running:
        for trial in trials.values():
            trial.state = "waiting" if trial.state == "running" else trial.state
    measured = [t for t in trials.values() if t.best is not None]
    best = max(measured, key=lambda t: (t.state == "complete", t.best or 0, -t.number), default=None)
    baseline = folder.log_of_kind("baseline")
    return SimpleNamespace(
        config=config, trials=trials, space=parse(config.space, config), elapsed=folder.seconds_spent(),
        best=best, baseline=baseline[-1]["metrics"] if baseline else None, running=running,
    )  # fmt: skip


def _list(home: Path, names: list[str]) -> int:
    print(f"studies in {home}:")
    for name in names:
        path = home / "studies" / name
        trials = len(list((path / "trials").glob("t[0-9]*")))
        age = max(time.time() - (path / "events.jsonl").stat().st_mtime, 0)
        print(f"  {name}: {trials} trials, {holder(path / 'lock') or f'last event {clock(age)} ago'}")
    return 0
