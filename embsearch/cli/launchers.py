"""The launcher that a config asks for: made when the study is ready to give tasks out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from embsearch.config.schema import Config
from embsearch.errors import ConfigError
from embsearch.launch.base import Launcher
from embsearch.values import Clock

PACKAGES = {"ray": "ray", "slurm": "submitit"}  # by the launcher that needs one; extras are named as launchers are


def launcher(config: Config, clock: Clock = time) -> Callable[[Path], Launcher]:
    """How this config runs tasks, given the study's folder. Raises ConfigError where a package is missing for it."""
    package = PACKAGES.get(config.launcher.name)
    if package and not _installed(package):
        raise ConfigError(
            f"launcher={config.launcher.name}: the package {package} is not installed. "
            f"pip install 'embsearch[{config.launcher.name}]'"
        )
    make = {"inline": _inline, "local": _local, "replay": _replay}[config.launcher.name]
    return lambda folder: make(config, folder, clock)


def _inline(config: Config, folder: Path, clock: Clock) -> Launcher:
    from embsearch.launch.inline import Inline
    from embsearch.worker import Worker

    return Inline(Worker())


def _local(config: Config, folder: Path, clock: Clock) -> Launcher:
    from embsearch.launch.local import Local, python_module, sets_of, visible_gpus

    devices = config.train.devices
    gpus = [] if config.device == "cpu" else visible_gpus()
    alone = config.device.startswith("cuda:")  # one GPU by its number, which only holds where all are visible
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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = config.launcher.workers or (
        len(sets) * config.launcher.per_gpu if sets else max(1, min(cores, 4) // devices)
    )
    threads = config.launcher.threads or max(1, cores // workers)
    return Local(
        python_module("embsearch.worker"), workers, threads, folder / "workers", None if alone else sets or None,
        config.launcher.segment_timeout,
    )  # fmt: skip


def gpus_of_worker(config: Config) -> float:
    """How many GPUs a worker wants; less than 1 where several share one."""
    return config.train.devices / config.launcher.per_gpu


def _replay(config: Config, folder: Path, clock: Clock) -> Launcher:
    from embsearch.cli.curves import curves
    from embsearch.launch.replay import Replay, VirtualClock

    if not isinstance(clock, VirtualClock):
        raise ConfigError("launcher=replay: trains nothing, so no model would come of it; it is for searches")
    return Replay(curves(config), clock, config.launcher.workers or 1)


def _installed(package: str) -> bool:
    """Not by its module: a folder of that name in the working directory can be imported too."""
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True
