"""Workers that are jobs of a real Slurm on this machine. Most are stand-ins that need no torch."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from embsearch.errors import ConfigError, UserError
from embsearch.launch.base import Died, Ending, Halted, Note, Probed, ProbeJob, Ready, TrainJob
from embsearch.launch.slurm.job import Job
from embsearch.launch.slurm.launcher import Slurm
from embsearch.launch.slurm.mailbox import get, put
from embsearch.launch.slurm.queue import Queue, State, outside_a_job
from embsearch.launch.slurm.worker import WorkerJob, describe
from embsearch.values import Segment

PATIENCE = 60
CPUS = 2  # of the cluster

STAND_IN = """
import os, signal, sys, time
from embsearch.launch.base import Halted, Probed, TrainJob

class Worker:
    halting = False

    def __init__(self, send):
        pass

    def __call__(self, job):
        if not isinstance(job, TrainJob) and job.what == "die":
            print("last words", file=sys.stderr, flush=True)
            os._exit(3)
        until = time.monotonic() + job.config.get("seconds", 0)
        while time.monotonic() < until:
            time.sleep(0.05)
            if self.halting and isinstance(job, TrainJob):
                yield Halted()
                return
        env = {name: os.environ.get(name) for name in job.config.get("names", [])}
        yield Probed({"pid": os.getpid(), "env": env})
"""
LONG = TrainJob(Segment(0, 0, 0, 1), {"seconds": 600}, "", "")
SHORT, HANG, DIE = (
    ProbeJob("", {}, "", ""),
    ProbeJob("", {"seconds": 600}, "", ""),
    ProbeJob("die", {}, "", ""),
)


def asking(*names):
    """A job that says what these variables are in the worker's environment."""
    return ProbeJob("", {"names": names}, "", "")


@pytest.fixture
def cluster(slurm_cluster, tmp_path, monkeypatch):
    """With nothing in it, and the stand-in where jobs can import it."""
    slurm_cluster.empty()
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    )
    yield slurm_cluster
    slurm_cluster.empty()


@pytest.fixture
def make(cluster, tmp_path):
    """A launcher; every one with the same name, as sessions of one study are."""
    made = []

    def of(workers=1, threads=1, requeues=3, extra=None, setup=(), asked=None, **options):
        folder = tmp_path / "slurm"
        asked = {"time": 60} | (asked or {})
        queue = Queue(folder / "logs", tmp_path.name, threads, requeues, asked, extra or {}, setup)
        made.append(
            Slurm(
                folder,
                queue,
                workers,
                **({"handler": "stand_in:Worker", "squeue_every": 0.5} | options),
            )
        )
        return made[-1]

    yield of
    for one in made:
        one.close()


def until(launcher, there, seconds=PATIENCE):
    """Every message until ``there`` says so of the launcher and them."""
    found, end = [], time.monotonic() + seconds
    while not there(launcher, found):
        assert time.monotonic() < end, found
        found += launcher.wait(0.5)
    return found


def ready(launcher, slots=None):
    slots = list(range(launcher.workers)) if slots is None else slots
    return until(launcher, lambda it, _: it.idle == slots)


def answer(launcher, job=None, slot=0):
    """The message that ends a job."""
    if job is not None:
        launcher.submit(slot, job)
    said = until(
        launcher, lambda _, found: any(at == slot and isinstance(m, Ending) for at, m in found)
    )
    return next(m for at, m in said if at == slot and isinstance(m, Ending))


def pid_of(launcher):
    return answer(launcher, SHORT).values["pid"]


# ---- pre-emption and time limits ---------------------------------------------------------------


@pytest.mark.parametrize("by", ["scontrol requeue", "scancel --signal=USR2"])
def test_a_job_that_must_give_way_halts_its_segment_and_comes_back_as_the_same_job(
    make, cluster, by
):
    launcher = make()
    ready(launcher)
    job, first = launcher.transport.workers[0].job, pid_of(launcher)
    launcher.submit(0, LONG)
    time.sleep(0.5)
    cluster.ask(*by.split(), job)

    ended = answer(launcher)
    idle = launcher.idle
    cluster.hurry(job)
    ready(launcher)

    assert (ended, idle, launcher.transport.workers[0].job) == (Halted(), [], job)
    assert pid_of(launcher) != first


def test_slurms_own_pre_emption_halts_a_segment_and_the_job_comes_back(make, cluster):
    launcher = make()
    ready(launcher)
    job = launcher.transport.workers[0].job
    launcher.submit(0, LONG)
    time.sleep(0.5)
    cluster.ask(
        "sbatch", "-p", "urgent", "-n", str(CPUS), "--output=/dev/null", "--wrap", "sleep 1"
    )

    ended = answer(launcher)
    cluster.hurry(job)
    ready(launcher)

    assert (ended, launcher.transport.workers[0].job) == (Halted(), job)


