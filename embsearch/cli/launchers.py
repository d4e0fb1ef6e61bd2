"""The launcher that a config asks for: made when the study is ready to give tasks out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from embsearch.config.launchers import InlineConfig, RayConfig, ReplayConfig, SlurmConfig
from embsearch.config.schema import Config
from embsearch.errors import ConfigError
from embsearch.history.folder import StudyFolder
from embsearch.launch.base import Launcher
from embsearch.launch.environment import cores
from embsearch.track.recorders import installed
from embsearch.values import Clock

PACKAGES = {
    "ray": "ray",
    "slurm": "submitit",
}  # by the launcher that needs one; extras are named as launchers are


def launcher(config: Config, clock: Clock = time) -> Callable[[Path], Launcher]:
    """Return what makes this config's launcher, given the study's folder.

    Raises ConfigError where a package is missing for it.
    """
    package = PACKAGES.get(config.launcher.name)
    if package and not installed(package):
        raise ConfigError(
            f"launcher={config.launcher.name}: the package {package} is not installed. "
            f"pip install 'embsearch[{config.launcher.name}]'"
        )
    if package and config.device.startswith("cuda:"):
        raise ConfigError(
            f"device={config.device}: names one GPU of this machine; with launcher={config.launcher.name} use "
            "device=cuda, and each worker gets its own"
        )
    if isinstance(config.launcher, SlurmConfig):
        _check_slurm(config.launcher)
    return lambda folder: _make(config, folder, clock)


def _make(config: Config, folder: Path, clock: Clock) -> Launcher:
    match config.launcher:
        case InlineConfig():
            return _inline()
        case RayConfig() as asked:
            return _ray(config, asked, folder)
        case SlurmConfig() as asked:
            return _slurm(asked, folder / "workers" / "slurm")
        case ReplayConfig() as asked:
            return _replay(config, asked, clock)
    return _local(config, folder)


def _inline() -> Launcher:
    from embsearch.launch.inline import Inline
    from embsearch.worker import Worker

    return Inline(Worker())


def _local(config: Config, folder: Path) -> Launcher:
    from embsearch.launch.local import Local, python_module, sets_of, visible_gpus

    devices = config.train.devices
    gpus = [] if config.device == "cpu" else visible_gpus()
    alone = config.device.startswith(
        "cuda:"
    )  # one GPU by its number, which only holds where all are visible
    if alone and devices > 1:
        raise ConfigError(
            f"device={config.device}: names one GPU, and train.devices={devices} wants {devices}; use device=cuda, "
            "and CUDA_VISIBLE_DEVICES to say which"
        )
    if gpus and len(gpus) < devices:
        raise ConfigError(
            f"train.devices={devices}: this machine has {len(gpus)} GPU{'s' * (len(gpus) > 1)} "
            f"({', '.join(gpus)}); use train.devices={len(gpus)} or fewer"
        )
    sets = gpus[:1] if alone else sets_of(gpus, devices)
    workers = config.launcher.workers or (
        len(sets) * config.launcher.per_gpu if sets else max(1, min(cores(), 4) // devices)
    )
    threads = config.launcher.threads or max(1, cores() // workers)
    return Local(
        python_module("embsearch.worker"), workers, threads, folder / "workers", None if alone else sets or None,
        config.launcher.segment_timeout,
    )  # fmt: skip


def _ray(config: Config, asked: RayConfig, folder: Path) -> Launcher:
    from embsearch.launch.ray import cluster
    from embsearch.launch.ray.launcher import Ray

    threads = asked.threads or 1
    note = cluster.connect(asked.address, max(cores(), asked.workers * threads))
    named = config.device.startswith(
        "cuda"
    )  # also where the nodes that have them are still to come
    gpus = 0.0
    if named or (config.device == "auto" and cluster.has_gpus()):
        gpus = float(config.train.devices)
    sharers = asked.per_gpu if gpus == 1 else 1
    room = cluster.Room(
        threads, gpus / sharers, sharers, asked.resources, asked.labels, asked.spread
    )
    return Ray(
        "embsearch.worker:begin", asked.workers or cluster.fits(room), room, folder / "workers",
        home_id=StudyFolder(config).home_id, files=asked.files, timeout=asked.segment_timeout, note=note,
    )  # fmt: skip


def _slurm(ask: SlurmConfig, folder: Path) -> Launcher:
    from embsearch.launch.slurm.launcher import Slurm
    from embsearch.launch.slurm.queue import Queue, job_name

    asked = {"partition": ask.partition, "account": ask.account, "qos": ask.qos, "gres": ask.gres,
             "mem": ask.memory, "time": ask.minutes}  # fmt: skip
    name = job_name(folder)
    queue = Queue(
        folder / "logs", name, ask.threads or 1, ask.requeues, asked, ask.sbatch, ask.setup
    )
    return Slurm(folder, queue, ask.workers, timeout=ask.segment_timeout)


def _check_slurm(ask: SlurmConfig) -> None:
    from embsearch.launch.slurm.queue import MINUTES, OWN

    faults = []
    if ask.workers < 1:
        faults.append(
            "launcher.workers=0: with launcher=slurm it must be given: how many jobs, each with one worker"
        )
    if ask.minutes < MINUTES:
        faults.append(
            f"launcher.minutes={ask.minutes}: must be at least {MINUTES} with launcher=slurm, since Slurm announces "
            "the time limit up to two and a half minutes before it"
        )
    for key in sorted(key for key in ask.sbatch if key.replace("_", "-") in OWN):
        faults.append(f"launcher.sbatch.{key}: set by embsearch itself; take it out")
    if faults:
        raise ConfigError(faults)


def _replay(config: Config, asked: ReplayConfig, clock: Clock) -> Launcher:
    from embsearch.cli.curves import curves
    from embsearch.launch.replay import Replay, VirtualClock

    if not isinstance(clock, VirtualClock):
        raise ConfigError(
            "launcher=replay: trains nothing, so no model would come of it; it is for searches"
        )
    return Replay(curves(asked, config.seed), clock, asked.workers or 1)
