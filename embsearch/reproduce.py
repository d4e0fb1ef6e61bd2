"""Train a recorded trial again, from the base weights, and lay the result beside the record.

The config, the data's fingerprint, the packages and the machine are the record's; the trial runs in a worker process
as in a search, uninterrupted. A trial that was paused, killed and resumed must give the same bits: resume is exact.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from embsearch import disk
from embsearch.codec import Json
from embsearch.config.build import to_dict
from embsearch.config.folders import home_folder
from embsearch.config.schema import Config
from embsearch.config.sets import moved
from embsearch.data.remote import is_there
from embsearch.errors import DataError, EmbsearchError, StudyError, UserError
from embsearch.history.folder import take_lock
from embsearch.history.trial import MENDED_BY_USER
from embsearch.launch.base import Died, Failed, Launcher, Measured, Message, TrainJob
from embsearch.report.past import Past
from embsearch.report.reproduced import Evaluated, Reproduction, Weights
from embsearch.study.dispatch import Dispatch
from embsearch.tasks.catalogue import task_of
from embsearch.track.digest import digest, manifest, weights_digest
from embsearch.track.environment import changes, environment, machine_changes
from embsearch.values import Segment


def prepared(then: Past, asked: Config) -> tuple[Config, Path]:
    """Return the config to train with here, and the data's cache. Device and precision are the
    recorded ones where this machine has them; files that are no longer where they were are taken
    from where ``asked`` says.

    Raises DataError where the data are not those of the record.
    """
    config = replace(then.config, home=asked.home, device=_device(then, asked))
    if precision := then.machine.get("precision"):
        config = replace(config, train=replace(config.train, precision=precision))
    if not all(map(is_there, config.data.named)):
        config = replace(config, data=moved(config.data, asked.data))
    if config.model.path.startswith("/") and not Path(config.model.path).exists():
        config = replace(config, model=replace(config.model, path=asked.model.path))
    task = task_of(config)
    cache = task.prepare(config.data, home_folder(config.home) / "cache")
    data = task.load(cache)
    if data.fingerprint != then.opened.data:
        files = ", ".join(_files_changed(then.opened.rows, data.report))
        raise DataError(
            f"study {then.study}: the data have changed since trial {then.number}: their fingerprint was "
            f"{then.opened.data[:12]} and is {data.fingerprint[:12]} now ({files}). Put the old files back, or "
            "name them: data.path=..., or data.sets.NAME.path=... of each set"
        )
    return config, cache


def _device(then: Past, asked: Config) -> str:
    if asked.device != "auto":
        return asked.device
    return "cpu" if str(then.machine.get("device", "")).startswith("cpu") else then.config.device


def _files_changed(then: Json, now: Json) -> Iterator[str]:
    """Yield the files that are others, as far as the record says."""
    old = {file["file"]: file for file in then.get("files") or []}
    new = {file["file"]: file for file in now["files"]}
    count = 0
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before is None or after is None:
            yield f"{name} {'is new' if before is None else 'is gone'}"
        elif before.get("sha256") and before["sha256"] != after.get("sha256"):
            yield f"{name} has other content: {before['rows']:,} rows then, {after['rows']:,} now"
        elif before["rows"] != after["rows"]:
            yield f"{name} has {after['rows']:,} rows and had {before['rows']:,}"
        else:
            continue
        count += 1
    if not count:
        known = all(file.get("sha256") for file in old.values())
        yield (
            "the files are the same, so they are read otherwise"
            if known
            else "which file is not recorded"
        )


@contextmanager
def workplace(home: Path, then: Past) -> Iterator[Path]:
    """Yield a folder of this process alone, removed at the end; what a killed one left there goes
    first.
    """
    path = home / "reproduce" / f"{then.study}-t{then.number:04d}"
    lock = path.with_name(f"{path.name}.lock")
    disk.make_folder(path.parent)
    with lock.open("a+") as file:
        if not take_lock(file):
            raise StudyError(
                f"trial {then.number} of {then.study} is being trained again by another process; wait"
            )
        try:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def train_again(
    then: Past,
    config: Config,
    cache: Path,
    folder: Path,
    launcher: Launcher,
    watch: Callable[[Evaluated], None] = lambda one: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[Evaluated], Json, str]:
    """Train from the base weights to the last recorded evaluation. Return what was measured, on which machine, and
    why it ended before, if it did. A worker that dies is replaced, as in a search. Raises what keeps a trial from
    being trained at all."""
    found: list[Evaluated] = []
    machine: Json = {}
    desk: Dispatch[str] = Dispatch(launcher, say=say)
    members, stopped = _members(then, config, cache, folder, desk)
    at = 0
    for event in then.measured:
        again = None
        if not stopped:
            segment = Segment(then.number, 0, at, event.rung)
            job = TrainJob(segment, to_dict(config), str(folder), str(cache), then.queries)
            job = replace(job, members=members)
            end = desk.ask({0: (f"trial {then.number}", job)})[0]
            if not isinstance(end, Measured):
                stopped = _why_ended(end)
            else:
                measured = end.measurement
                at, machine = measured.rung, measured.machine
                again = measured.metrics if measured.rung == event.rung else None
                if measured.last and event is not then.measured[-1]:
                    stopped = f"ended: {measured.why}"
        found.append(Evaluated(event.rung, event.texts_seen, event.metrics, again))
        watch(found[-1])
    return found, machine, stopped


def _members(
    then: Past, config: Config, cache: Path, folder: Path, desk: Dispatch[str]
) -> tuple[tuple[str, ...], str]:
    """Train the runs that a soup is the mean of. Return their models, and why one ended before its
    end, if it did.
    """
    found = []
    for run in then.runs:
        train = replace(config.train, seed=config.train.seed + run)
        mine = folder.with_name(f"run{run}")
        segment = Segment(then.number, 0, 0, len(config.evaluate.at), run)
        content = to_dict(replace(config, train=train))
        job = TrainJob(segment, content, str(mine), str(cache), then.queries)
        end = desk.ask({0: (f"run {run} of trial {then.number}", job)})[0]
        if not isinstance(end, Measured):
            return (), _why_ended(end)
        found.append(str(mine / "model"))
    return tuple(found), ""


def _why_ended(end: Message) -> str:
    """Return why a trial ended that diverged: that is a result. Raise everything else that ended it."""
    assert isinstance(end, (Failed, Died))
    if end.failure == "diverged":
        return f"diverged: {end.message}"
    if end.failure in MENDED_BY_USER:
        raise UserError(end.message)
    traceback = end.traceback if isinstance(end, Failed) else ""
    raise EmbsearchError(f"training again: {traceback or end.message}")


def compared(
    then: Past, found: Sequence[Evaluated], stopped: str, machine: Json, model: Path, known: str,
    tolerance: float,
) -> Reproduction:  # fmt: skip
    """Return the verdict. ``known`` is the digest of the whole saved model where a registry says
    it; else the model in the trial's folder is what the new one is compared with, by its weights.
    """
    again = manifest(model)
    if known:
        weights = Weights(known, digest(again), "saved model's")
    else:
        weights = Weights(
            weights_digest(manifest(then.model)) if then.model.exists() else "",
            weights_digest(again),
        )
    changed = changes(then.opened.environment, environment())
    changed += machine_changes(then.machine, machine) if machine else []
    return Reproduction(then.objective, tuple(found), weights, tolerance, tuple(changed),
                        _loose(machine), stopped)  # fmt: skip


def _loose(machine: Json) -> str:
    """Why equal surroundings may give other bits."""
    if not str(machine.get("device", "cpu")).startswith("cpu"):
        return "kernels of a GPU add in any order"
    threads = machine.get("threads") or 1
    return (
        f"{threads} threads share sums in an order that is not always the same"
        if int(threads) > 1
        else ""
    )
