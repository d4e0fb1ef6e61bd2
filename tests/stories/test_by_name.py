"""A study's name is enough: every verb takes the rest from what the study recorded."""

import shlex
from pathlib import Path

import pytest
import yaml

from embsearch.cli.main import main

pytestmark = pytest.mark.story


@pytest.fixture
def by_name(home, capsys):
    """A finished study, and commands that name it and nothing else."""
    assert home.run("search", "stop.trials=2") == 0

    def run(verb, *words):
        capsys.readouterr()
        code = main([*verb.split(), "study.name=s", f"home={home.folder}", *words])
        return code, *capsys.readouterr()

    return run


def recorded(home):
    return yaml.safe_load((home.study / "study.yaml").read_text())["config"]


def test_a_search_goes_on_by_its_name(home, by_name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = recorded(home)
    code, out, _ = by_name("search")
    assert code == 0
    assert "nothing to do: this study had ended before" in out
    code, out, _ = by_name("search", "stop.trials=3")
    assert code == 0
    assert len(home.trials) == 3
    before["stop"]["trials"] = 3
    assert recorded(home) == before
    # the name as a study of its own
    assert main(["search", "study=s", f"home={home.folder}"]) == 0


CHANGES = {
    "train.lr=2e-3": "train.lr: 0.001 -> 0.002",
    "space.train.lr.high=0.02": "space.train.lr.high: 0.01 -> 0.02",
    "~space.train.lr": "space.train.lr.low: 0.0001 -> (not there)",
    "effort=quick": "train.texts: 3000 -> 7680",
    "sampler=random": 'sampler.name: "tpe" -> "random"',
}


def test_what_the_words_change_is_changed_and_nothing_else(by_name):
    for word, line in CHANGES.items():
        code, _, err = by_name("search", word)
        assert code == 2
        assert line in err
        changed = [shown.strip() for shown in err.splitlines() if "->" in shown]
        room = line.partition(".")[0]
        rooms = {"train", "evaluate"} if word == "effort=quick" else {room}
        assert {shown.partition(".")[0] for shown in changed} <= rooms, word


def test_a_launcher_may_be_another_one(home, by_name):
    assert by_name("search", "launcher=local", "launcher.workers=1", "stop.trials=3")[0] == 0
    assert recorded(home)["launcher"]["name"] == "local"


def test_models_are_used_by_the_name_of_their_study(home, by_name, tmp_path):
    index = tmp_path / "titles.index"
    assert by_name("promote", "promote.min_gain=-1")[0] == 0
    assert by_name("index", f"output={index}")[0] == 0
    code, out, _ = by_name("query", f"index={index}", "compare=untuned", "k=1")
    assert code == 0
    assert "untuned" in out
    assert by_name("evaluate", "trial=0")[0] == 0
    assert by_name("evaluate", "checkpoint=champion", "data.on_bad_row=drop")[0] == 0


def test_other_data_are_the_commands_own(home, by_name, tmp_path):
    table = tmp_path / "names.csv"
    table.write_text("name\nred shoe\nblue hat\n")
    code, out, err = by_name(
        "index", "trial=0", f"input={table}", "data.columns.title=name", f"output={tmp_path}/i"
    )
    assert code == 0, err
    assert "2 vectors" in out
    code, _, err = by_name("evaluate", "trial=0", f"data.path={table}")
    assert code == 2
    assert "names.csv" in err


def test_a_plan_proposes_the_words_it_was_given(home, capsys):
    assert home.run("plan", "study.name=not begun") == 0
    proposed = capsys.readouterr().out.splitlines()[-1]
    command = shlex.split(proposed.removeprefix("next:  "))
    assert command == ["embsearch", "search", *home.words, "study.name=not begun"]


def test_a_name_that_no_study_has_asks_for_data(home, by_name):
    code, _, err = by_name("search", "study.name=ss")
    assert code == 2
    assert "no data to train on" in err
    assert "a study that 'embsearch status' lists" in err
    assert not (Path(home.folder) / "studies" / "ss").exists()


def test_what_a_person_consents_to_is_asked_each_time(home, by_name, tmp_path):
    words = ["study.on_drift=extend", "promote.dry_run=true", "stop.trials=3"]
    assert home.run("search", *words) == 0
    assert recorded(home)["study"]["on_drift"] == "extend"
    code, _, err = by_name("search", "train.lr=2e-3")
    assert code == 2
    assert "train.lr: 0.001 -> 0.002" in err
    code, out, _ = by_name("promote", "promote.min_gain=-1")
    assert code == 0
    assert "is now champion" in out


def test_a_dimension_that_is_not_searched_is_added_whole_or_refused(by_name):
    code, _, err = by_name("search", "space.train.l2.high=0.01")
    assert code == 2
    assert "space.train.l2.high=0.01: this study does not search it" in err
    code, _, err = by_name("search", "++space.train.l2={low: 1e-3, high: 0.1}")
    assert code == 2
    assert "space.train.l2.high: (not there) -> 0.1" in err


def test_an_effort_of_ones_own_is_found(by_name, tmp_path):
    (tmp_path / "mine" / "effort").mkdir(parents=True)
    (tmp_path / "mine" / "effort" / "tiny.yaml").write_text(
        "# @package _global_\ntrain:\n  texts: 77\n"
    )
    code, _, err = by_name("search", "effort=tiny", f"--config-dir={tmp_path / 'mine'}")
    assert code == 2
    assert "train.texts: 3000 -> 77" in err


def test_an_unreadable_record_is_named_and_stops_no_other_command(home, by_name):
    file = home.study / "study.yaml"
    file.write_text(file.read_text().replace("texts: 3000", "texts: many"))
    code, _, err = by_name("status")
    assert code == 2
    assert f"{file}: train.texts" in err
    assert main(["history", "study.task=s", f"home={home.folder}"]) == 2  # nothing is registered


def test_the_configuration_that_won_is_said_as_words(home, by_name):
    out = by_name("status")[1]
    [line] = [line for line in out.splitlines() if line.startswith("best configuration: ")]
    words = shlex.split(line.removeprefix("best configuration: "))
    assert any(word.startswith("train.lr=") for word in words)
    assert by_name("search", *words)[0] in (
        0,
        2,
    )  # they compose: the same, or drift of the defaults


def test_models_can_be_read_by_whoever_reads_the_home(home, by_name):
    folder = home.study / "trials" / "t0000" / "model"
    rights = {file.stat().st_mode & 0o666 for file in folder.rglob("*") if file.is_file()}
    assert rights == {folder.stat().st_mode & 0o666}
