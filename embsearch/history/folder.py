"""A study's folder on disk, and who holds it.

<home>/studies/<name>/{study.yaml, events.jsonl, report.html, lock, trials/t0007/{config.yaml, events.jsonl, ...}}
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import yaml

from embsearch import disk
from embsearch.codec import JsonObject
from embsearch.config.build import build, to_dict, value_at, with_values
from embsearch.config.catalogue import OWN_FORMATS
from embsearch.config.folders import home_folder
from embsearch.config.load import diff, digest, identity
from embsearch.config.schema import Config, TrainConfig
from embsearch.errors import ConfigError, StudyError
from embsearch.history import events
from embsearch.history.events import E, of_kind
from embsearch.history.log import EventLog, read_events
from embsearch.history.state import StudyState
from embsearch.values import Clock, Scalar

DUMPER = getattr(
    yaml, "CSafeDumper", yaml.SafeDumper
)  # in C where PyYAML was built with it: 6 times faster
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Of settings that a study is known by. Its study.yaml says by which of them it began.
DEFAULTS = 4
OLDER_DEFAULTS: dict[str, tuple[int, tuple[Scalar, ...], Scalar]] = {
    # the last that had them, theirs (a shipped study's too), today's
    "objective.name": (1, ("triplet",), "infonce"),
    "train.lr": (1, (0.0001,), 0.0002),
    "sampler.name": (2, ("tpe",), "gp"),
    "sampler.startup_trials": (2, (8, 5), 0),
    "confirm.winner": (2, ("value",), "estimate"),  # before there was a choice
    "confirm.soup": (3, (False,), True),
}

LONGEST_NAME = 200  # bytes; file systems take 255, and names that are made of it are longer
# Seconds to wait for a lock that `embsearch status` looks at, or that a dying process still has.
PATIENCE = 1.0


class StudyFolder:
    """Reads and writes one study's folder. Only the holder writes."""

    def __init__(self, config: Config, clock: Clock = time) -> None:
        name = config.study.name
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise ConfigError(
                f"study.name={name!r}: names a folder; expected a word without '/' or a leading dot"
            )
        if len(name.encode()) > LONGEST_NAME:
            raise ConfigError(
                f"study.name={name[:20]}...: names a folder; at most {LONGEST_NAME} bytes of UTF-8 "
                f"(a Chinese character has 3), not {len(name.encode())}"
            )
        self.config, self._clock = config, clock
        self.home = home_folder(config.home)
        self.path = self.home / "studies" / config.study.name
        self.digest = digest(config)
        self.log = EventLog(self.path / "events.jsonl", clock)
        self._trial_logs: dict[int, EventLog] = {}

    @property
    def home_id(self) -> str:
        """A name of the home that no other has: what tells its studies from others' in a database or an MLflow
        that they share. Made once; it moves with the home."""
        path = self.home / "id"
        with disk.file_lock(path):  # of processes that start together one writes it
            if not path.read_text(encoding="utf-8"):
                path.write_text(secrets.token_hex(5), encoding="utf-8")
            return path.read_text(encoding="utf-8").strip()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the study while the context runs; the kernel lets go when the process dies.

        A study that has not begun by then leaves nothing behind. Raises StudyError naming the
        process that holds it.
        """
        with self._lock() as file:
            file.truncate()
            file.write(
                f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
            )
            file.flush()
            if not self.begun:  # killed before it had measured anything
                self._clear()
            try:
                yield
            finally:
                if not self.begun:
                    shutil.rmtree(self.path, ignore_errors=True)  # NFS keeps a name of what is open

    @contextmanager
    def _lock(self) -> Iterator[TextIO]:
        """Yield the lock file, locked, at its beginning."""
        path = self.path / "lock"
        while True:
            disk.make_folder(self.path)
            with path.open("a+") as file:
                if not take_lock(file):
                    file.seek(0)
                    raise StudyError(
                        f"study {self.config.study.name} is being run by {file.read().strip() or 'another process'}; "
                        "wait for it, or give this one another name: study.name=..."
                    )
                file.seek(0)
                if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    yield file
                    return
            # its holder has just removed it with a study that had not begun: once more

    @property
    def begun(self) -> bool:
        """True once anything was measured. Before that nothing of a study is worth keeping."""
        if any(isinstance(event, events.Baseline) for event in self.study_events()):
            return True
        return any(
            isinstance(event, events.Measured) for _, log in self.trial_logs() for event in log
        )

    def _clear(self) -> None:
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    def drift(self) -> list[str]:
        """Return what differs from the config the study began with, a line each."""
        if not self.locked.exists():
            return []
        return diff(self.read_locked()["identity"], json.loads(json.dumps(identity(self.config))))

    def check_drift(self) -> None:
        """Refuse to go on with another config than the study began with. Raises StudyError."""
        changed = self.drift()
        if not changed or self.config.study.on_drift == "extend":
            return
        lines = "\n  ".join(changed)
        raise StudyError(
            f"study {self.config.study.name} was begun with another config:\n  {lines}\n"
            "its trials would not be comparable. Undo the change, or start a new study with study.name=... or "
            "study.on_drift=new, or go on all the same with study.on_drift=extend"
        )

    def check_data(self, fingerprint: str) -> None:
        """Refuse to go on with other data than the study began with. Raises StudyError."""
        opened = [event for event in self.study_events() if isinstance(event, events.Opened)]
        if opened and opened[-1].data != fingerprint and self.config.study.on_drift != "extend":
            raise StudyError(
                f"study {self.config.study.name} was begun with other data: their fingerprint was "
                f"{opened[-1].data[:12]} and is {fingerprint[:12]} now. Its trials would not be comparable. Put "
                "the old files back, or start a new study with study.name=..., or go on all the same with "
                "study.on_drift=extend"
            )

    @property
    def locked(self) -> Path:
        """The config of the study: as it began, except for what may change between sessions."""
        return self.path / "study.yaml"

    def read_locked(self) -> JsonObject:
        """Return what ``lock_config`` wrote. Raises StudyError for a damaged or missing file."""
        try:
            content = yaml.safe_load(self.locked.read_text(encoding="utf-8"))
            content["config"]["seed"]  # the last setting of every version: nothing was cut off
            return {
                "identity": content["identity"],
                "config": content["config"],
                "defaults": content.get("defaults", 1),
            }
        except FileNotFoundError:
            name = self.config.study.name
            raise StudyError(
                f"study {name} is not in {self.home}; see 'embsearch status'"
            ) from None
        except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
            raise StudyError(
                f"{self.locked}: not the config that embsearch wrote ({type(error).__name__}); put it back from a "
                "copy, or delete it: the next search writes down its own config"
            ) from error

    def lock_config(self) -> None:
        """Write down the config of this session, after the drift check; one that differs in what is
        compared there is kept beside it."""
        defaults = (
            DEFAULTS if not self.locked.exists() or self.drift() else self.read_locked()["defaults"]
        )
        if self.drift():
            self.locked.rename(self.locked.with_suffix(f".{int(time.time())}.yaml"))
        content = {
            "identity": json.loads(json.dumps(identity(self.config))),
            "config": to_dict(self.config),
            "defaults": defaults,
        }
        if not self.locked.exists() or self.read_locked() != json.loads(json.dumps(content)):
            write_yaml(self.locked, content)

    def trial(self, number: int) -> Path:
        return self.path / "trials" / f"t{number:04d}"

    def run(self, number: int, seed: int) -> Path:
        """Return where one of a trial's runs keeps its checkpoint and model: the trial's own
        folder, for its own seed.
        """
        return self.trial(number) / f"seed{seed}" if seed else self.trial(number)

    @property
    def page(self) -> Path:
        """The page that explains the study, once it has ended."""
        return self.path / "report.html"

    def tested(self, label: str) -> Path:
        """Return the file of a final table's model on every test row: ``evaluate.examine``."""
        return self.path / "tested" / f"{label.replace(' ', '_')}.npz"

    def trial_log(self, number: int) -> EventLog:
        if number not in self._trial_logs:
            self._trial_logs[number] = EventLog(self.trial(number) / "events.jsonl", self._clock)
        return self._trial_logs[number]

    def write_trial_config(self, number: int, config: JsonObject) -> None:
        """Write a trial's config. A folder there of another config goes first: its log was lost."""
        path = self.trial(number) / "config.yaml"
        if path.exists() and path.read_text(encoding="utf-8") != yaml_of(config):
            shutil.rmtree(path.parent)
        disk.make_folder(path.parent)
        write_yaml(path, config)

    def trial_logs(self) -> Iterator[tuple[int, list[events.Event]]]:
        """Yield (number, events) of every trial, in order."""
        for number, folder in self._trial_folders():
            yield number, read_events(folder / "events.jsonl")

    def trial_configs(self) -> Iterator[tuple[int, JsonObject]]:
        """(number, config) of every trial that has a readable one, in order."""
        for number, folder in self._trial_folders():
            with suppress(OSError, ValueError, yaml.YAMLError):
                content = yaml.load((folder / "config.yaml").read_text(encoding="utf-8"), LOADER)
                if isinstance(content, dict):
                    yield number, content

    def _trial_folders(self) -> list[tuple[int, Path]]:
        return sorted((int(path.name[1:]), path) for path in (self.path / "trials").glob("t[0-9]*"))

    def study_events(self) -> list[events.Event]:
        """Return the events of the study's own log."""
        return read_events(self.log.path)

    def of_kind(self, kind: type[E]) -> list[E]:
        """Return the events of one kind in the study's own log."""
        return of_kind(self.study_events(), kind)

    def state(self) -> StudyState:
        """Return how the study stands by its logs."""
        evaluate = self.config.evaluate
        if evaluate.objective == "auto" and self.locked.exists():
            began = self.read_locked()["config"]["evaluate"]
            evaluate = replace(evaluate, objective=began["objective"])
        state = StudyState(evaluate.metric)
        state.apply_all(self.study_events(), dict(self.trial_logs()))
        refuse_lost_logs(self, state)
        return state

    def last_sign(self) -> float:
        """Return when the last event was logged, in Unix seconds; 0 where there is none."""
        logs = [self.study_events(), *(log for _, log in self.trial_logs())]
        return max((log[-1].time / 1000 for log in logs if log), default=0.0)


