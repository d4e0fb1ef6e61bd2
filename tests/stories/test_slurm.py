"""Studies whose workers are jobs of a real Slurm on this machine."""

from __future__ import annotations

import time

import pytest

SLURM = ["launcher=slurm", "launcher.workers=1", "launcher.minutes=60"]
LONG = [
    "scheduler=none", "sampler=qmc", "stop.trials=2", "train.batch_size=16", "~space.train.batch_size",
    "train.texts=24000", "evaluate.at=[0.5,1.0]",
]  # fmt: skip


@pytest.fixture
def cluster(slurm_cluster):
    slurm_cluster.empty()
    yield slurm_cluster
    slurm_cluster.empty()


def until(process, there, seconds=120):
    end = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_study_of_jobs_finds_what_one_process_finds(home, calm, cluster):
    process = home.start("search", *SLURM)
    _, err = process.communicate(timeout=300)

    assert process.returncode == 0, err
    assert "Slurm: 1 of 1 workers run" in err
    assert (home.params(), home.values()) == (calm.params(), calm.values())
    assert home.result["best"] == calm.result["best"]
    cluster._until(lambda: not cluster.jobs(), "all jobs are gone")


def test_a_study_goes_on_through_pre_emption_and_a_killed_coordinator_and_finds_the_same(
    home, cluster, tmp_path
):
    calm = home.at(tmp_path / "calm")
    assert calm.run("search", *LONG) == 0
    process = home.start("search", *LONG, *SLURM)
    until(process, lambda: home.seen("points", 0))
    [job] = cluster.jobs()
    status, _ = home.start("status").communicate(timeout=60)
    for times, command in enumerate(
        ("scontrol requeue", "scancel --signal=USR2"), 2
    ):  # Slurm's own before the limit
        cluster.ask(*command.split(), job)
        cluster.hurry(job)
        until(
            process,
            lambda times=times: sum(len(home.events("segment", n)) for n in (0, 1)) >= times,
        )
        time.sleep(1.0)
    process.kill()
    process.communicate()
    left = cluster.jobs()
    process = home.start("search", *LONG, *SLURM)
    _, err = process.communicate(timeout=300)

    assert process.returncode == 0, err
    assert f"worker 0: Slurm job {job} running on " in status
    assert left == [job]
    assert f"Slurm: jobs of an earlier session save and stop: {job}" in err
    assert [home.events("failed", n) for n in (0, 1)] == [[], []]
    assert (home.params(), home.values()) == (calm.params(), calm.values())
    for number in (0, 1):
        steps = [step for event in home.events("points", number) for step, _, _ in event["points"]]
        assert steps == list(range(1, home.events("measured", number)[-1]["step"] + 1))


def test_sigterm_to_the_coordinator_saves_checkpoints_and_ends_the_jobs(home, cluster):
    process = home.start("search", *LONG, *SLURM)
    until(process, lambda: home.seen("points", 0))
    process.terminate()
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert err.endswith("embsearch: stopped; the same command goes on with this study\n")
    assert (home.study / "trials/t0000/checkpoint.safetensors").exists()
    assert home.events("failed", 0) == []
    cluster._until(lambda: not cluster.jobs(), "all jobs are gone")


def test_jobs_of_a_study_that_was_killed_before_it_had_begun_are_replaced(home, cluster):
    process = home.start("search", *LONG, *SLURM)
    until(process, lambda: cluster.jobs("RUNNING"))
    [job] = cluster.jobs()
    process.kill()
    process.communicate()
    process = home.start("search", *LONG, *SLURM, "train.texts=600")
    _, err = process.communicate(timeout=300)

    assert process.returncode == 0, err
    assert (
        job not in cluster.jobs()
    )  # a job without a process yet is gone before anybody could say so
    assert home.result["counts"]["complete"] == 2


def test_a_partition_that_is_not_there_ends_with_exit_code_2_and_what_sbatch_said(home, cluster):
    process = home.start("search", *SLURM, "launcher.partition=nowhere")
    _, err = process.communicate(timeout=120)

    assert process.returncode == 2
    assert err.count("invalid partition specified: nowhere") == 1
    assert "Traceback" not in err
    assert not home.study.exists()