def test_a_worker_that_gives_way_without_a_job_takes_none_until_it_is_back(make, cluster):
    launcher = make(workers=2)
    ready(launcher)
    cluster.ask("scontrol", "requeue", launcher.transport.workers[1].job)

    until(launcher, lambda it, _: it.idle == [0])
    said = launcher.wait(3.0)

    assert said == [(0, Note("Slurm: 1 of 2 workers run, 1 waits (BeginTime)"))]


def test_a_job_that_meets_its_time_limit_too_often_is_the_end(make, cluster):
    launcher = make(
        requeues=0, asked={"time": 5}
    )  # so short that submitit takes every signal for the limit
    ready(launcher)
    launcher.submit(0, LONG)
    time.sleep(0.5)
    cluster.ask("scancel", "--signal=USR2", launcher.transport.workers[0].job)

    ended = answer(launcher)
    with pytest.raises(UserError, match="has met its time limit as often as launcher"):
        until(launcher, lambda it, found: False)
    assert ended == Halted()


# ---- deaths ------------------------------------------------------------------------------------


def test_a_worker_that_ends_by_itself_is_told_with_the_end_of_its_log_and_has_another_job(make):
    launcher = make()
    ready(launcher)
    job = launcher.transport.workers[0].job
    died = answer(launcher, DIE)
    ready(launcher)

    assert (type(died), died.failure) == (Died, "killed")
    assert f"worker 0: job {job} FAILED" in died.message
    assert "last words" in died.message
    assert launcher.transport.workers[0].job != job
    assert isinstance(answer(launcher, SHORT), Probed)


def test_a_worker_that_is_killed_is_told_and_has_another_job(make):
    launcher = make()
    ready(launcher)
    job, pid = launcher.transport.workers[0].job, pid_of(launcher)
    launcher.submit(0, LONG)
    time.sleep(0.5)
    os.kill(pid, signal.SIGKILL)

    died = answer(launcher)
    ready(launcher)

    assert (type(died), died.failure) == (Died, "killed")
    assert launcher.transport.workers[0].job != job


@pytest.mark.parametrize("how", [[], ["-s", "KILL"]], ids=["scancel", "scancel -s KILL"])
def test_a_job_that_somebody_cancels_halts_its_segment_and_is_replaced(make, cluster, how):
    launcher = make()
    ready(launcher)
    job = launcher.transport.workers[0].job
    launcher.submit(0, LONG)
    time.sleep(0.5)
    cluster.ask("scancel", *how, job)

    ended = answer(launcher)
    ready(launcher)

    assert ended == Halted()
    assert launcher.transport.workers[0].job != job


def test_a_worker_that_gives_no_sign_of_life_is_cancelled_and_only_then_told(make, cluster):
    launcher = make(timeout=2.0)
    ready(launcher)
    job = launcher.transport.workers[0].job
    died = answer(launcher, HANG)  # not a segment: it hears no halting

    assert (type(died), died.failure) == (Died, "hung")
    assert f"worker 0: gave no sign of life for 2 s: job {job}" in died.message
    assert job not in cluster.jobs()
    ready(launcher)


def test_jobs_that_end_before_their_worker_is_ready_are_a_mistake_after_three(make):
    launcher = make(handler="no_such_module:Worker")

    with pytest.raises(
        UserError, match=r"(?s)3 jobs of slot 0 ended before .*No module named 'no_such_module'"
    ):
        until(launcher, lambda it, found: False)


def test_a_partition_that_is_not_there_is_told_in_the_words_of_sbatch(make):
    with pytest.raises(
        UserError, match=r"(?s)refused .*invalid partition specified: nowhere.*mend launcher.par"
    ):
        make(asked={"partition": "nowhere"})


def test_a_time_limit_over_the_partitions_is_told_in_the_words_of_sbatch(make):
    with pytest.raises(UserError, match="Requested time limit is invalid"):
        make(asked={"time": 100_000})


def test_a_process_whose_slot_another_one_works_for_ends_at_once(make):
    launcher = make()
    ready(launcher)
    pid = pid_of(launcher)
    launcher.submit(0, LONG)
    card = launcher.transport.workers[0].folder / "worker.json"
    put(card, get(card) | {"token": "another"})

    psutil.wait_procs([psutil.Process(pid)], timeout=10)

    assert not psutil.pid_exists(pid)


# ---- the queue ---------------------------------------------------------------------------------


def test_a_process_whose_job_was_given_up_ends_at_once(make):
    """As where Slurm took its node for lost, and the network there was only away."""
    launcher = make()
    ready(launcher)
    pid = pid_of(launcher)
    launcher.submit(0, LONG)
    time.sleep(1.5)
    assert psutil.pid_exists(pid)
    put(
        launcher.transport.workers[0].folder / "task.json", {}
    )  # what the launcher does when it tells of a death
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert isinstance(answer(launcher), Died)