def refuse_lost_logs(folder: StudyFolder, state: StudyState) -> None:
    """Raise StudyError where a log is gone or changed, but for a trial's that the search runs again
    by its config.
    """
    log = folder.log.path
    if state.trials and not state.sessions:
        raise StudyError(
            f"{log}: gone or empty, and trials are there; put it back from a copy, or begin another "
            "study with study.name=..."
        )
    for number in state.damaged_logs:
        trial = folder.trial(number)
        known = (trial / "config.yaml").exists()
        if known and state.closed is None:
            continue
        remedy = "without one, begin another study with study.name=..."
        if known:
            remedy = (
                f"or delete the lines of {log} from its last 'closed' on: the same search then runs "
                "that trial again"
            )
        raise StudyError(
            f"{trial / 'events.jsonl'}: the log of trial {number} is gone, or is not as it was when "
            f"the study ended. Put {trial} back from a copy; {remedy}"
        )


def as_begun(config: Config) -> Config:
    """Return the config with what its study began with by default, where the command says nothing else.

    A study of an older version was begun with other defaults: the same command goes on.
    """
    folder = StudyFolder(config)
    if not folder.locked.exists() or not folder.begun:
        return config
    began = folder.read_locked()
    if config.evaluate.objective == "auto":
        objective = began["config"]["evaluate"]["objective"]
        config = with_values(config, {"evaluate.objective": objective})
    if config.objective.name == "auto":
        config = with_values(config, {"objective.name": began["config"]["objective"]["name"]})
    if config.data.format == "auto" and began["config"]["data"]["format"] in OWN_FORMATS:
        config = with_values(config, {"data.format": began["config"]["data"]["format"]})
    if config.data.sets:
        config = with_values(config, _decided_of_sets(config, build(began["config"])))
    if "relevant_alone" not in began["identity"]["data"]["derive"]:
        config = with_values(config, {"data.derive.relevant_alone": False})
    if "prompts" not in began["identity"]["model"]:
        none = dict.fromkeys(("model.prompts.query", "model.prompts.document"), "")
        config = with_values(config, none)
    if config.study.on_drift == "refuse":
        for path, (last, theirs, new) in OLDER_DEFAULTS.items():
            room, leaf = path.split(".")
            old = began["config"].get(room, {}).get(leaf, theirs[0])
            older = began["defaults"] <= last and old in theirs
            if older and to_dict(config)[room][leaf] == new:
                config = with_values(config, {path: old})
    return _with_steps(config, began["identity"]["train"]["warmup_steps"])


