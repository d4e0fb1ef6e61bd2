"""A study's folder: its home's id, and the defaults with which it began."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from embsearch.config.build import build
from embsearch.config.schema import Config
from embsearch.errors import ConfigError
from embsearch.history import events
from embsearch.history.folder import StudyFolder, as_begun


def test_processes_that_start_together_agree_on_the_home_s_id(tmp_path):
    code = (
        "import sys; from embsearch.history.folder import StudyFolder; from embsearch.config.schema import Config; "
        "print(StudyFolder(Config(home=sys.argv[1])).home_id)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "home")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    found = {process.communicate()[0].strip() for process in processes}
    assert found == {StudyFolder(Config(home=str(tmp_path / "home"))).home_id}
    assert StudyFolder(Config(home=str(tmp_path / "another"))).home_id not in found


@pytest.fixture
def began(tmp_path):
    """Begin a study with settings; return its folder's config as another command composes it."""

    def begin(defaults, **settings):
        made = build({"home": str(tmp_path), "study": {"name": "shoes"}, **settings})
        folder = StudyFolder(made)
        folder.path.mkdir(parents=True)
        folder.lock_config()
        folder.log.append(events.Baseline(metrics={"auc": 0.5}), spent=0.0)
        if defaults is None:  # an older version wrote no such word
            content = yaml.safe_load(folder.locked.read_text())
            content.pop("defaults")
            folder.locked.write_text(yaml.safe_dump(content))
        return lambda **more: as_begun(
            build({"home": str(tmp_path), "study": {"name": "shoes"}, **more})
        )

    return begin


OLD = {"objective": {"name": "triplet"}, "train": {"lr": 1e-4}}


def test_a_study_goes_on_with_the_defaults_of_the_version_that_began_it(began):
    again = began(None, **OLD)
    assert not StudyFolder(again()).drift()
    assert (again().objective.name, again().train.lr) == ("triplet", 1e-4)
    said = again(train={"lr": 5e-4})
    assert StudyFolder(said).drift() == ["train.lr: 0.0001 -> 0.0005"]
    extended = again(study={"name": "shoes", "on_drift": "extend"})
    assert (extended.objective.name, extended.train.lr) == ("triplet", 2e-4)  # auto: as it began


def test_of_a_study_of_today_nothing_is_taken_over(began):
    again = began("today", **OLD)
    assert StudyFolder(again()).drift() == ["train.lr: 0.0001 -> 0.0002"]
    assert again().objective.name == "triplet"  # auto: as it began
    other = again(objective={"name": "bce"})
    assert 'objective.name: "triplet" -> "bce"' in StudyFolder(other).drift()


def test_going_on_does_not_make_an_old_study_one_of_today(began):
    again = began(None, **OLD)
    StudyFolder(again(stop={"trials": 99})).lock_config()
    assert StudyFolder(again()).read_locked()["defaults"] == 1
    assert again().objective.name == "triplet"


def test_a_study_that_began_before_prompts_goes_on_without_them(began):
    again = began(None, **OLD)
    locked = StudyFolder(again()).locked
    content = yaml.safe_load(locked.read_text())
    for part in ("identity", "config"):  # an older version knew neither
        content[part]["model"].pop("prompts")
        content[part]["data"]["derive"].pop("relevant_alone")
    locked.write_text(yaml.safe_dump(content))
    for config in (again(), build(content["config"])):
        assert not StudyFolder(config).drift()
        assert (config.model.prompts.query, config.model.prompts.document) == ("", "")
        assert not config.data.derive.relevant_alone


@pytest.mark.parametrize("name", ["a" * 201, "手表" * 34, "x/y", ".hidden"])
def test_a_name_that_is_no_folder_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match=r"study\.name=.*names a folder"):
        StudyFolder(build({"home": str(tmp_path), "study": {"name": name}}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a" * 200, "手表" * 33])
def test_a_name_may_be_long(name, tmp_path):
    folder = StudyFolder(build({"home": str(tmp_path), "study": {"name": name}}))
    with folder.hold():
        assert folder.path.is_dir()
