"""Commands that the launcher gives Slurm: sbatch through submitit, squeue, scancel.

Not sacct, which needs a database.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import NamedTuple

from embsearch.config import secrets
from embsearch.errors import UserError
from embsearch.launch.environment import worker_environment
from embsearch.launch.slurm.job import Job

# States of squeue in which no process is left; all others (SUSPENDED, COMPLETING, REQUEUE_HOLD ...)
# may go on.
OVER = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
)  # fmt: skip
# Seconds for squeue: its own limit for an answer (MessageTimeout) is 10, and it tries again.
PATIENCE = 30.0
# Seconds for scancel at the end: jobs whose coordinator is gone end by themselves, only later.
CANCEL = 10.0
SIGNAL = 90  # seconds before the time limit that Slurm says so; it may be a minute earlier
MINUTES = 4  # of a time limit at least, so that a job is not told at its start
OWN = (
    "array", "cpus-per-task", "error", "job-name", "no-requeue", "nodes", "ntasks",
    "ntasks-per-node", "open-mode", "output", "requeue", "signal", "time", "wrap",
)  # fmt: skip


class State(NamedTuple):
    """A job in squeue. ``name``: RUNNING, PENDING ...; ``reason``: why it waits."""

    name: str
    reason: str
    node: str


class NotAnswering(Exception):
    """Slurm's controller is away, or refused."""


class Queue:
    """The jobs with one ``name``.

    ``asked``: parameters of sbatch as submitit names them, and ``extra`` by their long names;
    ``setup``: shell commands before the worker.
    """

    def __init__(
        self,
        logs: Path,
        name: str,
        threads: int,
        requeues: int,
        asked: Mapping[str, object],
        extra: Mapping[str, str],
        setup: Sequence[str],
    ) -> None:
        for tool in ("sbatch", "squeue", "scancel", "srun"):
            if shutil.which(tool) is None:
                raise UserError(
                    f"launcher=slurm: no {tool} on this machine; run it on a login node of Slurm"
                )
        self.logs, self.name, self._requeues = logs, name, requeues
        exports = [f"export {key}={value}" for key, value in worker_environment(threads).items()]
        self._parameters = {
            **{key: value for key, value in asked.items() if value is not None},
            "job_name": name,
            "cpus_per_task": threads,
            "signal_delay_s": SIGNAL,
            "setup": [*exports, *map(secrets.in_shell, setup)],
            # since Slurm 22.05 srun does not take this over from sbatch
            "srun_args": [f"--cpus-per-task={threads}"],
            "additional_parameters": {
                "requeue": True,
                **{key: True if value in ("", "true") else value for key, value in extra.items()},
            },
        }

    @property
    def asked(self) -> str:
        """Return what every job of this session is submitted with, as one text."""
        return repr(sorted(self._parameters.items()))

    def submit(self, jobs: Sequence[Job]) -> list[str]:
        """Submit jobs, as one array where they are several, and return their ids.

        Raises UserError with what sbatch said.
        """
        if not jobs:
            return []
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        logging.getLogger("submitit").setLevel(logging.CRITICAL)
        executor = submitit.SlurmExecutor(self.logs, max_num_timeout=self._requeues)
        try:
            executor.update_parameters(**self._parameters, array_parallelism=len(jobs))
            # It prints what it raises.
            with redirect_stderr(io.StringIO()), outside_a_job(), executor.batch():
                made = [executor.submit(job) for job in jobs]
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(
                f"sbatch refused the workers' jobs: {str(error).strip()}\n"
                "mend launcher.partition, account, qos, gres, memory, minutes, threads or sbatch; "
                "'sinfo' shows what there is"
            ) from error
        return [job.job_id for job in made]

    def states(self) -> dict[str, State]:
        """Return every job with this name that Slurm still knows, by id. Raises NotAnswering."""
        ours = ["-u", str(os.getuid()), "-n", self.name]
        command = ["squeue", "-h", "-r", "-t", "all", *ours, "-o", "%i|%T|%r|%N"]
        rows = (line.split("|") for line in _answer(command, PATIENCE).splitlines())
        return {row[0]: State(*row[1:]) for row in rows if len(row) == 4}

    def cancel(self, ids: Iterable[str]) -> None:
        """End these jobs: SIGTERM first, SIGKILL after Slurm's KillWait. Raises NotAnswering."""
        if ids := list(ids):
            _answer(["scancel", "--quiet", *ids], PATIENCE)

    def cancel_all(self) -> None:
        """End every job with this name. Raises NotAnswering, soon."""
        _answer(["scancel", "--quiet", "-u", str(os.getuid()), "-n", self.name], CANCEL)

    def tail(self, job: str, lines: int = 15) -> str:
        """Return the end of what a job printed, with the files' names."""
        text = []
        for path in sorted(self.logs.glob(f"{job}_0_log.*"), reverse=True):  # .out, then .err
            end = path.read_text(errors="replace").splitlines()[-lines:]
            text += [f"the end of {path}:", *end] if end else []
        return "\n".join(text) or f"it printed nothing into {self.logs}"


@contextmanager
def outside_a_job() -> Iterator[None]:
    """Hide that the coordinator is a job itself: sbatch would read its variables as options.

    What says which cluster to ask stays: submitit's ``clean_env`` takes that away too.
    """
    stays = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS")
    of_slurm = ("SLURM_", "SLURMD_", "SRUN_")
    before = {
        key: value
        for key, value in os.environ.items()
        if key.startswith(of_slurm) and key not in stays
    }
    for key in before:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(before)


def job_name(folder: Path) -> str:
    """Return the name of a study's jobs, for the folder <home>/studies/<name>/workers/slurm.

    By it they are found again, also those that nobody had the time to write down.
    """
    word = re.sub(r"[^\w.-]", "_", folder.parents[1].name)
    return f"embsearch-{word}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}"


def _answer(command: list[str], timeout: float) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAnswering(f"{command[0]}: {error}") from error
    if done.returncode:
        raise NotAnswering(f"{command[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