def _decided_of_sets(config: Config, began: Config) -> dict[str, Scalar]:
    """Return what the rows of sets decided when a study began, where the config leaves it open."""
    found: dict[str, Scalar] = {}
    for name in config.data.sets.keys() & began.data.sets.keys():
        for leaf, left in (("metric", "auto"), ("format", "auto"), ("objective.name", None)):
            path = f"data.sets.{name}.{leaf}"
            if value_at(config, path) == left:
                found[path] = value_at(began, path)
    return found


def _with_steps(config: Config, steps: int | None) -> Config:
    """Return the config with steps of warm-up: before there was a share every study had them."""
    said = config.train.warmup_steps is not None or config.train.warmup != TrainConfig().warmup
    if said or steps is None or "train.warmup" in config.space:
        return config
    return replace(config, train=replace(config.train, warmup_steps=steps))


def write_yaml(path: Path, content: object) -> None:
    """Whole or not at all."""
    with disk.whole(path) as draft:
        draft.write_text(yaml_of(content), encoding="utf-8")


def yaml_of(content: object) -> str:
    return str(yaml.dump(content, None, DUMPER, allow_unicode=True, sort_keys=False))


def take_lock(file: TextIO) -> bool:
    """Return true where this process now has the lock of ``file`` to itself."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)


def holder(lock: Path) -> str:
    """Return who holds a study, as "process 12 on host since ...", or the empty string."""
    if not lock.exists():
        return ""
    with lock.open() as file:  # also of a home that cannot be written
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return f"run by {file.read().strip()}"
    return ""