def test_workers_that_wait_for_a_place_are_told_once_and_the_others_work(make):
    launcher = make(workers=3)
    said = ready(launcher, [0, 1]) + [m for _ in range(3) for m in launcher.wait(1.0)]
    notes = [m.text for _, m in said if isinstance(m, Note)]

    assert re.fullmatch(r"Slurm: 2 of 3 workers run, 1 waits \((Resources|Priority)\)", notes[-1])
    assert len(notes) == len(set(notes))
    assert isinstance(answer(launcher, SHORT, slot=1), Probed)


def test_a_job_that_no_slot_has_is_cancelled(make, cluster):
    launcher = make()
    ready(launcher)
    job = Job(launcher.transport.folder, 0, "stand_in:Worker", 300.0)
    [stray] = launcher.transport.queue.submit([job])  # and its id was lost

    until(launcher, lambda it, _: stray not in cluster.jobs())
    ready(launcher)
    said = answer(launcher, SHORT)
    if isinstance(
        said, Died
    ):  # it found the stray one in its place and ended, and squeue had not said so yet
        ready(launcher)
        said = answer(launcher, SHORT)

    assert isinstance(said, Probed)


def test_where_workers_are_is_described():
    def worker(name, reason="None", ready=False):
        return WorkerJob(0, None, "1", state=State(name, reason, ""), ready=ready)

    run, start, wait = (
        worker("RUNNING", ready=True),
        worker("RUNNING"),
        worker("PENDING", "Resources"),
    )
    assert describe([run, wait, wait, worker("PENDING", "Priority")], []) == (
        "Slurm: 1 of 4 workers run, 2 wait (Resources), 1 waits (Priority)"
    )
    stop = WorkerJob(0, None, "2", state=run.state, since=9.0)
    assert describe([run, stop], []) == "Slurm: 1 of 2 workers run, 1 stops"
    assert describe([worker("PENDING")], []) == "Slurm: 0 of 1 workers run, 1 waits"
    assert describe([run, start], []) == "Slurm: 1 of 2 workers run, 1 starts"
    retired = WorkerJob(0, None, retired=True)
    assert describe([run, retired], []) == "Slurm: 1 of 2 workers run, 1 met launcher.requeues"
    assert (
        describe([run], ["4_1", "3"]) == "Slurm: jobs of an earlier session save and stop: 3, 4_1"
    )
    assert describe([WorkerJob(0, None, "1")], []) == ""


def test_a_worker_has_its_threads_what_setup_exports_and_sbatch_its_options(make, cluster):
    job = asking("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK", "EMBSEARCH_GPU_SHARERS", "COLOUR")
    launcher = make(
        threads=2, setup=["export COLOUR=red"], extra={"comment": "ours", "exclusive": ""}
    )
    ready(launcher)
    found = answer(launcher, job).values["env"]
    about = cluster.ask("scontrol", "show", "job", launcher.transport.workers[0].job)

    assert found == {"OMP_NUM_THREADS": "2", "SLURM_CPUS_PER_TASK": "2", "EMBSEARCH_GPU_SHARERS": "1",
                     "COLOUR": "red"}  # fmt: skip
    assert "Comment=ours" in about
    assert "OverSubscribe=NO" in about
    assert "Requeue=1" in about


def test_a_worker_sees_the_gpu_that_slurm_gave_it_and_no_other(make):
    launcher = make(workers=2, asked={"gres": "gpu:1"})
    ready(launcher)
    job = asking("CUDA_VISIBLE_DEVICES")

    assert {
        answer(launcher, job, slot).values["env"]["CUDA_VISIBLE_DEVICES"] for slot in (0, 1)
    } == {"0", "1"}


