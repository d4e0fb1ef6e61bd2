"""What every launcher promises, on each of them; then what only processes can go through."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import psutil
import pytest
from processes import gone
from safetensors import safe_open

from embsearch.cli import launchers
from embsearch.config.build import build, to_dict, with_values
from embsearch.data.load import prepare_dataset
from embsearch.errors import ConfigError
from embsearch.launch.base import (
    Died,
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
)  # fmt: skip
from embsearch.launch.curves import Curve, Recorded
from embsearch.launch.inline import Inline
from embsearch.launch.local import Local, python_module
from embsearch.launch.replay import Replay, VirtualClock
from embsearch.launch.slurm.launcher import Slurm
from embsearch.launch.slurm.queue import Queue
from embsearch.values import Segment
from embsearch.worker import Worker

PATIENCE = 90  # seconds a test waits: a worker imports torch first


@pytest.fixture(scope="module")
def config(tiny_bert, judgements_csv):
    return build({
        "data": {"path": str(judgements_csv)},
        "model": {"path": str(tiny_bert)},
        "train": {"texts": 600, "batch_size": 16, "lr": 3e-3, "precision": "fp32"},
        "evaluate": {"at": [0.5, 1.0], "draws": 20},
        "device": "cpu",
    })  # fmt: skip


@pytest.fixture(scope="module")
def cache(config, tmp_path_factory):
    return prepare_dataset(config.data, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    launcher = Local(python_module("embsearch.worker"), 1, 1, tmp_path_factory.mktemp("logs"))
    yield launcher
    launcher.close()


def once_up(launcher):
    """The launcher, its one worker there."""
    until = time.monotonic() + PATIENCE
    while not launcher.idle and time.monotonic() < until:
        launcher.wait(1.0)
    return launcher


def slurm_of(cluster, folder):
    """One worker that is a Slurm job, ready for its first task."""
    cluster.empty()
    return once_up(
        Slurm(folder, Queue(folder / "logs", folder.name, 1, 1, {"time": 60}, {}, []), 1)
    )


@pytest.fixture(scope="module")
def slurm(slurm_cluster, tmp_path_factory):
    launcher = slurm_of(slurm_cluster, tmp_path_factory.mktemp("slurm"))
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def replay(config, cache, tmp_path_factory):
    """The trial of these tests, recorded once and played from then on."""
    folder, asked = str(tmp_path_factory.mktemp("recorded")), to_dict(config)
    worker, points, measured = Worker(), [], []
    [untuned] = worker(EvaluateJob("valid", asked, str(cache)))
    for at in (0, 1):
        for message in worker(TrainJob(Segment(0, 0, at, at + 1), asked, folder, str(cache))):
            if isinstance(message, Points):
                points += [(step, metrics) for step, _, metrics in message.points]
            elif isinstance(message, Measured):
                measured.append(message.measurement)
    curves = Recorded(
        config.evaluate.at, [{}], [Curve(tuple(measured), tuple(points))], untuned.metrics, "a test"
    )
    return Replay(curves, VirtualClock())


@pytest.fixture(scope="module")
def ray_cluster():
    """Ray on this machine, for all launchers of these tests."""
    from embsearch.launch.ray import cluster

    cluster.connect("local", 4)
    yield cluster
    cluster.disconnect()


def on_ray(cluster, folder, files="auto"):
    from embsearch.launch.ray.launcher import Ray

    launcher = once_up(
        Ray("embsearch.worker:begin", 1, cluster.Room(), folder, files=files, leave=False)
    )
    assert launcher.transport.workers[0].shared == (files != "store")
    return launcher


@pytest.fixture(scope="module")
def ray(ray_cluster, tmp_path_factory):
    launcher = on_ray(ray_cluster, tmp_path_factory.mktemp("ray"))
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def ray_store(ray_cluster, tmp_path_factory):
    """Whose files go by Ray's object store, as where no folder is shared."""
    launcher = on_ray(ray_cluster, tmp_path_factory.mktemp("ray_store"), "store")
    yield launcher
    launcher.close()


