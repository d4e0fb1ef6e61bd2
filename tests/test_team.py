"""A trial that two processes train together: the same result, the same bits when it goes on, nobody left behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import replace

import psutil
import pytest
import torch
from processes import gone
from safetensors import safe_open

from embsearch.config.build import build, to_dict, with_values
from embsearch.data.load import prepare_dataset
from embsearch.errors import ConfigError
from embsearch.launch.base import (
    Ending,
    Evaluated,
    EvaluateJob,
    Failed,
    Halted,
    Measured,
    Points,
    Probed,
    ProbeJob,
    TrainJob,
    encode,
)  # fmt: skip
from embsearch.launch.inline import Inline
from embsearch.launch.local import Local, python_module
from embsearch.team import gpus_for
from embsearch.values import Segment
from embsearch.worker import Worker

pytestmark = pytest.mark.story
PATIENCE = 120  # seconds a test waits: a worker imports torch first, and then its crew does


@pytest.fixture(scope="module")
def cache(judgements_csv, tmp_path_factory):
    return prepare_dataset(
        build({"data": {"path": str(judgements_csv)}}).data, tmp_path_factory.mktemp("cache")
    )


@pytest.fixture(scope="module")
def config(tiny_bert, judgements_csv):
    return build({
        "data": {"path": str(judgements_csv)},
        "model": {"path": str(tiny_bert), "dropout": 0.1},
        "train": {"texts": 960, "batch_size": 16, "lr": 3e-3, "warmup_steps": 2, "precision": "fp32", "devices": 2},
        "evaluate": {"at": [0.25, 0.5, 1.0], "draws": 20},
        "device": "cpu",
    })  # fmt: skip


@pytest.fixture(scope="module")
def worker(one_thread):
    """One worker with a crew, warm for all tests that leave it so. A process has one crew at a time."""
    made = Worker(send=lambda message: heard(message))
    yield made
    made.close()


def heard(message):
    """Take what the worker says during a job. Tests put another in its place."""


def segment(config, cache, folder, at, until, number=0, attempt=0):
    position = Segment(number, attempt, at, until)
    return TrainJob(position, to_dict(config), str(folder), str(cache), points_every=0.0)


def last(worker, job):
    *_, message = worker(job)
    return message


def measured(worker, config, cache, folder, number=0, rungs=(0, 1, 2)):
    """The trial's measurements, segment by segment."""
    found = []
    for rung in rungs:
        message = last(worker, segment(config, cache, folder, rung, rung + 1, number))
        assert isinstance(message, Measured), message
        found.append(message.measurement)
    return found


def metrics(found):
    return [(m.rung, m.step, m.texts_seen, m.metrics) for m in found]


def sha256(folder):
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def pids(worker):
    return [member.pid for member in worker.crew._members]


@pytest.fixture(scope="module")
def calm(worker, config, cache, tmp_path_factory):
    """An undisturbed trial of two processes: its measurements and its model's bits."""
    folder = tmp_path_factory.mktemp("calm")
    return metrics(measured(worker, config, cache, folder)), sha256(folder)


# ---- the result --------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["triplet", "infonce"])
def test_two_devices_measure_what_one_measures(worker, config, cache, tmp_path, objective):
    config = with_values(config, {"model.dropout": 0.0, "objective.name": objective})

    two = measured(worker, config, cache, tmp_path / "two")
    one = measured(Worker(), with_values(config, {"train.devices": 1}), cache, tmp_path / "one")

    assert [m.metrics["val/auc"] for m in two] == pytest.approx(
        [m.metrics["val/auc"] for m in one], abs=1e-4
    )
    assert [(m.step, m.texts_seen) for m in two] == [(m.step, m.texts_seen) for m in one]


def test_the_same_seed_gives_the_same_bits(worker, config, cache, tmp_path, calm):
    assert metrics(measured(worker, config, cache, tmp_path)) == calm[0]
    assert sha256(tmp_path) == calm[1]


def test_threads_are_shared_among_the_devices_and_given_back(worker, config, cache, tmp_path):
    torch.set_num_threads(3)
    try:
        found = last(worker, segment(config, cache, tmp_path, 0, 1))
        assert (found.measurement.machine["threads"], torch.get_num_threads()) == (3, 3)
    finally:
        torch.set_num_threads(1)


