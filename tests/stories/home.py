"""One EMBSEARCH_HOME with one study of tiny trials: commands in it, and what its logs say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

from embsearch.cli.main import main
from embsearch.history.log import read_json as read_events


@contextmanager
def signals_at_default():
    """A process that is started now hears every signal, also where the tests run under nohup or in the background
    of a script, which have it inherit deaf ears."""
    before = {
        n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rewrite(log, events):
    """Write a log of these events, as older versions did: without links and what rests on them."""
    lines = [
        {k: v for k, v in event.items() if k not in ("link", "ends", "digest")} | {"seq": n}
        for n, event in enumerate(events)
    ]
    log.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


@contextmanager
def read_only(folder):
    """A home that this process may only read, while the context runs. Rights do not bind root, so root is nobody."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    for parent in folder.parents:
        if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 0o1:
            modes[parent] = parent.stat().st_mode
            parent.chmod(modes[parent] | 0o55)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root = os.getuid() == 0
    if root:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)
        for path, mode in modes.items():
            path.chmod(mode)


class Home:
    """One EMBSEARCH_HOME and the words that every command of a test begins with."""

    def __init__(self, folder, model, data, launcher="launcher=inline"):
        self.folder, self.model, self.data, self.launcher = folder, model, data, launcher
        self.words = [
            f"home={folder}", f"model.path={model}", f"data.path={data}", "study.name=s", "study.task=s",
            "device=cpu", "train.precision=fp32", "track=none", launcher,
            "space=small", "space.train.lr={low: 1e-4, high: 1e-2}", "train.lr=1e-3", "objective=triplet",
            "train.texts=3000", "train.warmup_steps=2", "evaluate.at=[0.11,0.33,1.0]", "evaluate.draws=50",
            "promote.draws=200", "promote.min_auc=0.5", "promote.licence=mit", "promote.max_slowdown=9",
            "stop.trials=6", "confirm.top_k=0",
            # few trials are drawn at random, whatever was measured before: stories can be compared
            "sampler=tpe", "confirm.winner=value",
        ]  # fmt: skip

    def at(self, folder):
        """The same words for another home."""
        return Home(folder, self.model, self.data, self.launcher)

    def run(self, verb, *words):
        return main([*verb.split(), *self.words, *words])

    def start(self, verb, *words, **options):
        """The same in a process of its own."""
        command = [sys.executable, "-m", "embsearch.cli.main", *verb.split(), *self.words, *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with signals_at_default():
            return subprocess.Popen(command, env=environment, **pipes, **options)

    @property
    def study(self):
        return self.folder / "studies" / "s"

    def all_events(self, trial=None):
        folder = self.study if trial is None else self.study / "trials" / f"t{trial:04d}"
        return read_events(folder / "events.jsonl")

    def events(self, kind, trial=None):
        return [e for e in self.all_events(trial) if e["kind"] == kind]

    def seen(self, kind, trial=None):
        """Whether such an event is there by now."""
        return bool(self.events(kind, trial))

    @property
    def trials(self):
        return sorted(p.name for p in (self.study / "trials").iterdir())

    @property
    def result(self):
        return self.events("closed")[-1]["result"]

    def forget(self, trial, *kinds):
        """The logs as a crash leaves them that came before the trial's events of these kinds, and the study's end."""
        for log, lost in (
            (self.study / f"trials/t{trial:04d}/events.jsonl", kinds),
            (self.study / "events.jsonl", ["closed"]),
        ):
            rewrite(log, [e for e in read_events(log) if e["kind"] not in lost])

    def params(self):
        return [json.dumps(self.events("created", n)[0]["params"]) for n in range(len(self.trials))]

    def values(self):
        """Everything that was measured, without times, by trial, evaluation and seed."""
        return {
            (name, e["rung"], e.get("seed", 0)): e["metrics"]
            for n, name in enumerate(self.trials)
            for kind in ("measured", "repeated")
            for e in self.events(kind, n)
        }  # fmt: skip