@pytest.fixture(scope="module", params=["inline", "local", "replay", "ray", "ray_store", "slurm"])
def launcher(request):
    """A new launcher is one more case here."""
    return Inline(Worker()) if request.param == "inline" else request.getfixturevalue(request.param)


@pytest.fixture(scope="module", params=["inline", "local", "ray", "ray_store", "slurm"])
def trainer(request):
    """Those that train; a replay has nothing to time, and its measurements are as they were recorded."""
    return Inline(Worker()) if request.param == "inline" else request.getfixturevalue(request.param)


@pytest.fixture
def evaluate(config, cache):
    return EvaluateJob("valid", to_dict(config), str(cache))


@pytest.fixture
def segment(config, cache, tmp_path):
    """The job of training to evaluation ``until``."""

    def make(at, until):
        return TrainJob(
            Segment(0, 0, at, until), to_dict(config), str(tmp_path / "trial"), str(cache)
        )

    return make


def answers(launcher, job, slot=0):
    """Every message of a job, to its end."""
    launcher.submit(slot, job)
    return rest(launcher, slot)


def rest(launcher, slot=0):
    found, until = [], time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found += [message for at, message in launcher.wait(1.0) if at == slot]
        if found and isinstance(found[-1], Ending):
            return found
    raise AssertionError(f"the job did not end; it said {found}")


def until_it_trains(launcher):
    """What is said until the first points come."""
    found, until = [], time.monotonic() + PATIENCE
    while not steps_of(found):
        assert time.monotonic() < until, found
        found += [message for _, message in launcher.wait(1.0)]
    return found


def measured(launcher, job):
    *_, last = answers(launcher, job)
    assert isinstance(last, Measured), last
    return last.measurement.rung, last.measurement.metrics


def steps_of(messages):
    return [
        step for message in messages if isinstance(message, Points) for step, _, _ in message.points
    ]


# ---- every launcher ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(config, cache, tmp_path_factory):
    """The measurements of the same jobs by the handler itself, no launcher between."""
    folder, worker = tmp_path_factory.mktemp("reference"), Worker()
    [found] = worker(EvaluateJob("valid", to_dict(config), str(cache)))
    *_, last = worker(TrainJob(Segment(0, 0, 0, 2), to_dict(config), str(folder), str(cache)))
    return found.metrics, last.measurement.metrics


def test_a_model_and_a_trial_measure_the_same_wherever_they_run(
    launcher, evaluate, segment, reference
):
    untuned = answers(launcher, evaluate)[-1]
    first, last = measured(launcher, segment(0, 1)), measured(launcher, segment(1, 2))

    assert isinstance(untuned, Evaluated)
    assert untuned.metrics == reference[0]
    assert (first[0], last[0]) == (1, 2)
    assert last[1] == reference[1]


def test_a_slot_is_idle_until_it_has_a_job_and_again_when_the_job_ends(launcher, evaluate):
    before = launcher.idle
    launcher.submit(0, evaluate)
    during = launcher.idle
    rest(launcher)

    assert (before, during, launcher.idle, launcher.workers) == ([0], [], [0], 1)


def test_a_slot_that_works_takes_no_second_job(launcher, evaluate):
    launcher.submit(0, evaluate)

    with pytest.raises(RuntimeError, match="slot 0 is not idle"):
        launcher.submit(0, evaluate)
    assert isinstance(rest(launcher)[-1], Evaluated)


def test_the_points_of_a_segment_come_before_its_measurement(launcher, segment):
    *before, last = answers(launcher, segment(0, 1))

    assert steps_of(before) == list(range(1, last.measurement.step + 1))


def test_a_bug_in_a_job_is_told_with_its_traceback_and_the_slot_takes_the_next(launcher, evaluate):
    failed = answers(launcher, replace(evaluate, split="no such split"))[-1]
    after = answers(launcher, evaluate)[-1]

    assert (type(failed), failed.failure) == (Failed, "bug")
    assert "no such split" in failed.message
    assert failed.traceback.startswith("Traceback (most recent call last)")
    assert isinstance(after, Evaluated)


