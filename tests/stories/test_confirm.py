"""After the search the best are trained again with fresh seeds, and the mean decides."""

from __future__ import annotations

import shutil
import signal
import statistics
import time

import pytest

pytestmark = pytest.mark.story
AGAIN = ["confirm.top_k=2", "confirm.seeds=2", "confirm.share=null"]


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory, calm):
    home = calm.at(tmp_path_factory.mktemp("confirmed") / "home")
    assert home.run("search", *AGAIN) == 0
    return home


def test_the_best_two_have_two_fresh_seeds_and_the_better_mean_wins(confirmed):
    by_trial = {e["trial"]: e for e in confirmed.events("confirmed")}
    complete = [n for n in range(6) if confirmed.events("ended", n)[-1]["state"] == "complete"]
    best = sorted(complete, key=lambda n: (-confirmed.events("ended", n)[-1]["objective"], n))[:2]
    assert sorted(by_trial) == sorted(best)
    for number, event in by_trial.items():
        runs = [
            [
                e["metrics"]["val/auc"]
                for e in confirmed.events("repeated", number)
                if e["seed"] == s
            ]
            for s in (1, 2)
        ]
        assert event["values"] == [max(run) for run in runs]
        assert event["mean"] == statistics.fmean(event["values"])
        assert event["luck"] == confirmed.events("ended", number)[-1]["objective"] - event["mean"]
        folder = confirmed.study / "trials" / f"t{number:04d}"
        assert {p.name for p in folder.glob("seed*/*")} == {"model"}  # which a soup may need
        assert not list(folder.glob("checkpoint*"))
    winner = max(by_trial.values(), key=lambda e: e["mean"])["trial"]
    (soup,) = confirmed.events("created", 6)
    assert soup["origin"] == "soup"
    assert soup["members"] == [[winner, 0], [winner, 1], [winner, 2]]
    assert confirmed.result["best"] == confirmed.result["table"][-1]["trial"] == 6
    assert confirmed.result["confirmed"][0]["trial"] == winner


def test_it_is_said_and_done_once(confirmed, capsys):
    assert confirmed.run("search", *AGAIN) == 0
    said = capsys.readouterr().out
    assert "with 2 fresh seeds" in said
    assert len(confirmed.events("confirmed")) == 2


@pytest.fixture(scope="module")
def killed(tmp_path_factory, calm):
    """A study that was killed while it trained a fresh seed."""
    home = calm.at(tmp_path_factory.mktemp("killed") / "home")
    process = home.start("search", *AGAIN)
    deadline = time.monotonic() + 300
    while not any(
        home.seen("repeated", n) for n in range(6) if (home.study / f"trials/t{n:04d}").exists()
    ):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not home.seen("closed")
    return home


@pytest.mark.parametrize("damaged", [False, True])
def test_killed_while_it_confirms_it_goes_on_and_finds_the_same(home, killed, confirmed, damaged):
    """Also where a checkpoint was cut: that run begins again."""
    shutil.copytree(killed.folder, home.folder)
    cut = list(home.study.glob("trials/t*/seed*/checkpoint.safetensors"))
    assert cut
    for checkpoint in cut if damaged else []:
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert home.run("search", *AGAIN) == 0
    assert home.values() == confirmed.values()
    keys = ("best", "table", "confirmed", "counts")
    assert [home.result[k] for k in keys] == [confirmed.result[k] for k in keys]
