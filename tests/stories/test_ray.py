"""Studies on real Ray clusters: the result of one process, and nodes, coordinators and addresses that fail."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import psutil
import pytest

pytest.importorskip("ray", reason="pip install 'embsearch[ray]'")

pytestmark = pytest.mark.cluster("ray")

# every trial's values are its own, whoever trains it and when
ALONE = ["sampler=qmc", "scheduler=none", "stop.trials=8", "train.texts=8000", "evaluate.at=[0.25,0.5,1.0]",
         "train.batch_size=16", "~space.train.batch_size"]  # fmt: skip
SIX = [*ALONE, "stop.trials=6"]
PATIENCE = 300


def ended(process, code=0):
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    assert "Traceback" not in err, err
    return out + err


def bests(home, most=8):
    return {
        n: e["value"] for n in range(min(most, len(home.trials))) for e in home.events("ended", n)
    }


def whole(home, trials):
    """Exactly so many trials, each ended once, every evaluation there once and every step of it logged once."""
    assert home.trials == [f"t{n:04d}" for n in range(trials)]
    for number in range(trials):
        assert len(home.events("ended", number)) == 1
        rungs = [event["rung"] for event in home.events("measured", number)]
        assert rungs == list(range(1, len(rungs) + 1))
        steps = [step for event in home.events("points", number) for step, _, _ in event["points"]]
        assert steps == list(range(1, home.events("measured", number)[-1]["step"] + 1))


def test_a_study_on_ray_finds_what_a_study_in_one_process_finds(calm, home):
    words = ["launcher=ray", "launcher.workers=1", "launcher.threads=1"]
    said = ended(home.start("search", *words))
    assert "Ray: started on this machine, 1 node" in said
    assert (home.params(), home.values()) == (calm.params(), calm.values())
    assert home.result["best"] == calm.result["best"]
    assert home.result["table"] == calm.result["table"]


@contextmanager
def cluster_of(nodes):
    """A head that trains nothing, and nodes with one CPU each; on a real cluster each would be a machine."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield made, [made.add_node(num_cpus=1) for _ in range(nodes)]
    finally:
        made.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_bert, judgements_csv):
    from home import Home

    home = Home(tmp_path_factory.mktemp("undisturbed") / "home", tiny_bert, judgements_csv)
    ended(home.start("search", *ALONE))
    return home


def until_trials_train(home, process, least):
    """Until the trial of that number, and another one, have begun to train."""
    until = time.monotonic() + PATIENCE
    while not (home.seen("points", least) and not home.seen("ended", least)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)


def test_sigterm_saves_checkpoints_and_what_was_started_here_ends(home, undisturbed):
    words = ["launcher=ray", "launcher.workers=2"]
    first = home.start("search", *SIX, *words)
    until_trials_train(home, first, 2)
    family = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGTERM)
    assert ended(first, 130).endswith(
        "embsearch: stopped; the same command goes on with this study\n"
    )
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    assert list(home.study.glob("trials/*/checkpoint.safetensors"))

    ended(home.start("search", *SIX, *words))
    whole(home, 6)
    assert bests(home) == bests(undisturbed, 6)


def test_workers_that_find_no_room_wait_and_the_study_goes_on_without_them(home):
    with cluster_of(1) as (cluster, _):
        words = ["launcher=ray", f"launcher.address={cluster.address}", "launcher.workers=3"]
        said = ended(
            home.start("search", *ALONE, "stop.trials=12", *words)
        )  # longer than it waits before it says so
    assert "Ray: 1 of 3 workers are up, each takes CPU 1; free: " in said
    whole(home, 12)


@pytest.fixture(scope="module")
def two_nodes():
    """A cluster for the tests from here on; who takes a node away puts another in its place."""
    with cluster_of(2) as (cluster, nodes):
        yield cluster, nodes


@pytest.mark.parametrize("files", ["auto", "store"])
def test_a_node_that_dies_twice_costs_a_study_nothing_but_time(home, undisturbed, two_nodes, files):
    cluster, nodes = two_nodes
    cluster.wait_for_nodes()  # the cluster learns late that the node of the test before is gone
    words = [
        "launcher=ray",
        f"launcher.address={cluster.address}",
        "launcher.workers=2",
        f"launcher.files={files}",
    ]
    process = home.start("search", *ALONE, *words)
    for least in (2, 5):
        until_trials_train(home, process, least)
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
        nodes.append(cluster.add_node(num_cpus=1))
    said = ended(process)

    assert f"Ray: joined the cluster at {cluster.address}, 3 nodes, 2 CPUs" in said
    whole(home, 8)
    assert bests(home) == bests(undisturbed)
    assert home.result["best"] == undisturbed.result["best"]
    assert sum(len(home.events("failed", n)) for n in range(8)) >= 2


def test_a_coordinator_that_is_killed_leaves_no_actor_behind_and_its_study_goes_on(
    home, undisturbed, two_nodes
):
    words = ["launcher=ray", f"launcher.address={two_nodes[0].address}", "launcher.workers=2"]
    first = home.start("search", *SIX, *words)
    until_trials_train(home, first, 2)
    first.kill()
    first.communicate()
    ended(home.start("search", *SIX, *words))

    whole(home, 6)
    assert bests(home) == bests(undisturbed, 6)
    assert [home.events("failed", n) for n in range(6)] == [[]] * 6


def test_a_cluster_behind_rays_client_whose_first_server_for_the_session_dies(
    home, calm, two_nodes
):
    port = 10_000 + time.time_ns() // 1000 % 10_000  # Ray gives those for sessions from 23,000 on
    server = subprocess.Popen(
        [sys.executable, "-m", "ray.util.client.server", f"--address={two_nodes[0].address}", "--host=127.0.0.1",
         f"--port={port}", "--mode=proxy"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        words = ["launcher=ray", f"launcher.address=ray://127.0.0.1:{port}", "launcher.workers=1"]
        process = home.start("search", *words)
        for_the_session(server, process).kill()
        said = ended(process)
    finally:
        server.kill()
        server.wait()
    assert f"Ray: joined the cluster at ray://127.0.0.1:{port}" in said
    assert home.values() == calm.values()


def for_the_session(server, process):
    """The server that Ray's client server starts for the session of ``process``, as soon as there is one."""
    while process.poll() is None:
        for child in psutil.Process(server.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "--mode=specific-server" in child.cmdline():
                    return child
        time.sleep(0.05)
    raise AssertionError(ended(process))


def test_two_studies_on_one_cluster_do_not_see_each_other(home, undisturbed, two_nodes):
    other = home.at(home.folder.with_name("other"))
    words = [*SIX, "launcher=ray", f"launcher.address={two_nodes[0].address}", "launcher.workers=1"]
    both = [one.start("search", *words) for one in (home, other)]
    threads = [threading.Thread(target=ended, args=(process,)) for process in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in (home, other):
        whole(one, 6)
        assert bests(one) == bests(undisturbed, 6)


def test_an_address_where_no_cluster_is(home):
    said = ended(home.start("search", "launcher=ray", "launcher.address=127.0.0.1:1"), 2)
    assert "launcher.address=127.0.0.1:1: no Ray cluster answers there" in said
    assert "start one with 'ray start --head', leave the address out" in said
    assert not home.study.exists()