def test_a_coordinator_that_is_a_job_itself_submits_as_one_that_is_not(monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")

    with outside_a_job():
        inside = os.environ.get("SLURM_CONF"), os.environ.get("SLURM_MEM_PER_NODE")

    assert inside == ("/etc/slurm/slurm.conf", None)
    assert os.environ["SLURM_MEM_PER_NODE"] == "100"


# ---- the coordinator ---------------------------------------------------------------------------


def test_halting_ends_segments_and_jobs(make, cluster):
    launcher = make()
    ready(launcher)
    launcher.submit(0, LONG)
    time.sleep(0.5)
    launcher.halt()

    ended = answer(launcher)
    until(launcher, lambda it, _: not cluster.jobs())

    assert (ended, launcher.idle) == (Halted(), [])


def test_closing_ends_every_job_also_one_that_works(make, cluster):
    launcher = make(workers=2)
    ready(launcher)
    launcher.submit(0, HANG)
    began = time.monotonic()
    launcher.close()
    took = time.monotonic() - began

    cluster._until(lambda: not cluster.jobs(), "all jobs are gone")
    assert took < 3


def test_closing_while_slurm_is_away_does_not_hang_and_jobs_end_by_themselves(
    make, cluster, tmp_path, monkeypatch
):
    launcher = make()
    ready(launcher)
    pid = pid_of(launcher)
    conf = (cluster.folder / "slurm.conf").read_text()
    (tmp_path / "away.conf").write_text(re.sub("SlurmctldPort=.*", "SlurmctldPort=1", conf))
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_CONF", str(tmp_path / "away.conf"))
        began = time.monotonic()
        launcher.close()
        took = time.monotonic() - began
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)

    assert took < 15
    assert not psutil.pid_exists(pid)


OWNER = """
import json, sys, time
from pathlib import Path
from embsearch.launch.base import TrainJob
from embsearch.launch.slurm.launcher import Slurm
from embsearch.launch.slurm.queue import Queue
from embsearch.values import Segment
folder, workers, alone = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
queue = Queue(folder / "logs", sys.argv[4], 1, 3, {"time": 60}, {}, ())
launcher = Slurm(folder, queue, workers, "stand_in:Worker", alone=alone, squeue_every=0.5)
while len(launcher.idle) < workers: launcher.wait(1.0)
for slot in range(workers): launcher.submit(slot, TrainJob(Segment(0, 0, 0, 1), {"seconds": 600}, "", ""))
time.sleep(1.5)
print(json.dumps([worker.job for worker in launcher.transport.workers]), flush=True)
time.sleep(600)
"""


@pytest.fixture
def killed(cluster, tmp_path):
    """A coordinator that was killed while its workers were in a segment; the ids of their jobs."""

    def of(workers, alone=300.0):
        command = [
            sys.executable,
            "-c",
            OWNER,
            str(tmp_path / "slurm"),
            str(workers),
            str(alone),
            tmp_path.name,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
            jobs = json.loads(owner.stdout.readline())
            owner.kill()
        return jobs

    return of


def test_workers_whose_coordinator_was_killed_end_after_a_while(killed, cluster):
    jobs = killed(1, alone=3.0)
    before = cluster.jobs()

    cluster._until(lambda: not cluster.jobs(), "the job has ended", seconds=20)

    assert before == jobs


def test_the_next_coordinator_goes_on_with_the_jobs_once_they_have_halted(killed, make):
    jobs = killed(2)
    launcher = make(workers=2)
    before = launcher.idle
    said = ready(launcher)

    assert (before, [worker.job for worker in launcher.transport.workers]) == ([], jobs)
    assert [
        m for _, m in said if not isinstance(m, (Ready, Note))
    ] == []  # nothing of the old segments
    assert isinstance(answer(launcher, SHORT, slot=1), Probed)


def test_jobs_of_slots_that_are_no_more_are_cancelled_and_waited_for(killed, make, cluster):
    jobs = killed(2)
    launcher = make(workers=1)
    seen = []
    until(
        launcher, lambda it, _: seen.append((it.idle, jobs[1] in cluster.jobs())) or it.idle == [0]
    )

    assert seen[0] == ([], True) or not seen[0][1]
    assert seen[-1] == ([0], False)
    assert launcher.transport.workers[0].job == jobs[0]


def test_jobs_that_nobody_wrote_down_are_found_by_their_name(killed, make, cluster, tmp_path):
    [job] = killed(1)
    (tmp_path / "slurm/jobs.json").unlink()
    launcher = make()
    ready(launcher)

    assert launcher.transport.workers[0].job != job
    assert job not in cluster.jobs()


def test_jobs_that_were_asked_for_otherwise_are_replaced(killed, make, cluster):
    [job] = killed(1)
    launcher = make(asked={"time": 30})
    ready(launcher)

    assert cluster.jobs() == [launcher.transport.workers[0].job] != [job]


# ---- what is refused ---------------------------------------------------------------------------


def test_without_slurms_tools_it_is_said_where_they_are(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(
        UserError, match="no sbatch on this machine; run it on a login node of Slurm"
    ):
        Queue(tmp_path, "name", 1, 1, {}, {}, ())


def test_settings_that_cannot_be_are_refused_together():
    from embsearch.cli.launchers import launcher
    from embsearch.config.build import build

    with pytest.raises(ConfigError) as caught:
        launcher(build({"launcher": {"name": "slurm", "minutes": 2, "sbatch": {"output": "x"}}}))

    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "launcher.workers=0", "launcher.minutes=2", "launcher.sbatch.output",
    ]  # fmt: skip
