"""Hard negatives with a teacher's scores as FlagEmbedding ships them: distilled and ranked."""

from __future__ import annotations

import json
from itertools import groupby

import pytest

from tests.conftest import judgement_rows
from tests.stories.home import Home

pytestmark = pytest.mark.story


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_bert):
    folder = tmp_path_factory.mktemp("teacher")
    lines = []
    for query, rows in groupby(judgement_rows(), key=lambda row: row[0]):
        good, bad = [], []
        for _, title, grade, _ in rows:
            (good if grade else bad).append(title)
        scores = {"pos_scores": [4.0, 3.0], "neg_scores": [1.0, -1.0, -2.0, -3.0]}
        lines.append(json.dumps({"query": query, "pos": good, "neg": bad, **scores}))
    (folder / "hard.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    home = Home(folder / "home", tiny_bert, folder / "hard.jsonl")
    home.words.remove("objective=triplet")
    home.words += ["stop.trials=3", "space.objective.name.choices=[kl,margin_mse,listwise]"]
    home.words += ["space.objective.margin=null", "space.objective.temperature.when=null"]
    home.words += ["objective=kl", "objective.temperature=0.1"]
    return home


def test_the_check_names_the_columns_of_the_scores(home, capsys):
    assert home.run("data check") == 0
    said = capsys.readouterr().out
    assert "pos_score = pos_scores" in said
    assert "unused" not in said


def test_a_search_over_losses_of_a_teacher_and_of_lists_beats_the_untuned_encoder(home, capsys):
    assert home.run("search") == 0
    capsys.readouterr()
    tested = {event["label"]: event["metrics"] for event in home.events("tested")}
    assert tested["best trial"]["auc"] > tested["untuned encoder"]["auc"]
    losses = {home.events("created", n)[0]["params"]["objective.name"] for n in range(3)}
    assert "kl" in losses


@pytest.mark.parametrize("loss", ["margin_mse", "listwise"])
def test_each_of_them_trains_alone(home, loss, capsys):
    assert home.run("train", f"objective={loss}", f"study.name={loss}") == 0
    assert "best trial" in capsys.readouterr().out


def test_without_scores_they_are_refused_before_anything_begins(home, judgements_csv, capsys):
    assert home.run("search", f"data.path={judgements_csv}", "study.name=none") == 2
    assert "learns from a teacher's scores, and none of the" in capsys.readouterr().err
