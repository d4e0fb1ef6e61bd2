"""What every launcher promises, on each of them; then what only processes can go through."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from processes import gone
from safetensors import safe_open

from embsearch.cli import launchers
from embsearch.config.build import build, to_dict, with_values
from embsearch.data.load import prepare_dataset
from embsearch.errors import ConfigError
from embsearch.launch.base import ENDS
from embsearch.launch.curves import Curve, Recorded
from embsearch.launch.inline import Inline
from embsearch.launch.local import Local, python_module
from embsearch.launch.replay import Replay, VirtualClock
from embsearch.launch.slurm.launcher import Slurm
from embsearch.launch.slurm.queue import Queue
from embsearch.values import Measurement
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
    return once_up(Slurm(folder, Queue(folder / "logs", folder.name, 1, 1, {"time": 60}, {}, []), 1))


@pytest.fixture(scope="module")
def slurm(slurm_cluster, tmp_path_factory):
    launcher = slurm_of(slurm_cluster, tmp_path_factory.mktemp("slurm"))
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def replay(config, cache, tmp_path_factory):
    """The trial of these tests, recorded once and played from then on."""
    task = {"config": to_dict(config), "cache": str(cache), "folder": str(tmp_path_factory.mktemp("recorded"))}
    worker, points, measured = Worker(), [], []
    [untuned] = worker(task | {"do": "evaluate", "split": "valid"})
    for at in (0, 1):
        position = {"trial": 0, "attempt": 0, "from_checkpoint": at, "until": at + 1}
        for message in worker(task | {"do": "segment", "segment": position}):
            points += [(step, metrics) for step, _, metrics in message.get("points", ())]
            measured += [Measurement(**message["measurement"])] if message["kind"] == "measured" else []
    curves = Recorded(config.evaluate.at, [{}], [Curve(tuple(measured), tuple(points))], untuned["metrics"], "a test")
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

    launcher = once_up(Ray("embsearch.worker:begin", 1, cluster.Room(), folder, files=files, leave=False))
    assert launcher._slots[0].shared == (files != "store")
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
    return {"do": "evaluate", "config": to_dict(config), "cache": str(cache), "split": "valid"}


@pytest.fixture
def segment(config, cache, tmp_path):
    """The task of training to evaluation ``until``."""

    def make(at, until):
        position = {"trial": 0, "attempt": 0, "from_checkpoint": at, "until": until}
        return {
            "do": "segment", "config": to_dict(config), "cache": str(cache), "folder": str(tmp_path / "trial"),
            "segment": position,
        }  # fmt: skip

    return make


def answers(launcher, task, slot=0):
    """Every message of a task, to its end."""
    launcher.submit(slot, task)
    return rest(launcher, slot)


def rest(launcher, slot=0):
    found, until = [], time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found += [message for at, message in launcher.wait(1.0) if at == slot]
        if found and found[-1]["kind"] in ENDS:
            return found
    raise AssertionError(f"the task did not end; it said {found}")


def measured(launcher, task):
    *_, last = answers(launcher, task)
    assert last["kind"] == "measured", last
    return last["measurement"]["rung"], last["measurement"]["metrics"]


# ---- every launcher ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(config, cache, tmp_path_factory):
    """The measurements of the same tasks by the handler itself, no launcher between."""
    folder, worker = tmp_path_factory.mktemp("reference"), Worker()
    task = {"config": to_dict(config), "cache": str(cache), "folder": str(folder)}
    [found] = worker(task | {"do": "evaluate", "split": "valid"})
    *_, last = worker(
        task | {"do": "segment", "segment": {"trial": 0, "attempt": 0, "from_checkpoint": 0, "until": 2}}
    )
    return found["metrics"], last["measurement"]["metrics"]


def test_a_model_and_a_trial_measure_the_same_wherever_they_run(launcher, evaluate, segment, reference):
    untuned = answers(launcher, evaluate)[-1]
    first, last = measured(launcher, segment(0, 1)), measured(launcher, segment(1, 2))

    assert (untuned["kind"], untuned["metrics"]) == ("evaluated", reference[0])
    assert (first[0], last[0]) == (1, 2)
    assert last[1] == reference[1]


def test_a_slot_is_idle_until_it_has_a_task_and_again_when_the_task_ends(launcher, evaluate):
    before = launcher.idle
    launcher.submit(0, evaluate)
    during = launcher.idle
    rest(launcher)

    assert (before, during, launcher.idle, launcher.workers) == ([0], [], [0], 1)


def test_a_slot_that_works_takes_no_second_task(launcher, evaluate):
    launcher.submit(0, evaluate)

    with pytest.raises(RuntimeError, match="slot 0 is not idle"):
        launcher.submit(0, evaluate)
    assert rest(launcher)[-1]["kind"] == "evaluated"


def test_the_points_of_a_segment_come_before_its_measurement(launcher, segment):
    *before, last = answers(launcher, segment(0, 1))

    steps = [step for message in before if message["kind"] == "points" for step, _, _ in message["points"]]
    assert steps == list(range(1, last["measurement"]["step"] + 1))


def test_a_bug_in_a_task_is_told_with_its_traceback_and_the_slot_takes_the_next(launcher, evaluate):
    failed = answers(launcher, evaluate | {"split": "no such split"})[-1]
    after = answers(launcher, evaluate)[-1]

    assert (failed["kind"], failed["failure"]) == ("failed", "bug")
    assert "no such split" in failed["message"]
    assert failed["traceback"].startswith("Traceback (most recent call last)")
    assert after["kind"] == "evaluated"


def test_a_task_that_nobody_knows_is_a_bug_too(launcher):
    failed = answers(launcher, {"do": "nonsense"})[-1]

    assert (failed["kind"], failed["failure"]) == ("failed", "bug")


def test_a_mistake_of_the_users_is_told_as_one(launcher, evaluate):
    failed = answers(launcher, evaluate | {"model": "/no/such/folder"})[-1]

    assert (failed["kind"], failed["failure"]) == ("failed", "data")
    assert "/no/such/folder" in failed["message"]


def test_a_probe_times_real_steps_and_what_a_trial_leaves(trainer, config, cache, tmp_path):
    probe = {"do": "probe", "config": to_dict(config), "cache": str(cache)}
    speed = answers(trainer, probe | {"what": "speed", "folder": str(tmp_path / "speed")})[-1]
    edge = answers(trainer, probe | {"what": "edge", "folder": str(tmp_path / "edge")})[-1]

    assert (speed["kind"], edge["kind"]) == ("probed", "probed")
    assert 0 < speed["step"] < 10
    assert speed["steps"] >= 2
    assert (edge["texts"], edge["cached"], edge["halved"]) == (48, False, False)
    assert 1 <= edge["chunks"] <= edge["distinct"] <= 48
    assert min(edge["measure"], edge["resume"]) > 0
    assert edge["checkpoint"] == (tmp_path / "edge/checkpoint.safetensors").stat().st_size
    assert edge["model"] > edge["checkpoint"] / 4
    assert edge["peak"] > 50_000_000


def test_an_evaluation_may_be_of_fewer_rows(trainer, evaluate):
    whole, part = (answers(trainer, evaluate | {"most": most})[-1]["metrics"] for most in (0, 12))

    assert whole == answers(trainer, evaluate)[-1]["metrics"]
    assert part != whole


def test_waiting_for_nothing_gives_nothing(launcher):
    launcher.wait(0.05)  # whatever was still to be read

    assert launcher.wait(0.05) == []


@pytest.mark.parametrize("kind", ["inline", "local", "ray", "ray_store", "slurm"])
def test_a_segment_that_is_halted_goes_on_elsewhere_and_measures_the_same(kind, config, cache, tmp_path, request):
    config = with_values(config, {"train.texts": 200_000, "evaluate.at": [1.0]})  # half a minute of training
    task = {"do": "segment", "config": to_dict(config), "cache": str(cache), "folder": str(tmp_path / "trial")}
    task["segment"] = {"trial": 0, "attempt": 0, "from_checkpoint": 0, "until": 1}
    if kind == "inline":
        launcher = Inline(Worker())
    elif kind == "local":
        launcher = Local(python_module("embsearch.worker"), 1, 1, tmp_path)
    elif kind == "slurm":
        launcher = slurm_of(request.getfixturevalue("slurm_cluster"), tmp_path / "slurm")
    else:
        files = "store" if kind == "ray_store" else "auto"
        launcher = on_ray(request.getfixturevalue("ray_cluster"), tmp_path / "workers", files)
    launcher.submit(0, task)
    threading.Timer(12.0 if kind == "local" else 4.0, launcher.halt).start()

    *before, last = rest(launcher)
    idle = launcher.idle
    launcher.close()

    steps = [step for message in before if message["kind"] == "points" for step, _, _ in message["points"]]
    at = json.loads(safe_open(tmp_path / "trial/checkpoint.safetensors", "pt").metadata()["position"])
    assert (last, idle) == ({"kind": "halted"}, [])
    assert steps == list(range(1, at["step"] + 1))
    assert 0 < at["step"] < 200_000 / 48


# ---- workers that are processes ----------------------------------------------------------------


def stand_in(code):
    """A worker that is a few lines of Python."""
    return [sys.executable, "-c", code]


ECHO = """
import json, os, sys, time
for line in sys.stdin:
    task = json.loads(line)
    if task["do"] == "hang": time.sleep(600)
    if task["do"] == "die": print("last words", file=sys.stderr, flush=True); os._exit(3)
    if task["do"] == "talk":
        for word in ("5", "not JSON", '["kind"]', '{"no": "kind"}'): print(word)
    print(json.dumps({"kind": "evaluated", "metrics": task}), flush=True)
