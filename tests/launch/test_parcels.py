"""Files that travel with jobs, and come home."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from embsearch.config.files import FILES
from embsearch.launch.base import EvaluateJob, TrainJob
from embsearch.launch.ray.parcels import CHECKPOINT, FileShipper, RemoteWorkspace, bring
from embsearch.values import Segment


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
def job(home):
    config = {
        "model": {"path": str(home / "base")},
        "train": {"augment": {"synonyms": str(home / "synonyms.tsv")}},
    }
    return TrainJob(Segment(0, 0, 0, 1), config, str(home / "trial"), str(home / "cache"))


@pytest.fixture
def workspace(tmp_path):
    return RemoteWorkspace(
        tmp_path / "there/shelf", tmp_path / "there/own", lambda content: content, every=0.2
    )


def shipper():
    sent = []
    made = FileShipper(lambda files: sent.append(files) or files)
    return made, sent


def test_a_job_is_laid_out_with_paths_of_the_other_machine(home, job, workspace, tmp_path):
    local = workspace.lay_out(job, shipper()[0].pack(job, ""))

    read = lambda path, name: (tmp_path / path / name).read_text()  # noqa: E731
    assert read(local.cache, "dataset.json") == "rows"
    assert read(local.cache, "tokens/ids.npy") == "ids"
    assert read(local.config["model"]["path"], "weights") == "base"
    assert read(local.config["train"]["augment"]["synonyms"], "") == "big\tlarge\n"
    assert "there" in local.folder
    assert job.folder == str(home / "trial")  # the coordinator's own is as it was


def test_what_many_jobs_need_is_sent_once(job, workspace):
    pack, sent = shipper()
    for _ in range(3):
        workspace.lay_out(job, pack.pack(job, ""))
    assert len(sent) == 3  # the cache, the base model, the table


def test_a_model_that_changed_under_its_path_is_sent_again(home, job, workspace):
    pack, _ = shipper()
    (home / "trial/model").mkdir()
    asked = EvaluateJob("valid", {}, job.cache, str(home / "trial/model"))
    found = []
    for weights in ("one", "two"):
        (home / "trial/model/weights").write_text(weights)
        found.append(
            (Path(workspace.lay_out(asked, pack.pack(asked, "")).model) / "weights").read_text()
        )
    assert found == ["one", "two"]


def test_the_members_of_a_soup_go_out_with_it(home, job, workspace):
    members = []
    for run in (1, 2):
        folder = home / f"trial/seed{run}/model"
        folder.mkdir(parents=True)
        (folder / "weights").write_text(f"run {run}")
        members.append(str(folder))
    asked = replace(job, members=tuple(members))
    local = workspace.lay_out(asked, shipper()[0].pack(asked, ""))
    assert [(Path(member) / "weights").read_text() for member in local.members] == [
        "run 1",
        "run 2",
    ]
    assert all("there" in member for member in local.members)


def test_a_trial_goes_out_with_its_checkpoint_and_what_changed_comes_home(home, job, workspace):
    pack, _ = shipper()
    (home / "trial" / CHECKPOINT).write_text("step 10")
    workspace.lay_out(job, pack.pack(job, ""))
    assert (workspace.run / CHECKPOINT).read_text() == "step 10"
    assert workspace.changed() == {}

    (workspace.run / CHECKPOINT).write_text("step 20!")
    (workspace.run / "model").mkdir()
    (workspace.run / "model/weights").write_text("better")
    (workspace.run / ".draft").write_text("half")
    bring(workspace.changed())

    assert (home / "trial" / CHECKPOINT).read_text() == "step 20!"
    assert (home / "trial/model/weights").read_text() == "better"
    assert sorted(p.name for p in (home / "trial").iterdir()) == [CHECKPOINT, "model"]
    assert workspace.changed() == {}


def test_a_model_comes_home_whole_and_in_place_of_the_old_one(home, job, workspace):
    pack, _ = shipper()
    workspace.lay_out(job, pack.pack(job, ""))
    for files in ({"a": "1", "b": "1"}, {"a": "2", "c": "2"}):
        for name in ("a", "b", "c"):
            (workspace.run / "model" / name).unlink(missing_ok=True)
        (workspace.run / "model").mkdir(exist_ok=True)
        for name, text in files.items():
            (workspace.run / "model" / name).write_text(text + "x")
        bring(workspace.changed())
        there = {p.name: p.read_text() for p in (home / "trial/model").iterdir()}
        assert there == {name: text + "x" for name, text in files.items()}


def test_a_study_that_is_called_model_keeps_its_files(tmp_path, workspace):
    """Only a trial's own model is a folder that is replaced, whatever the folders above are called."""
    trial = tmp_path / "model/studies/model/trials/t0000"
    trial.mkdir(parents=True)
    (trial / "events.jsonl").write_text("the truth")
    job = TrainJob(Segment(0, 0, 0, 1), {}, str(trial), "")
    workspace.lay_out(job, shipper()[0].pack(job, ""))
    (workspace.run / CHECKPOINT).write_text("step 1")
    bring(workspace.changed())
    assert (trial / "events.jsonl").read_text() == "the truth"
    assert (trial / CHECKPOINT).read_text() == "step 1"


