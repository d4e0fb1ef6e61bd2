"""A view of a running study for a person: a table on a terminal and in a notebook with ipywidgets,
plain lines elsewhere.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from embsearch.config.schema import Config
from embsearch.history.trial import Trial
from embsearch.hpo.space import Space
from embsearch.values import Reading, Scalar

STYLES = {
    "complete": "green",
    "pruned": "yellow",
    "failed": "red",
    "running": "cyan",
    "paused": "dim",
    "waiting": "dim",
}
EVERY = 0.5  # seconds between redraws
LINE_EVERY = 15.0  # seconds between plain progress lines


class Scored(Protocol):
    """A trial with its best value."""

    @property
    def number(self) -> int: ...

    @property
    def best(self) -> float | None: ...


class Watched(Protocol):
    """The parts of a study that are shown."""

    config: Config
    space: Space

    @property
    def trials(self) -> Mapping[int, Trial]: ...

    @property
    def baseline(self) -> Mapping[str, float] | None: ...

    @property
    def elapsed(self) -> float: ...

    @property
    def best(self) -> Scored | None: ...


class Watch:
    """Call it with the study whenever something changed; close it at the end."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._live: Live | None = None
        self._drawn = self._said = 0.0
        # rich draws over what it drew there through ipywidgets alone
        widgets = importlib.util.find_spec("ipywidgets")
        self._in_notebook = self.console.is_jupyter and widgets is not None

    def __call__(self, study: Watched, line: str) -> None:
        with suppress(
            OSError
        ):  # a terminal that was closed, a full disk under the output: no reason to stop
            self._show(study, line)

    def _show(self, study: Watched, line: str) -> None:
        if not (self.console.is_terminal or self._in_notebook):
            self._plain(study, line)
            return
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        if line:
            self._live.console.print(Text(line), highlight=False)
        if (
            time.monotonic() - self._drawn > EVERY
        ):  # not at every line: a study may have thousands of trials
            self._drawn = time.monotonic()
            self._live.update(Group(trials_table(study), Text(summary(study))), refresh=True)

    def close(self) -> None:
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()
            self._live = None

    def _plain(self, study: Watched, line: str) -> None:
        if line:
            print(f"{clock(study.elapsed)}  {line}", file=sys.stderr, flush=True)
        if time.monotonic() - self._said > LINE_EVERY:
            self._said = time.monotonic()
            print(f"{clock(study.elapsed)}  {summary(study)}", file=sys.stderr, flush=True)


def trials_table(study: Watched, most: int = 18) -> Table:
    """One row a trial, the running ones and the best; readable at 80 columns."""
    table = Table(box=None, padding=(0, 1), show_edge=False, expand=True)
    for name, justify in (
        ("trial", "right"),
        ("state", "left"),
        ("rung", "right"),
        ("best", "right"),
        ("texts/s", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("parameters", no_wrap=True, overflow="ellipsis", ratio=1)
    rungs = len(study.config.evaluate.at)
    order = sorted(
        study.trials.values(), key=lambda t: (t.state != "running", -(t.best or -1), t.number)
    )
    for trial in order[:most]:
        axes = study.space.axes(trial.params, study.config)
        shown = [
            k for k, d in zip(axes, study.space.dimensions, strict=True) if d.path in trial.params
        ]
        best = ""
        if trial.best is not None:
            best = f"{trial.best:.4f}"
        speed = ""
        if trial.state == "running" and trial.speed:
            speed = f"{trial.speed:.0f}"
        table.add_row(
            str(trial.number),
            Text(state(trial), style=STYLES[trial.state]),
            f"{trial.rung}/{rungs}",
            best,
            speed,
            " ".join(f"{k} {short(axes[k])}" for k in shown),
        )
    if len(order) > most:
        table.add_row("", f"+{len(order) - most} more", "", "", "", "")
    return table


def state(trial: Trial) -> str:
    """``pruned``; of a failed trial also why: ``failed: diverged``."""
    if trial.outcome is None or not trial.outcome.failure:
        return str(trial.state)
    failure = trial.outcome.failure.replace("_", " ")
    return f"failed: {failure}"


def summary(study: Watched) -> str:
    """One line: how far, the best so far, speed, time left."""
    trials = list(study.trials.values())
    searched = [t for t in trials if not t.is_soup]
    ended = sum(t.state in ("complete", "pruned", "failed") for t in searched)
    words = [
        f"{study.config.study.name}: {ended} of {study.config.stop.trials} trials ended, "
        f"{len(searched)} begun"
    ]
    if study.best is not None and study.best.best is not None:
        words.append(
            f"best {study.config.evaluate.metric} {study.best.best:.4f} (trial {study.best.number})"
        )
    elif study.baseline is not None:
        words.append(f"untuned {study.baseline[study.config.evaluate.metric]:.4f}")
    else:
        words.append("loading the encoder, measuring it untuned")
    speed = sum(t.speed for t in trials if t.state == "running")
    if speed:
        words.append(f"{speed:.0f} texts/s")
    words.append(f"{clock(study.elapsed)} spent")
    if found := failures(trials):
        words.append(f"failures: {found}")
    if ended < study.config.stop.trials and (left := time_left(study)) is not None:
        words.append(f"about {clock(left)} left")
    return ", ".join(words)


def failures(trials: Iterable[Trial]) -> str:
    """Every failure so far by class, as ``2 killed, 1 diverged``; a trial may have had several and
    gone on.
    """
    counted = Counter(failure.replace("_", " ") for trial in trials for failure in trial.failures)
    return ", ".join(f"{count} {failure}" for failure, count in counted.most_common())


def time_left(study: Watched) -> float | None:
    """Seconds, from what trials cost so far; None before anything was measured."""
    trials = [t for t in study.trials.values() if t.rung]
    if not trials:
        return None
    begun = len(study.trials)
    mean: float = study.elapsed / max(begun - 0.5 * sum(t.state == "running" for t in trials), 1)
    left: float = mean * max(study.config.stop.trials - begun, 0)
    rate = sum(t.texts_seen for t in trials) / max(study.elapsed, 1)
    running = [study.config.train.texts - t.texts_seen for t in trials if t.state == "running"]
    left += max(0, *running, 0) / max(rate, 1)
    if study.config.stop.seconds is not None:
        left = min(left, max(study.config.stop.seconds - study.elapsed, 0))
    return left


def reads(readings: Sequence[Reading]) -> str:
    """Return a line on what the evaluations of every trial read, where not all of them read all
    rows.
    """
    fewer = [f"{one.rows:,} ({one.error:.4f})" for one in readings if one.rows < readings[-1].rows]
    if not fewer:
        return ""
    every = f"{readings[-1].rows:,} ({readings[-1].error:.4f})"
    return f"evaluations read {', '.join(fewer)}, then all {every} rows; in brackets the standard error of AUC"


def short(value: Scalar) -> str:
    if isinstance(value, float):
        return f"{value:.2g}"
    return str(value)


def clock(seconds: float) -> str:
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{left:02d}"
    return f"{minutes}:{left:02d}"
