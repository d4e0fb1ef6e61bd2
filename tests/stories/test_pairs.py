"""A file of queries and positives alone, from search to promotion: judged by the pool."""

from __future__ import annotations

import csv

import pytest

from tests.conftest import judgement_rows
from tests.stories.home import Home

pytestmark = pytest.mark.story


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_bert):
    folder = tmp_path_factory.mktemp("pairs")
    pairs = [(query, title) for query, title, grade, _ in judgement_rows() if grade]
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sentence1", "sentence2"), *pairs])
    home = Home(folder / "home", tiny_bert, folder / "pairs.csv")
    home.words += ["objective=infonce", "stop.trials=3"]
    assert home.run("search") == 0
    return home


def test_every_trial_trains_by_infonce_and_the_pool_chooses(home, capsys):
    assert len(home.trials) == 3
    assert all(
        event["params"].get("objective.name", "infonce") == "infonce"
        for number in range(3)
        for event in home.events("created", number)
    )
    tested = {event["label"]: event for event in home.events("tested")}
    best = tested["best trial"]
    assert best["auc"]["value"] == best["metrics"]["pool_ndcg_10"]
    assert best["metrics"]["pool_ndcg_10"] > tested["untuned encoder"]["metrics"]["pool_ndcg_10"]
    page = (home.study / "report.html").read_text(encoding="utf-8")
    assert "pool nDCG@10" in page
    assert home.run("status") == 0
    shown = capsys.readouterr().out
    assert "pool nDCG@10" in shown.replace("\n", " ")


def test_the_same_command_finds_it_ended(home, capsys):
    assert home.run("search") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_an_ended_study_is_not_shown_for_other_data(home, capsys):
    data = home.folder.parent / "pairs.csv"
    content = data.read_text(encoding="utf-8")
    data.write_text(content + "one more query,one more title\n", encoding="utf-8")
    assert home.run("search") == 2
    assert "was begun with other data" in capsys.readouterr().err
    data.unlink()
    assert home.run("search") == 0
    said = capsys.readouterr()
    data.write_text(content, encoding="utf-8")
    assert f"could not be compared with the study's: {data} is gone" in said.err
    assert "nothing to do" in said.out


def test_another_objective_is_another_study(home, capsys):
    assert home.run("search", "evaluate.objective=auc") == 2
    assert 'evaluate.objective: "pool_ndcg_10" -> "auc"' in capsys.readouterr().err


def test_gates_speak_of_the_metric_that_chose(home, capsys):
    assert home.run("promote", "track.uri=null", "--dry-run") in (0, 3)
    said = capsys.readouterr().out
    assert f"trial {home.result['best']}: test pool nDCG@10" in said
    assert "test AUC" in said  # the floor
    assert "pool_recall_10" in said