# ---- the crew ----------------------------------------------------------------------------------


def test_one_crew_serves_many_trials_and_an_evaluation_in_between_changes_no_bit(
    worker, config, cache, tmp_path, calm
):
    before = pids(worker)
    other = with_values(config, {"train.lr": 1e-3, "train.seed": 5})
    untuned = EvaluateJob("valid", to_dict(config), str(cache))

    found = []
    for rung in range(3):
        found += measured(worker, config, cache, tmp_path / "a", 0, [rung])
        measured(worker, other, cache, tmp_path / "b", 1, [rung])
        assert isinstance(last(worker, untuned), Evaluated)

    assert metrics(found) == calm[0]
    assert sha256(tmp_path / "a") == calm[1]
    assert pids(worker) == before != []


def test_a_trial_on_one_device_sends_the_crew_home(worker, config, cache, tmp_path):
    measured(worker, config, cache, tmp_path / "two", rungs=[0])
    crew = pids(worker)

    measured(worker, with_values(config, {"train.devices": 1}), cache, tmp_path / "one", rungs=[0])

    assert (len(crew), pids(worker)) == (1, [])
    assert gone(crew)


def test_a_probe_times_steps_of_all_devices_together(worker, config, cache, tmp_path):
    speed, edge = (
        last(worker, ProbeJob(what, to_dict(config), str(tmp_path / what), str(cache)))
        for what in ("speed", "edge")
    )

    assert (type(speed), type(edge)) == (Probed, Probed), (speed, edge)
    assert speed.values["steps"] >= 2
    assert edge.values["tokens"] > 0


# ---- what goes wrong ---------------------------------------------------------------------------


def test_a_device_that_is_killed_fails_the_job_as_killed_and_the_trial_goes_on(
    worker, config, cache, tmp_path, calm, monkeypatch
):
    steps = []

    def told(message):
        steps.extend(step for step, _, _ in message.points)
        if steps[-1] == 8:
            os.kill(pids(worker)[0], signal.SIGKILL)

    monkeypatch.setitem(globals(), "heard", told)
    first = measured(worker, config, cache, tmp_path, rungs=[0])
    crew = pids(worker)
    *_, failed = worker(segment(config, cache, tmp_path, 1, 3))
    monkeypatch.undo()
    again = measured(worker, config, cache, tmp_path, rungs=[1, 2])

    assert steps[:8] == list(range(1, 9))
    assert len(steps) < 11
    assert (type(failed), failed.failure) == (Failed, "killed")
    assert f"device 1 of 2 (process {crew[0]}) was killed by SIGKILL" in failed.message
    assert metrics(first + again) == calm[0]
    assert sha256(tmp_path) == calm[1]


def test_a_device_that_died_between_two_segments_is_replaced(worker, config, cache, tmp_path, calm):
    found = measured(worker, config, cache, tmp_path, rungs=[0])
    before = pids(worker)
    os.kill(before[0], signal.SIGKILL)
    assert gone(before)
    time.sleep(0.5)

    found += measured(worker, config, cache, tmp_path, rungs=[1, 2])
    after = pids(worker)
    worker.close()

    assert metrics(found) == calm[0]
    assert sha256(tmp_path) == calm[1]
    assert after != before
    assert gone(after)


def test_a_trial_that_diverges_on_two_devices_is_diverged(worker, config, cache, tmp_path):
    failed = last(worker, segment(with_values(config, {"train.lr": 1e30}), cache, tmp_path, 0, 1))

    assert (type(failed), failed.failure, pids(worker)) == (Failed, "diverged", [])


@pytest.mark.parametrize(("wrong", "failure"), [("/no/such/cache", "data"), (7, "bug")])
def test_a_mistake_that_only_the_others_meet_is_told_with_its_class_and_traceback(
    worker, config, cache, tmp_path, monkeypatch, wrong, failure
):
    def send(job, resume):
        for member in worker.crew._members:
            member.send(replace(job, cache=wrong), resume)

    monkeypatch.setattr(worker.crew, "_send", send)

    failed = last(worker, segment(config, cache, tmp_path, 0, 1))

    assert (type(failed), failed.failure) == (Failed, failure)
    assert "device 1 of 2" in failed.message
    assert ("/no/such/cache" if failure == "data" else "TypeError") in failed.message
    assert "Traceback (most recent call last)" in failed.message