@dataclass(frozen=True)
class Nonsense:
    """A job of another version of embsearch."""

    kind: ClassVar = "nonsense"


def test_a_job_that_nobody_knows_is_a_bug_too(launcher):
    failed = answers(launcher, Nonsense())[-1]

    assert (type(failed), failed.failure) == (Failed, "bug")
    assert "onsense" in failed.message


def test_a_mistake_of_the_users_is_told_as_one(launcher, evaluate):
    failed = answers(launcher, replace(evaluate, model="/no/such/folder"))[-1]

    assert (type(failed), failed.failure) == (Failed, "data")
    assert "/no/such/folder" in failed.message


def test_a_probe_times_real_steps_and_what_a_trial_leaves(trainer, config, cache, tmp_path):
    found = []
    for what in ("speed", "edge"):
        last = answers(trainer, ProbeJob(what, to_dict(config), str(tmp_path / what), str(cache)))[
            -1
        ]
        assert isinstance(last, Probed), last
        found.append(last.values)
    speed, edge = found

    assert 0 < speed["step"] < 10
    assert speed["steps"] >= 2
    assert (edge["texts"], edge["cached"], edge["halved"]) == (48, False, False)
    assert 1 <= edge["chunks"] <= edge["distinct"] <= 48
    assert min(edge["measure"], edge["resume"]) > 0
    assert edge["checkpoint"] == (tmp_path / "edge/checkpoint.safetensors").stat().st_size
    assert edge["model"] > edge["checkpoint"] / 4
    assert edge["peak"] > 50_000_000


def test_an_evaluation_may_be_of_fewer_rows(trainer, evaluate):
    whole, part = (answers(trainer, replace(evaluate, most=most))[-1].metrics for most in (0, 12))

    assert whole == answers(trainer, evaluate)[-1].metrics
    assert part != whole


def test_waiting_for_nothing_gives_nothing(launcher):
    launcher.wait(0.05)  # whatever was still to be read

    assert launcher.wait(0.05) == []


@pytest.mark.parametrize("kind", ["inline", "local", "ray", "ray_store", "slurm"])
def test_a_segment_that_is_halted_goes_on_elsewhere_and_measures_the_same(
    kind, config, cache, tmp_path, request
):
    config = with_values(
        config, {"train.texts": 200_000, "evaluate.at": [1.0]}
    )  # half a minute of training
    job = TrainJob(Segment(0, 0, 0, 1), to_dict(config), str(tmp_path / "trial"), str(cache))
    if kind == "inline":
        launcher = Inline(Worker())
    elif kind == "local":
        launcher = Local(python_module("embsearch.worker"), 1, 1, tmp_path)
    elif kind == "slurm":
        launcher = slurm_of(request.getfixturevalue("slurm_cluster"), tmp_path / "slurm")
    else:
        files = "store" if kind == "ray_store" else "auto"
        launcher = on_ray(request.getfixturevalue("ray_cluster"), tmp_path / "workers", files)
    launcher.submit(0, job)
    before = []
    if kind == "inline":
        threading.Timer(4.0, launcher.halt).start()
    else:
        before += until_it_trains(launcher)
        launcher.halt()

    before += rest(launcher)
    last = before.pop()
    idle = launcher.idle
    launcher.close()

    steps = steps_of(before)
    at = json.loads(
        safe_open(tmp_path / "trial/checkpoint.safetensors", "pt").metadata()["position"]
    )
    assert (last, idle) == (Halted(), [])
    assert steps == list(range(1, at["step"] + 1))
    assert 0 < at["step"] < 200_000 / 48


# ---- workers that are processes ----------------------------------------------------------------


def stand_in(code):
    """A worker that is a few lines of Python."""
    return [sys.executable, "-c", code]


