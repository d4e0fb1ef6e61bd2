"""Workers that are Ray actors: deaths, silence, workers that cannot start, checkpoints that come home on the way."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="pip install 'embsearch[ray]'")

from embsearch.errors import UserError
from embsearch.launch.base import Died, Ending, Note, Points, Probed, ProbeJob, TrainJob
from embsearch.launch.ray import cluster
from embsearch.launch.ray.cluster import Room
from embsearch.launch.ray.launcher import Ray
from embsearch.launch.ray.parcels import CHECKPOINT
from embsearch.values import Segment

pytestmark = pytest.mark.cluster("ray")
PATIENCE = 60
HANG, DIE, WORK = (ProbeJob(what, {}, "", "") for what in ("hang", "die", "work"))


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PYTHONPATH",
            os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        )
        cluster.connect("local", 2)
        yield
        cluster.disconnect()


@pytest.fixture
def make(tmp_path):
    made = []

    def start(handler="Echo", workers=1, **options):
        made.append(
            Ray(
                f"ray_handlers:{handler}",
                workers,
                Room(),
                tmp_path / "workers",
                leave=False,
                **options,
            )
        )
        return made[-1]

    yield start
    for launcher in made:
        launcher.close()


def up(launcher, workers=1):
    until = time.monotonic() + PATIENCE
    while len(launcher.idle) < workers:
        launcher.wait(1.0)
        assert time.monotonic() < until
    return launcher


def train(folder, until, die_at=None):
    """A trial of so many steps. Its folder is made."""
    folder.mkdir(exist_ok=True)
    return TrainJob(Segment(0, 0, 0, until), {"die_at": die_at}, str(folder), "")


def answer(launcher, job, slot=0):
    launcher.submit(slot, job)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for at, message in launcher.wait(1.0):
            if at == slot and isinstance(message, Ending):
                return message
    raise AssertionError("no answer")


def test_a_worker_that_dies_in_a_job_is_told_and_replaced(make):
    launcher = up(make())
    died = answer(launcher, DIE)
    assert (type(died), died.failure, died.idle) == (Died, "killed", False)
    assert died.message.startswith("worker 0 on ")
    assert isinstance(answer(up(launcher), WORK), Probed)


def test_a_worker_that_dies_without_a_job_is_replaced(make):
    launcher = up(make())
    first = answer(launcher, WORK).values["pid"]
    os.kill(first, signal.SIGKILL)
    until = time.monotonic() + PATIENCE
    while not (found := [m for _, m in launcher.wait(1.0) if isinstance(m, Died)]):
        assert time.monotonic() < until
    assert found[0].idle
    assert answer(up(launcher), WORK).values["pid"] != first


def test_a_worker_that_is_silent_too_long_is_killed(make):
    launcher = up(make(timeout=2.0))
    died = answer(launcher, HANG)
    assert (type(died), died.failure) == (Died, "hung")
    assert "gave no sign of life for 2 s and was killed" in died.message
    assert isinstance(answer(up(launcher), WORK), Probed)


def test_a_death_in_one_slot_leaves_the_job_in_the_other(make):
    launcher = up(make(workers=2), 2)
    launcher.submit(0, DIE)
    launcher.submit(1, WORK)
    found, until = {}, time.monotonic() + PATIENCE
    while len(found) < 2 and time.monotonic() < until:
        found |= {
            slot: type(message)
            for slot, message in launcher.wait(1.0)
            if isinstance(message, Ending)
        }
    assert found == {0: Died, 1: Probed}


def test_an_actor_is_used_again_and_has_its_threads(make):
    launcher = up(make())
    found = [answer(launcher, WORK).values for _ in range(3)]
    assert found == [{"pid": found[0]["pid"], "threads": "1"}] * 3


def test_workers_that_cannot_start_end_the_study_with_the_reason(make):
    launcher = make("Broken")
    with pytest.raises(
        UserError, match=r"3 workers in a row ended before they were ready.*No module named 'torch'"
    ):
        up(launcher)


def test_a_worker_that_waits_for_room_is_said_and_takes_no_job(make, monkeypatch):
    launcher = up(make(workers=3), 2)
    monkeypatch.setattr("embsearch.launch.ray.launcher.PENDING", 1.0)
    notes, until = [], time.monotonic() + PATIENCE
    while not notes and time.monotonic() < until:
        notes = [message.text for _, message in launcher.wait(1.0) if isinstance(message, Note)]
    assert notes[-1] == "Ray: 2 of 3 workers are up, each takes CPU 1; free: nothing"
    assert (launcher.idle, launcher.workers) == ([0, 1], 3)


def test_a_second_launcher_of_a_folder_ends_the_workers_of_the_first(make):
    first = up(make())
    up(make())
    said = [message for _, message in first.wait(5.0) if not isinstance(message, Note)]
    assert [type(message) for message in said] == [Died]


@pytest.mark.parametrize(("every", "least"), [(0.3, 5), (60.0, 0)])
def test_a_trial_goes_on_from_the_last_checkpoint_that_came_home(make, tmp_path, every, least):
    launcher = up(make(files="store", home_every=every))
    home, seen = tmp_path / "trial" / CHECKPOINT, []
    launcher.submit(0, train(tmp_path / "trial", 20, die_at=15))
    until = time.monotonic() + PATIENCE
    while not (seen and isinstance(seen[-1], Died)):
        seen += [message for _, message in launcher.wait(1.0)]
        assert time.monotonic() < until
    at = int(home.read_text()) if home.exists() else 0
    launcher = up(launcher)
    launcher.submit(0, train(tmp_path / "trial", 20))
    again = []
    while not (again and isinstance(again[-1], Ending)):
        again += [message for _, message in launcher.wait(1.0)]
        assert time.monotonic() < until

    steps = [
        step for message in again if isinstance(message, Points) for step, _, _ in message.points
    ]
    assert least <= at < 15
    assert steps == list(range(at + 1, 21))
    assert home.read_text() == "20"


def test_a_worker_that_was_given_up_stops_to_write(make, tmp_path):
    """Its lease goes, as where a node is taken for lost that still runs."""
    launcher = up(make())
    launcher.submit(0, train(tmp_path / "trial", 600))
    until = time.monotonic() + PATIENCE
    while not any(isinstance(message, Points) for _, message in launcher.wait(1.0)):
        assert time.monotonic() < until
    (lease,) = (tmp_path / "workers").glob("lease-*")
    lease.unlink()
    while not (found := [m for _, m in launcher.wait(1.0) if isinstance(m, Died)]):
        assert time.monotonic() < until
    at = (tmp_path / "trial" / CHECKPOINT).read_text()
    time.sleep(0.5)
    assert (found[0].failure, (tmp_path / "trial" / CHECKPOINT).read_text()) == ("killed", at)


def test_a_trial_that_went_on_elsewhere_is_sent_again_to_who_had_it_before(make, tmp_path):
    launcher = up(make(workers=2, files="store"), 2)
    for slot, steps in ((0, 3), (1, 6), (0, 7)):
        launcher.submit(slot, train(tmp_path / "trial", steps))
        told, until = [], time.monotonic() + PATIENCE
        while not (told and isinstance(told[-1], Ending)):
            told += [message for at, message in launcher.wait(1.0) if at == slot]
            assert time.monotonic() < until
    assert [step for m in told if isinstance(m, Points) for step, _, _ in m.points] == [7]


def test_folders_of_workers_that_are_no_more_are_cleared_away(make, tmp_path, monkeypatch):
    root = Path(tempfile.gettempdir()) / f"embsearch-{os.getuid()}"
    launcher = up(make(files="store"))
    place = root / launcher.transport.key
    launcher.submit(0, train(tmp_path / "trial", 2, die_at=1))
    until = time.monotonic() + PATIENCE
    while not any(isinstance(message, Died) for _, message in launcher.wait(1.0)):
        assert time.monotonic() < until
    up(launcher)
    assert len(list(place.glob("*/lock"))) == 1
    launcher.close()
    assert not place.exists()


def test_the_room_of_a_cluster_is_that_of_nodes_with_the_labels():
    assert cluster.fits(Room()) == 2
    assert cluster.fits(Room(threads=2)) == 1
    assert cluster.fits(Room(labels={"zone": "nowhere"})) == 1  # at least one, which may still come