"""


NAMES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "EMBSEARCH_GPU_SHARERS")
SEES = ECHO.replace('"metrics": task', f'"metrics": [os.environ[name] for name in {NAMES}]')


@pytest.fixture
def echo(tmp_path):
    """Two slots of a worker that answers at once, hangs or dies, as its task says; given 1 s to answer."""
    launcher = Local(stand_in(ECHO), 2, 1, tmp_path / "logs", timeout=1.0)
    yield launcher
    launcher.close()


def test_a_worker_killed_in_a_task_is_told_and_the_slot_goes_on_from_the_checkpoint(local, segment, reference):
    first = measured(local, segment(0, 1))
    local.submit(0, segment(1, 2))
    os.kill(local._slots[0].process.pid, signal.SIGKILL)

    died = rest(local)[-1]

    assert (died["kind"], died["failure"], first[0]) == ("died", "killed", 1)
    assert "worker 0 was killed by SIGKILL" in died["message"]
    assert measured(local, segment(1, 2)) == (2, reference[1])


def test_a_worker_that_hangs_is_killed_when_its_time_is_up(echo):
    died = answers(echo, {"do": "hang"})[-1]

    assert (died["kind"], died["failure"]) == ("died", "hung")
    assert "worker 0 gave no sign of life for 1 s and was killed" in died["message"]
    assert answers(echo, {"do": "work"})[-1]["kind"] == "evaluated"


def test_a_worker_that_hangs_takes_with_it_whatever_it_started(tmp_path):
    children = """
