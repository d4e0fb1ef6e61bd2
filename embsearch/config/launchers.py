"""Places where trials run: one config a launcher, each with the settings of its own.

``launcher.name`` says which class it is. Every path ``launcher.*`` may be given with every
launcher: what another one takes is checked and passed over (config/build.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from embsearch.config.setting import Room, setting

NAME = "where trials run; replay: from curves"


@dataclass(frozen=True)
class LauncherConfig(Room):
    name: str = setting("local", NAME)
    workers: int = setting(
        0,
        "0: one a GPU; local: on CPU one a core up to 4; ray: what fits now; slurm: must be given",
        low=0,
        zero="see conf",
        verbs=("search", "plan"),
    )
    threads: int = setting(0, "CPU threads a worker; 0: cores divided by workers; ray and slurm: 1")
    per_gpu: int = setting(1, "workers that share one GPU")
    segment_timeout: float = setting(
        3600.0, "seconds without any sign of life before a worker is killed"
    )
    grace: float = setting(
        20.0, "seconds that running segments get on SIGTERM to save a checkpoint"
    )


@dataclass(frozen=True)
class InlineConfig(LauncherConfig):
    """This process, one trial at a time."""

    name: str = setting("inline", NAME)


@dataclass(frozen=True)
class LocalConfig(LauncherConfig):
    """Warm worker processes on this machine."""

    name: str = setting("local", NAME)


@dataclass(frozen=True)
class RayConfig(LauncherConfig):
    """Actors on a Ray cluster."""

    name: str = setting("ray", NAME)
    files: Literal["auto", "shared", "store"] = setting(
        "auto", "ray: by a folder all nodes see, or its object store"
    )
    address: str | None = setting(
        None, "ray: auto, HOST:PORT, ray://HOST:PORT; None: RAY_ADDRESS, else a new one here"
    )
    resources: Mapping[str, float] = setting({}, "ray: custom resources a worker takes")
    labels: Mapping[str, str] = setting({}, "ray: of the nodes that may run a worker")
    spread: bool = setting(True, "ray: over the nodes; no: fill one after another")


@dataclass(frozen=True)
class SlurmConfig(LauncherConfig):
    """Slurm jobs over a shared folder."""

    name: str = setting("slurm", NAME)
    partition: str | None = setting(
        None, "slurm: where the workers' jobs are queued; None: the default one"
    )
    account: str | None = setting(None, "slurm: who is charged")
    qos: str | None = setting(None, "slurm: quality of service")
    gres: str | None = setting(None, "slurm: of one worker, as gpu:1")
    memory: str | None = setting(None, "slurm: of one worker, as 16G")
    minutes: int = setting(
        240,
        "slurm: time limit of a worker's job; at its end the checkpoint is saved and the job requeued",
        low=1,
    )
    requeues: int = setting(100, "slurm: how often a job that met its time limit goes on")
    sbatch: Mapping[str, str] = setting({}, "slurm: further options of sbatch, by their long names")
    setup: tuple[str, ...] = setting(
        (), "slurm: shell commands before a worker starts, as module load cuda"
    )


@dataclass(frozen=True)
class ReplayConfig(LauncherConfig):
    """Curves instead of training, on a virtual clock."""

    name: str = setting("replay", NAME)
    curves: str | None = setting(
        None, "replay: a finished study's folder, or a file of curves; None: synthetic ones"
    )
    noise: float = setting(0.005, "replay, synthetic: standard deviation of one measurement")
    trial_seconds: float = setting(
        600.0, "replay, synthetic: seconds of a whole trial, on the virtual clock"
    )


LAUNCHERS: tuple[type[LauncherConfig], ...] = (
    InlineConfig,
    LocalConfig,
    RayConfig,
    SlurmConfig,
    ReplayConfig,
)
