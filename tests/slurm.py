"""A Slurm cluster of this machine alone: munged, slurmctld and slurmd as children, everything in one folder."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
MISSING = [
    tool for tool in TOOLS if shutil.which(tool) is None and not Path("/usr/sbin", tool).exists()
]
CPUS = 2
KILL_WAIT = 10  # seconds between SIGTERM and SIGKILL

CONF = """
ClusterName=embsearch
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
ReturnToService=2
KillWait={kill_wait}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 Gres=gpu:2 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes={host} Default=YES MaxTime=300 State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=300 State=UP PriorityTier=9
"""


class Cluster:
    """Running until it is closed; ``environment`` points Slurm's tools to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, []
        host = socket.gethostname().split(".")[0]
        ports, sockets = [], [socket.socket() for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
            ports.append(one.getsockname()[1])
        for one in sockets:
            one.close()
        conf = folder / "slurm.conf"
        conf.write_text(CONF.format(
            host=host, ports=ports, user=getpass.getuser(), folder=folder, kill_wait=KILL_WAIT, cpus=CPUS
        ))  # fmt: skip
        (folder / "gres.conf").write_text("AutoDetect=off\n" + "".join(
            f"NodeName={host} Name=gpu File={device}\n" for device in ("/dev/null", "/dev/zero")  # names are enough
        ))  # fmt: skip
        self.environment = {"SLURM_CONF": str(conf)}
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        files = {"socket": "munge.socket", "key-file": key.name, "pid-file": "munged.pid", "log-file": "munged.log",
                 "seed-file": "munged.seed"}  # fmt: skip
        self._start(
            "munged",
            "--foreground",
            "--force",
            *(f"--{key}={folder / name}" for key, name in files.items()),
        )
        self._until(lambda: (folder / "munge.socket").exists(), "munged made its socket")
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D", "-N", host)
        self._until(
            lambda: self.ask("sinfo", "-h", "-o", "%T", check=False).strip() == "idle",
            "the node is idle",
        )

    def ask(self, *command: str, check: bool = True) -> str:
        """What one of Slurm's tools prints."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self, *states: str) -> list[str]:
        """Ids of the jobs in one of the states; without any, of all that are not over."""
        rows = self.ask("squeue", "-h", "-r", "-o", "%i %T").split("\n")
        return [
            job
            for job, state in (row.split() for row in rows if row)
            if not states or state in states
        ]

    def hurry(self, job: str) -> None:
        """Slurm lets a requeued job wait for two minutes. One that starts within seconds is refused by the node:
        its credential was revoked just then."""
        self._until(lambda: job in self.jobs("PENDING"), f"{job} is in the queue")
        time.sleep(3)
        self.ask("scontrol", "update", f"jobid={job}", "StartTime=now")

    def empty(self) -> None:
        """End whatever is there."""
        self.ask("scancel", "-u", getpass.getuser())
        self._until(lambda: not self.jobs(), "no job is left")

    def close(self) -> None:
        if len(self.processes) > 1:
            self.ask("scancel", "-u", getpass.getuser(), check=False)
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def _start(self, tool: str, *words: str) -> None:
        with (self.folder / f"{tool}.log").open("ab") as log:
            self.processes.append(subprocess.Popen(
                [shutil.which(tool) or f"/usr/sbin/{tool}", *words], env=os.environ | self.environment, stdout=log,
                stderr=log, start_new_session=True,
            ))  # fmt: skip

    def _until(self, there: object, what: str, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not there():
            logs = "\n".join(
                path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log")
            )
            assert time.monotonic() < until, f"waited {seconds} s until {what}:\n{logs}"
            time.sleep(0.1)