ECHO = """
import json, os, sys, time
for line in sys.stdin:
    do = json.loads(line)["what"]
    if do == "hang": time.sleep(600)
    if do == "die": print("last words", file=sys.stderr, flush=True); os._exit(3)
    if do == "talk":
        for word in ("5", "not JSON", '["kind"]', '{"no": "kind"}', '{"kind": "probed"}'): print(word)
    print(json.dumps({"kind": "probed", "values": do}), flush=True)
"""
HANG, DIE, WORK, TALK = (ProbeJob(what, {}, "", "") for what in ("hang", "die", "work", "talk"))


NAMES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "EMBSEARCH_GPU_SHARERS")
SEES = ECHO.replace('"values": do', f'"values": [os.environ[name] for name in {NAMES}]')


@pytest.fixture
def echo(tmp_path):
    """Two slots of a worker that answers at once, hangs or dies, as its job says; given 1 s to answer."""
    launcher = Local(stand_in(ECHO), 2, 1, tmp_path / "logs", timeout=1.0)
    yield launcher
    launcher.close()


def test_a_worker_killed_in_a_task_is_told_and_the_slot_goes_on_from_the_checkpoint(
    local, segment, reference
):
    first = measured(local, segment(0, 1))
    local.submit(0, segment(1, 2))
    os.kill(local.transport.workers[0].process.pid, signal.SIGKILL)

    died = rest(local)[-1]

    assert (type(died), died.failure, first[0]) == (Died, "killed", 1)
    assert "worker 0 was killed by SIGKILL" in died.message
    assert measured(local, segment(1, 2)) == (2, reference[1])


def test_a_worker_that_hangs_is_killed_when_its_time_is_up(echo):
    died = answers(echo, HANG)[-1]

    assert (type(died), died.failure) == (Died, "hung")
    assert "worker 0 gave no sign of life for 1 s and was killed" in died.message
    assert isinstance(answers(echo, WORK)[-1], Probed)


def test_a_worker_that_hangs_takes_with_it_whatever_it_started(tmp_path):
    children = """
import subprocess
group = subprocess.Popen(["sleep", "600"])
own = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(json.dumps({"kind": "points", "points": [[group.pid, 0, {}], [own.pid, 0, {}]]}), flush=True)
time.sleep(600)
"""
    code = ECHO.replace('if do == "hang": time.sleep(600)', f"exec({children!r})")
    launcher = Local(stand_in(code), 1, 1, tmp_path / "logs", timeout=1.0)
    told, died = answers(launcher, HANG)
    launcher.close()

    assert died.failure == "hung"
    assert gone([pid for pid, _, _ in told.points])


def test_a_worker_that_leaves_children_behind_takes_them_with_it(tmp_path):
    code = ECHO.replace(
        'if do == "die":',
        'if do == "die": import subprocess; child = subprocess.Popen(["sleep", "600"]);'
        ' print(json.dumps({"kind": "points", "points": [[child.pid, 0, {}]]}), flush=True);',
    )
    launcher = Local(stand_in(code), 1, 1, tmp_path / "logs")
    told, died = answers(launcher, DIE)
    launcher.close()

    assert "ended with exit code 3" in died.message
    assert gone([pid for pid, _, _ in told.points])


def test_a_worker_without_a_job_ends_on_sigterm_and_is_replaced(local, evaluate):
    answers(local, evaluate)  # it has begun to listen
    process = local.transport.workers[0].process
    process.terminate()

    [(slot, died)] = local.wait(20)

    assert (slot, type(died), died.idle, process.returncode, local.idle) == (0, Died, True, 0, [0])


def test_a_worker_that_is_killed_after_one_that_hung_did_not_hang(echo):
    hung = answers(echo, HANG)[-1]
    echo.submit(0, HANG)
    os.kill(echo.transport.workers[0].process.pid, signal.SIGKILL)

    assert (hung.failure, rest(echo)[-1].failure) == ("hung", "killed")


