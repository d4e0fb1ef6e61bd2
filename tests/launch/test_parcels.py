"""Files that travel with tasks, and come home."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from embsearch.launch.ray.parcels import CHECKPOINT, Desk, Packer, bring


@pytest.fixture
def home(tmp_path):
    """A cache, a base model and a trial's folder at home."""
    (tmp_path / "cache/tokens").mkdir(parents=True)
    (tmp_path / "cache/dataset.json").write_text("rows")
    (tmp_path / "cache/tokens/ids.npy").write_bytes(b"ids")
    (tmp_path / "base").mkdir()
    (tmp_path / "base/weights").write_bytes(b"base")
    (tmp_path / "synonyms.tsv").write_text("big\tlarge\n")
    (tmp_path / "trial").mkdir()
    return tmp_path


@pytest.fixture
def task(home):
    config = {"model": {"path": str(home / "base")}, "train": {"augment": {"synonyms": str(home / "synonyms.tsv")}}}
    return {"do": "segment", "cache": str(home / "cache"), "folder": str(home / "trial"), "config": config}


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "there/shelf", tmp_path / "there/desk", lambda content: content, every=0.2)


def packer():
    sent = []
    made = Packer(lambda files: sent.append(files) or files)
    return made, sent


def test_a_task_is_laid_out_with_paths_of_the_other_machine(home, task, desk, tmp_path):
    local = desk.lay_out(task, packer()[0].pack(task, ""))

    read = lambda path, name: (tmp_path / path / name).read_text()  # noqa: E731
    assert read(local["cache"], "dataset.json") == "rows"
    assert read(local["cache"], "tokens/ids.npy") == "ids"
    assert read(local["config"]["model"]["path"], "weights") == "base"
    assert read(local["config"]["train"]["augment"]["synonyms"], "") == "big\tlarge\n"
    assert "there" in local["folder"]
    assert task["folder"] == str(home / "trial")  # the coordinator's own is as it was


def test_what_many_tasks_need_is_sent_once(task, desk):
    pack, sent = packer()
    for _ in range(3):
        desk.lay_out(task, pack.pack(task, ""))
    assert len(sent) == 3  # the cache, the base model, the table


def test_a_model_that_changed_under_its_path_is_sent_again(home, task, desk):
    pack, _ = packer()
    (home / "trial/model").mkdir()
    task = {"do": "evaluate", "model": str(home / "trial/model"), "cache": task["cache"]}
    found = []
    for weights in ("one", "two"):
        (home / "trial/model/weights").write_text(weights)
        found.append((Path(desk.lay_out(task, pack.pack(task, ""))["model"]) / "weights").read_text())
    assert found == ["one", "two"]


def test_a_trial_goes_out_with_its_checkpoint_and_what_changed_comes_home(home, task, desk):
    pack, _ = packer()
    (home / "trial" / CHECKPOINT).write_text("step 10")
    desk.lay_out(task, pack.pack(task, ""))
    assert (desk.run / CHECKPOINT).read_text() == "step 10"
    assert desk.changed() == {}

    (desk.run / CHECKPOINT).write_text("step 20!")
    (desk.run / "model").mkdir()
    (desk.run / "model/weights").write_text("better")
    (desk.run / ".draft").write_text("half")
    bring(desk.changed())

    assert (home / "trial" / CHECKPOINT).read_text() == "step 20!"
    assert (home / "trial/model/weights").read_text() == "better"
    assert sorted(p.name for p in (home / "trial").iterdir()) == [CHECKPOINT, "model"]
    assert desk.changed() == {}


def test_a_model_comes_home_whole_and_in_place_of_the_old_one(home, task, desk):
    pack, _ = packer()
    desk.lay_out(task, pack.pack(task, ""))
    for files in ({"a": "1", "b": "1"}, {"a": "2", "c": "2"}):
        for name in ("a", "b", "c"):
            (desk.run / "model" / name).unlink(missing_ok=True)
        (desk.run / "model").mkdir(exist_ok=True)
        for name, text in files.items():
            (desk.run / "model" / name).write_text(text + "x")
        bring(desk.changed())
        there = {p.name: p.read_text() for p in (home / "trial/model").iterdir()}
        assert there == {name: text + "x" for name, text in files.items()}


def test_a_study_that_is_called_model_keeps_its_files(tmp_path, desk):
    """Only a trial's own model is a folder that is replaced, whatever the folders above are called."""
    trial = tmp_path / "model/studies/model/trials/t0000"
    trial.mkdir(parents=True)
    (trial / "events.jsonl").write_text("the truth")
    desk.lay_out({"do": "segment", "folder": str(trial)}, packer()[0].pack({"folder": str(trial)}, ""))
    (desk.run / CHECKPOINT).write_text("step 1")
    bring(desk.changed())
    assert (trial / "events.jsonl").read_text() == "the truth"
    assert (trial / CHECKPOINT).read_text() == "step 1"


def test_a_worker_that_has_the_newest_files_gets_none(home, task, desk):
    pack, _ = packer()
    desk.lay_out(task, pack.pack(task, ""))
    (desk.run / CHECKPOINT).write_text("step 20")
    bring(desk.changed())
    (desk.run / "warm").touch()

    desk.lay_out(task, pack.pack(task, holds=task["folder"]))
    assert (desk.run / "warm").exists()

    (home / "trial" / CHECKPOINT).unlink()  # it was damaged: from the base weights, then
    desk.lay_out(task, pack.pack(task, holds=task["folder"]))
    assert list(desk.run.iterdir()) == []


def test_another_trial_finds_an_empty_desk(home, task, desk):
    pack, _ = packer()
    desk.lay_out(task, pack.pack(task, ""))
    (desk.run / CHECKPOINT).write_text("step 20")
    (home / "other").mkdir()
    desk.lay_out(task | {"folder": str(home / "other")}, pack.pack(task | {"folder": str(home / "other")}, ""))
    assert list(desk.run.iterdir()) == []


def test_checkpoints_come_home_on_the_way_some_time_apart(task, desk):
    pack, _ = packer()
    desk.lay_out(task, pack.pack(task, ""))
    (desk.run / CHECKPOINT).write_text("step 20")
    assert not desk.due()
    time.sleep(0.25)
    assert desk.due()
    assert desk.changed()
    time.sleep(0.25)
    assert not desk.due()  # nothing new


def test_a_file_that_an_evaluation_keeps_comes_home(home, task, desk):
    pack, _ = packer()
    asked = {"do": "evaluate", "cache": task["cache"], "keep": str(home / "tested/best.npz")}
    local = desk.lay_out(asked, pack.pack(asked, ""))
    Path(local["keep"]).write_text("scores")
    bring(desk.changed())
    assert (home / "tested/best.npz").read_text() == "scores"
