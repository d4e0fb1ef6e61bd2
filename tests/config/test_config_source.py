"""Dotted keys, studies as options of a group, and a folder of the user's own."""

import pytest

from embsearch.config.load import compose
from embsearch.config.source import expand, searching
from embsearch.errors import ConfigError


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder studies/shoes in the working directory."""
    folder = tmp_path / "studies" / "shoes"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(
        "# embsearch search study=shoes\n"
        "# @package _global_\n"
        "defaults:\n"
        "  - override /space: small\n"
        "study: {task: retail}\n"
        "data: {path: '${study.folder}/data'}\n"
        "space:\n"
        "  train.lr: {high: 9e-5}\n"
        "stop: {trials: 3}\n"
    )
    monkeypatch.chdir(tmp_path)
    return folder


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_dotted_keys_become_nested_mappings():
    tree = {
        "train.lr": {"low": 1, "when": {"objective.name": "x"}},
        "train": {"l2": None},
        "a": [{"b.c": 1}],
    }
    assert expand(tree) == {
        "train": {"lr": {"low": 1, "when": {"objective": {"name": "x"}}}, "l2": None},
        "a": [{"b.c": 1}],
    }


def test_a_space_is_narrowed_and_cut_from_the_command_line():
    space = compose(["space=seed", "space.train.lr.high=1e-4", "~space.train.l2"]).space
    assert space["train.lr"] == {"low": 1e-5, "high": 1e-4, "log": True}
    assert "train.l2" not in space


def test_a_study_is_named_after_its_folder_and_knows_where_it_lies(study):
    config = compose(["study=shoes"])
    assert (config.study.name, config.study.task) == ("shoes", "retail")
    assert config.study.folder == str(study)
    assert config.data.path == f"{study}/data"


def test_a_study_overrides_everything_but_the_command_line(study):
    config = compose(["study=shoes", "stop.trials=5", "study.on_drift=new"])
    assert config.space["train.lr"] == {"low": 3e-5, "high": 9e-5, "log": True}
    assert config.stop.trials == 5
    assert config.study.on_drift == "new"


def test_a_folder_of_the_users_own_may_use_dotted_keys_and_add_studies(tmp_path):
    write(tmp_path / "space/mine.yaml", "train.lr: {low: 1e-5, high: 2e-5}\n")
    write(
        tmp_path / "space/whole.yaml",
        "# mine\n# @package _global_\nspace:\n  train.l2: {low: 0, high: 1}\n",
    )
    write(tmp_path / "study/boots.yaml", "# @package _global_\nstop: {trials: 4}\n")
    mine = compose(["space=mine", "study=boots", "space.train.lr.high=3e-5"], [tmp_path])
    assert mine.space == {"train.lr": {"low": 1e-5, "high": 3e-5}}
    assert (mine.study.name, mine.stop.trials) == ("boots", 4)
    assert compose(["space=whole"], [tmp_path]).space == {"train.l2": {"low": 0, "high": 1}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"space: {train.lr: [", "not valid YAML"),
        ("名称: x".encode("gb18030"), "not UTF-8"),
        (b"- a\n- b\n", "expected a mapping"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, says):
    (tmp_path / "space").mkdir()
    (tmp_path / "space/mine.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"mine\.yaml: .*{says}"):
        compose(["space=mine"], [tmp_path])


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"), searching([tmp_path / "nope"]):
        pass


def test_columns_take_names_without_a_plus():
    assert compose(["data.columns.anchor='搜索词'"]).data.columns == {"anchor": "搜索词"}


def test_options_of_a_cluster_take_names_without_a_plus():
    typed = ["launcher.sbatch.constraint=a100", "launcher.resources.a100=1"]
    assert compose(["launcher=slurm", *typed]).launcher.sbatch == {"constraint": "a100"}
    assert compose(["launcher=ray", *typed]).launcher.resources == {"a100": 1.0}


def test_other_programs_of_this_process_do_not_see_our_search_path():
    import hydra

    compose()
    with hydra.initialize(config_path=None, version_base="1.3"):
        assert dict(hydra.compose()) == {}


def budget(*words):
    config = compose([*words])
    return config.train.texts, config.evaluate.at, config.stop.trials


def test_an_effort_sets_the_budget_and_normal_changes_nothing():
    assert budget("effort=normal") == budget()
    assert budget("effort=quick") == (7680, (0.33, 1.0), 8)
    assert budget("effort=thorough", "train=quick", "stop.trials=5") == (
        115200,
        (0.037, 0.111, 0.333, 0.666, 1.0),
        5,
    )


def test_an_effort_of_the_command_line_has_the_last_word_over_the_study(study):
    write(study / "study.yaml", "# @package _global_\ntrain: {texts: 900}\nstop: {trials: 3}\n")
    assert budget("study=shoes")[::2] == (900, 3)
    assert budget("study=shoes", "effort=quick") == budget("effort=quick")
    assert budget("study=shoes", "effort=quick", "train.texts=50")[::2] == (50, 8)
    assert budget("study=shoes", "effort=normal")[::2] == (900, 3)


def test_a_study_may_choose_an_effort_and_say_more(study):
    write(
        study / "study.yaml",
        "# @package _global_\ndefaults: [{override /effort: thorough}]\nstop: {trials: 3}\n",
    )
    assert budget("study=shoes")[::2] == (115200, 3)
    assert budget("study=shoes", "effort=quick") == budget("effort=quick")
    assert budget("study=shoes", "effort=normal") == (38400, (0.1, 0.25, 0.5, 0.75, 1.0), 3)