def test_a_worker_that_ends_by_itself_is_told_with_the_end_of_its_log(echo):
    died = answers(echo, DIE, slot=1)[-1]

    assert died.failure == "killed"
    assert "worker 1 ended with exit code 3" in died.message
    assert "last words" in died.message
    assert isinstance(answers(echo, WORK, slot=1)[-1], Probed)


def test_a_worker_that_dies_without_a_job_is_replaced(echo):
    os.kill(echo.transport.workers[0].process.pid, signal.SIGKILL)

    [(slot, died)] = echo.wait(20)

    assert (slot, type(died), died.idle, echo.idle) == (0, Died, True, [0, 1])
    assert isinstance(answers(echo, WORK)[-1], Probed)


def test_a_death_in_one_slot_leaves_the_job_in_the_other(echo):
    echo.submit(0, DIE)
    echo.submit(1, WORK)

    found, until = {}, time.monotonic() + 20
    while len(found) < 2 and time.monotonic() < until:
        found |= {slot: type(message) for slot, message in echo.wait(1.0)}

    assert found == {0: Died, 1: Probed}
    assert echo.idle == [0, 1]


def test_what_a_library_prints_between_the_messages_is_no_message(echo):
    assert [type(message) for message in answers(echo, TALK)] == [Probed]


def test_a_worker_sees_its_gpu_its_threads_and_how_many_share_the_gpu(tmp_path):
    launcher = Local(stand_in(SEES), 3, 5, tmp_path, gpus=["4", "6"])

    found = [answers(launcher, WORK, slot)[-1].values for slot in range(3)]
    launcher.close()

    assert found == [["4", "5", "2"], ["6", "5", "2"], ["4", "5", "2"]]


def test_a_worker_that_trains_on_several_gpus_sees_a_set_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,4,6,7")
    monkeypatch.setattr("embsearch.launch.local.python_module", lambda module: stand_in(SEES))
    config = with_values(build({"device": "cuda"}), {"train.devices": 2, "launcher.threads": 6})

    found = {}
    for per_gpu in (1, 2):
        launcher = launchers.launcher(with_values(config, {"launcher.per_gpu": per_gpu}))(tmp_path)
        found[per_gpu] = [answers(launcher, WORK, slot)[-1].values for slot in launcher.idle]
        launcher.close()

    assert found[1] == [["0,2", "6", "1"], ["4,6", "6", "1"]]
    assert found[2] == [["0,2", "6", "2"], ["4,6", "6", "2"]] * 2


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (
            {"train.devices": 4},
            r"train\.devices=4: this machine has 3 GPUs \(0, 1, 2\); use train\.devices=3 or fewer",
        ),
        (
            {"train.devices": 2, "device": "cuda:1"},
            r"device=cuda:1: names one GPU, and train\.devices=2 wants 2",
        ),
    ],
)
def test_more_gpus_a_trial_than_there_are_is_said_before_anything_starts(
    monkeypatch, tmp_path, values, fault
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")

    with pytest.raises(ConfigError, match=fault):
        launchers.launcher(with_values(build({}), values))(tmp_path)


def test_closing_ends_every_worker_also_one_that_works(echo):
    pids = [worker.process.pid for worker in echo.transport.workers]
    echo.submit(0, HANG)

    echo.close()

    assert gone(pids)


OWNER = """
import sys, time
from pathlib import Path
from embsearch.launch.base import Ready
from embsearch.launch.local import Local, python_module
launcher = Local(python_module("embsearch.worker"), 1, 1, Path(sys.argv[1]))
while not any(isinstance(m, Ready) for _, m in launcher.wait(1.0)): pass
print(launcher.transport.workers[0].process.pid, flush=True)
time.sleep(600)
"""


def test_workers_vanish_when_their_owner_is_killed(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    worker = int(owner.stdout.readline())
    assert psutil.pid_exists(worker)

    owner.kill()
    owner.wait()

    assert gone([worker])
