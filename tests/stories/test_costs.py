"""A search for models that are good and cheap: two encoders, from what each trial costs to promotion."""

from __future__ import annotations

import re

import pytest
import tiny_encoders
from mlflow import MlflowClient

from tests.conftest import judgement_rows
from tests.stories.home import Home

pytestmark = pytest.mark.story
COSTS = "evaluate.costs=[latency,size,dimension]"


def on_front(said):
    """The trials that the terminal names as the Pareto front."""
    rows = said.partition("Pareto front")[2].partition("any of them")[0]
    return [int(number) for number in re.findall(r"^ *(\d+) +[01]\.", rows, re.M)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A static encoder, 32 wide."""
    texts = [text for row in judgement_rows() for text in row[:2]]
    return tiny_encoders.save_model2vec(texts, tmp_path_factory.mktemp("encoders") / "static")


@pytest.fixture(scope="module")
def home(small, tiny_bert, judgements_csv, tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home") / "home", tiny_bert, judgements_csv)
    choices = f"+space.model.path={{choices: [{tiny_bert}, {small}]}}"
    home.words += [choices, "stop.trials=4", "model.max_length=64"]
    home.words.remove("track=none")
    return home


def test_every_trial_knows_its_costs_and_the_end_shows_the_front(home, small, tiny_bert, capsys):
    assert home.run("search", COSTS) == 0
    said = capsys.readouterr().out
    for number in range(4):
        first, *later = home.events("measured", number)
        path = home.events("created", number)[0]["params"]["model.path"]
        width = 32.0 if path == str(small) else 64.0
        assert first["costs"]["dimension"] == width
        assert first["costs"]["latency"] > 0
        assert all("costs" not in event for event in later)
        model = home.study / f"trials/t{number:04d}/model"
        size = sum(file.stat().st_size for file in model.rglob("*") if file.is_file()) / 1e6
        assert first["costs"]["size"] == pytest.approx(size, rel=0.01)
    assert "Pareto front" in said
    shown = on_front(said)
    paths = [home.events("created", number)[0]["params"]["model.path"] for number in shown]
    assert sorted(paths) == sorted({str(small), str(tiny_bert)} & set(paths))
    assert len(shown) == len(set(paths))


def test_page_status_and_mlflow_name_the_same_front(home, capsys):
    assert home.run("status", COSTS) == 0
    shown = set(on_front(capsys.readouterr().out))
    page = (home.study / "report.html").read_text(encoding="utf-8")
    assert "What it costs" in page
    assert "cost-latency" in page
    client = MlflowClient(f"sqlite:///{home.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("embsearch/s").experiment_id
    runs = client.search_runs([experiment], "tags.`embsearch.pareto` = 'true'")
    assert {int(run.data.tags["embsearch.trial"]) for run in runs} == shown
    assert all(run.data.metrics["cost/dimension"] in (32.0, 64.0) for run in runs)


def test_a_study_without_costs_measures_the_same(home, tmp_path):
    plain = home.at(tmp_path / "home")
    plain.words = [word.replace(str(home.folder), str(plain.folder)) for word in home.words]
    assert plain.run("search", "stop.trials=2", "track=none") == 0
    assert "costs" not in plain.events("measured", 0)[0]
    mine, theirs = home.values(), plain.values()
    both = mine.keys() & theirs.keys()
    assert len(both) >= 4
    assert {key: mine[key] for key in both} == {key: theirs[key] for key in both}


def test_the_cheap_point_is_not_held_against_a_dear_given_one(home, small, capsys):
    cheap = [
        n for n in range(4) if home.events("created", n)[0]["params"]["model.path"] == str(small)
    ]
    assert home.run("status", COSTS) == 0
    (number,) = set(on_front(capsys.readouterr().out)) & set(cheap)
    assert home.run("promote", COSTS, f"trial={number}", "--dry-run") in (0, 3)
    said = capsys.readouterr().out
    assert f"trial {number}: test AUC" in said
    assert "gain" in said
    assert "given" not in said
    assert home.run("promote", COSTS, "trial=0", "--dry-run") in (0, 3)
    assert "given" in capsys.readouterr().out