import subprocess
group = subprocess.Popen(["sleep", "600"])
own = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(json.dumps({"kind": "points", "points": [group.pid, own.pid]}), flush=True)
time.sleep(600)
"""
    code = ECHO.replace('if task["do"] == "hang": time.sleep(600)', f"exec({children!r})")
    launcher = Local(stand_in(code), 1, 1, tmp_path / "logs", timeout=1.0)
    told, died = answers(launcher, {"do": "hang"})
    launcher.close()

    assert died["failure"] == "hung"
    assert gone(told["points"])


def test_a_worker_that_leaves_children_behind_takes_them_with_it(tmp_path):
    code = ECHO.replace(
        'if task["do"] == "die":',
        'if task["do"] == "die": import subprocess; child = subprocess.Popen(["sleep", "600"]);'
        ' print(json.dumps({"kind": "points", "points": [child.pid]}), flush=True);',
    )
    launcher = Local(stand_in(code), 1, 1, tmp_path / "logs")
    told, died = answers(launcher, {"do": "die"})
    launcher.close()

    assert "ended with exit code 3" in died["message"]
    assert gone(told["points"])


def test_a_worker_without_a_task_ends_on_sigterm_and_is_replaced(local, evaluate):
    answers(local, evaluate)  # it has begun to listen
    process = local._slots[0].process
    process.terminate()

    [(slot, died)] = local.wait(20)

    assert (slot, died["kind"], died["idle"], process.returncode, local.idle) == (0, "died", True, 0, [0])


def test_a_task_that_hung_once_is_given_out_again_as_it_was(echo):
    task = {"do": "hang"}
    answers(echo, task)
    echo.submit(0, task)
    os.kill(echo._slots[0].process.pid, signal.SIGKILL)

    assert (rest(echo)[-1]["failure"], task) == ("killed", {"do": "hang"})


def test_a_worker_that_ends_by_itself_is_told_with_the_end_of_its_log(echo):
    died = answers(echo, {"do": "die"}, slot=1)[-1]

    assert died["failure"] == "killed"
    assert "worker 1 ended with exit code 3" in died["message"]
    assert "last words" in died["message"]
    assert answers(echo, {"do": "work"}, slot=1)[-1]["kind"] == "evaluated"


def test_a_worker_that_dies_without_a_task_is_replaced(echo):
    os.kill(echo._slots[0].process.pid, signal.SIGKILL)

    [(slot, died)] = echo.wait(20)

    assert (slot, died["kind"], died["idle"], echo.idle) == (0, "died", True, [0, 1])
    assert answers(echo, {"do": "work"})[-1]["kind"] == "evaluated"


def test_a_death_in_one_slot_leaves_the_task_in_the_other(echo):
    echo.submit(0, {"do": "die"})
    echo.submit(1, {"do": "work"})

    found, until = {}, time.monotonic() + 20
    while len(found) < 2 and time.monotonic() < until:
        found |= {slot: message["kind"] for slot, message in echo.wait(1.0)}

    assert found == {0: "died", 1: "evaluated"}
    assert echo.idle == [0, 1]


def test_what_a_library_prints_between_the_messages_is_no_message(echo):
    assert [m["kind"] for m in answers(echo, {"do": "talk"})] == ["evaluated"]


def test_a_worker_sees_its_gpu_its_threads_and_how_many_share_the_gpu(tmp_path):
    launcher = Local(stand_in(SEES), 3, 5, tmp_path, gpus=["4", "6"])

    found = [answers(launcher, {"do": "work"}, slot)[-1]["metrics"] for slot in range(3)]
    launcher.close()

    assert found == [["4", "5", "2"], ["6", "5", "2"], ["4", "5", "2"]]


def test_a_worker_that_trains_on_several_gpus_sees_a_set_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,4,6,7")
    monkeypatch.setattr("embsearch.launch.local.python_module", lambda module: stand_in(SEES))
    config = with_values(build({"device": "cuda"}), {"train.devices": 2, "launcher.threads": 6})

    found = {}
    for per_gpu in (1, 2):
        launcher = launchers.launcher(with_values(config, {"launcher.per_gpu": per_gpu}))(tmp_path)
        found[per_gpu] = [answers(launcher, {"do": "work"}, slot)[-1]["metrics"] for slot in launcher.idle]
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
        ({"train.devices": 2, "device": "cuda:1"}, r"device=cuda:1: names one GPU, and train\.devices=2 wants 2"),
    ],
)
def test_more_gpus_a_trial_than_there_are_is_said_before_anything_starts(monkeypatch, tmp_path, values, fault):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")

    with pytest.raises(ConfigError, match=fault):
        launchers.launcher(with_values(build({}), values))(tmp_path)


def test_closing_ends_every_worker_also_one_that_works(echo):
    pids = [slot.process.pid for slot in echo._slots]
    echo.submit(0, {"do": "hang"})

    echo.close()

    assert gone(pids)


OWNER = """
import sys, time
from pathlib import Path
from embsearch.launch.local import Local, python_module
launcher = Local(python_module("embsearch.worker"), 1, 1, Path(sys.argv[1]))
while not any(m["kind"] == "ready" for _, m in launcher.wait(1.0)): pass
print(launcher._slots[0].process.pid, flush=True)
time.sleep(600)
"""


def test_workers_vanish_when_their_owner_is_killed(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    worker = int(owner.stdout.readline())
    assert psutil.pid_exists(worker)

    owner.kill()
    owner.wait()

    assert gone([worker])