def test_a_worker_that_has_the_newest_files_gets_none(home, job, workspace):
    pack, _ = shipper()
    workspace.lay_out(job, pack.pack(job, ""))
    (workspace.run / CHECKPOINT).write_text("step 20")
    bring(workspace.changed())
    (workspace.run / "warm").touch()

    workspace.lay_out(job, pack.pack(job, holds=job.folder))
    assert (workspace.run / "warm").exists()

    (home / "trial" / CHECKPOINT).unlink()  # it was damaged: from the base weights, then
    workspace.lay_out(job, pack.pack(job, holds=job.folder))
    assert list(workspace.run.iterdir()) == []


def test_another_trial_finds_an_empty_workspace(home, job, workspace):
    pack, _ = shipper()
    workspace.lay_out(job, pack.pack(job, ""))
    (workspace.run / CHECKPOINT).write_text("step 20")
    (home / "other").mkdir()
    other = replace(job, folder=str(home / "other"))
    workspace.lay_out(other, pack.pack(other, ""))
    assert list(workspace.run.iterdir()) == []


def test_checkpoints_come_home_on_the_way_some_time_apart(job, workspace):
    pack, _ = shipper()
    workspace.lay_out(job, pack.pack(job, ""))
    (workspace.run / CHECKPOINT).write_text("step 20")
    assert not workspace.due()
    time.sleep(0.25)
    assert workspace.due()
    assert workspace.changed()
    time.sleep(0.25)
    assert not workspace.due()  # nothing new


def test_a_file_that_an_evaluation_keeps_comes_home(home, job, workspace):
    pack, _ = shipper()
    asked = EvaluateJob("test", {}, job.cache, keep=str(home / "tested/best.npz"))
    local = workspace.lay_out(asked, pack.pack(asked, ""))
    Path(local.keep).write_text("scores")
    bring(workspace.changed())
    assert (home / "tested/best.npz").read_text() == "scores"


def test_whatever_file_a_config_names_travels_once_it_is_listed(home, job, workspace, monkeypatch):
    """A new kind of file, such as an adapter, is one line in config/files.py."""
    monkeypatch.setitem(FILES, "model.adapter", "an adapter")
    (home / "adapter").mkdir()
    (home / "adapter/weights").write_text("small")
    job = with_model(job, adapter=str(home / "adapter"))

    local = workspace.lay_out(job, shipper()[0].pack(job, ""))

    adapter = Path(local.config["model"]["adapter"])
    assert ("there" in str(adapter), (adapter / "weights").read_text()) == (True, "small")
    assert job.config["model"]["adapter"] == str(home / "adapter")


def with_model(job, **values):
    return replace(job, config={**job.config, "model": {**job.config["model"], **values}})


def test_half_of_a_trials_files_never_go_home(home, job, tmp_path):
    """The other machine is full while it unpacks a second trial: the first one's files stay."""

    def full(content):
        if CHECKPOINT in content and content[CHECKPOINT] == b"second":
            raise OSError(28, "no space left on device")
        return content

    workspace = RemoteWorkspace(tmp_path / "there/shelf", tmp_path / "there/own", full)
    workspace.lay_out(job, shipper()[0].pack(job, ""))
    (home / "other").mkdir()
    (home / "other" / CHECKPOINT).write_text("second")
    other = replace(job, folder=str(home / "other"))
    with pytest.raises(OSError, match="no space left"):
        workspace.lay_out(other, shipper()[0].pack(other, ""))

    assert workspace.changed() == {}