def test_a_device_that_cannot_even_begin_is_told_with_its_log(
    worker, config, cache, tmp_path, monkeypatch
):
    worker.close()
    monkeypatch.setenv("PYTHONHASHSEED", "nonsense")  # Python ends at once

    failed = last(worker, segment(config, cache, tmp_path, 0, 1))

    assert (type(failed), failed.failure) == (Failed, "killed")
    assert "PYTHONHASHSEED" in failed.message


def test_too_few_gpus_are_said_with_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    with pytest.raises(
        ConfigError, match=r"train\.devices=4: this worker sees 1 GPU; use train\.devices=1"
    ):
        gpus_for(4, torch.device("cuda"))
    with pytest.raises(
        ConfigError, match=r"device=cuda:1: names one GPU, and train\.devices=2 wants 2"
    ):
        gpus_for(2, torch.device("cuda:1"))


def test_each_device_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus_for(2, torch.device("cuda")) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,GPU-5a, 2,3")
    assert gpus_for(3, torch.device("cuda")) == ["7", "GPU-5a", "2"]
    assert gpus_for(3, torch.device("cpu")) == []


# ---- processes ---------------------------------------------------------------------------------


def running(launcher, job):
    """The worker's crew, once the job trains."""
    launcher.submit(0, job)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for _, message in launcher.wait(1.0):
            assert not isinstance(message, Ending), message
            if isinstance(message, Points) and message.points:
                worker = psutil.Process(launcher.transport.workers[0].process.pid)
                return [child.pid for child in worker.children(recursive=True)]
    raise AssertionError("no step was told")


def rest(launcher):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for _, message in launcher.wait(1.0):
            if isinstance(message, Ending):
                return message
    raise AssertionError("the job did not end")


@pytest.fixture
def long(config, cache, tmp_path):
    """A job of minutes."""
    return segment(
        with_values(config, {"train.texts": 400_000, "evaluate.at": [1.0]}),
        cache,
        tmp_path / "trial",
        0,
        1,
    )


@pytest.fixture
def local(tmp_path):
    made = Local(python_module("embsearch.worker"), 1, 1, tmp_path / "logs")
    yield made
    made.close()


def test_no_process_is_left_when_the_worker_is_killed(local, long):
    crew = running(local, long)
    os.kill(local.transport.workers[0].process.pid, signal.SIGKILL)

    assert len(crew) == 1
    assert gone(crew)


def test_no_process_is_left_when_a_worker_that_nobody_watches_is_killed(long):
    """Its launcher cannot end what the worker leaves behind, if there is none."""
    command = [*python_module("embsearch.worker")]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker.stdin.write(json.dumps(encode(long)) + "\n")
    worker.stdin.flush()
    while not json.loads(worker.stdout.readline()).get("points"):
        pass
    crew = [child.pid for child in psutil.Process(worker.pid).children(recursive=True)]
    worker.kill()
    worker.wait()

    assert len(crew) == 1
    assert gone(crew)
    worker.stdin.close()
    worker.stdout.close()


def test_a_worker_that_is_closed_in_a_job_takes_its_crew_with_it(local, long):
    crew = running(local, long)

    local.close()

    assert gone(crew)


@pytest.mark.parametrize("kind", ["inline", "local"])
def test_a_trial_on_two_devices_is_halted_with_its_checkpoint(worker, kind, tmp_path, long):
    worker.close()
    inline = kind == "inline"
    launcher = (
        Inline(Worker())
        if inline
        else Local(python_module("embsearch.worker"), 1, 1, tmp_path / "logs")
    )
    try:
        if inline:
            launcher.submit(0, long)
            threading.Timer(15.0, launcher.halt).start()
        else:
            running(launcher, long)
            launcher.halt()
        message = rest(launcher)
    finally:
        launcher.close()

    at = json.loads(
        safe_open(tmp_path / "trial/checkpoint.safetensors", "pt").metadata()["position"]
    )
    assert message == Halted()
    assert 0 < at["step"] < 400_000 / 48
