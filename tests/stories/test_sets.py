"""Two sets of data as their communities write them, in one study: from the files to the champion's prompts."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import yaml

from tests.conftest import COLOURS, THINGS
from tests.stories.home import Home

pytestmark = pytest.mark.story
SEARCHED = "+space.data.sets.titles.share={low: 0.5, high: 4, log: true}"
SETS = ("data.path=null", "objective=auto", "stop.trials=3", "train.texts=2400")


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_bert, judgements_csv):
    """Judged titles beside intents, whose class is their colour in either of two words."""
    folder = tmp_path_factory.mktemp("sets")
    draw = np.random.default_rng(0)
    rows = {}
    for colour, words in COLOURS.items():
        for word in (colour, words) * 20:
            things = draw.choice(THINGS, 5)
            rows[" ".join([*things[:2], word, *things[2:]])] = f"colour_{colour}"
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "category"), *rows.items()])
    home = Home(folder / "home", tiny_bert, judgements_csv)
    home.words.remove("objective=triplet")
    home.words += [
        *SETS,
        f"data.sets.titles.path={judgements_csv}",
        "data.sets.titles.prompts.query='lamp '",
        f"data.sets.intents.path={folder / 'train.csv'}",
        "data.sets.intents.weight=0.5",
        "data.sets.intents.objective={name: supcon, temperature: 0.1}",
        "data.sets.intents.prompts.query='coat '",
        SEARCHED,
    ]
    return home


def test_the_check_has_a_section_for_each_set_with_its_prompt(home, capsys):
    assert home.run("data check") == 0
    said = capsys.readouterr().out
    titles, intents = said.split("set intents")
    assert "set titles" in titles
    assert "format      judgements" in titles
    assert "  'lamp red" in titles
    assert "format      classes" in intents
    assert "  'coat " in intents
    assert "fingerprint of all sets" in intents


def test_the_search_shares_out_the_batches_and_says_what_chooses(home, capsys):
    assert home.run("plan") == 0
    assert home.run("search") == 0
    said = capsys.readouterr().out
    assert "set titles: 50% of the batches, about 1," in said
    assert "data.sets.intents.format=classes, by the columns" in said
    words = "the mean of AUC (titles, weight 1) and accuracy (intents, weight 0.5)"
    assert f"trials are chosen by {words}" in said
    assert "mean of sets: the mean of AUC (titles" in said
    shares = {json.loads(point)["data.sets.titles.share"] for point in home.params()}
    assert len(shares) == 3
    tested = {event["label"]: event for event in home.events("tested")}
    best = tested["best trial"]["metrics"]
    mean = (best["titles/auc"] + 0.5 * best["intents/accuracy"]) / 1.5
    assert best["mean"] == pytest.approx(mean)
    assert tested["best trial"]["auc"]["value"] == pytest.approx(mean)
    assert best["mean"] > tested["untuned encoder"]["metrics"]["mean"]
    config = yaml.safe_load((home.study / "trials/t0001/config.yaml").read_text())
    assert config["data"]["sets"]["titles"]["share"] in shares


def test_the_page_the_card_and_the_comparison_show_each_set(home, capsys):
    page = (home.study / "report.html").read_text(encoding="utf-8")
    assert "titles: AUC" in page
    assert "intents: accuracy" in page
    assert home.run("card") == 0
    card = capsys.readouterr().out
    assert "titles: AUC" in card
    assert "the mean of AUC (titles" in card
    assert home.run("status") == 0
    assert "mean of sets: the mean of AUC (titles" in capsys.readouterr().out
    home.words.remove(SEARCHED)
    assert home.run("search", "study.name=fixed", "stop.trials=1") == 0
    home.words.append(SEARCHED)
    assert home.run("compare", "study.name=fixed") == 0
    said = capsys.readouterr().out
    assert "data.sets.titles.share" in said
    assert "fixed at 1" in said


def test_the_same_command_finds_it_ended(home, capsys):
    assert home.run("search") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_the_champion_keeps_the_prompt_of_each_set(home, capsys, tmp_path):
    assert home.run("promote", "track=mlflow", "track.uri=null") == 0
    said = capsys.readouterr().out
    assert "titles/auc" in said
    assert "intents/accuracy" in said
    texts, vectors = tmp_path / "texts.txt", tmp_path / "vectors.jsonl"
    texts.write_text("crimson lamp\n", encoding="utf-8")
    words = ["checkpoint=champion", f"input={texts}", f"output={vectors}"]
    assert home.run("encode", *words, "prompt_name=titles_query") == 0
    found = json.loads(vectors.read_text().splitlines()[0])["vector"]

    from sentence_transformers import SentenceTransformer

    best = home.result["best"]
    model = SentenceTransformer(str(home.study / f"trials/t{best:04d}/model"), device="cpu")
    assert model.prompts["titles_query"] == "lamp "
    assert model.prompts["intents_query"] == "coat "
    theirs = model.encode("crimson lamp", prompt_name="titles_query")
    assert np.abs(np.array(found) - theirs).max() < 1e-5
    assert home.run("encode", *words, "prompt_name=title_query") == 2
    assert "Did you mean 'titles_query'?" in capsys.readouterr().err
    index = ["checkpoint=champion", f"output={tmp_path / 'index'}"]
    assert home.run("index", *index) == 2
    assert "give input=FILE, and the set's prompt" in capsys.readouterr().err
    assert home.run("index", *index, f"input={texts}", "prompt_name=titles_document") == 0
    asked = [f"index={tmp_path / 'index'}", "checkpoint=champion", "text=red lamp"]
    assert home.run("query", *asked, "prompt_name=titles_query") == 0
    assert "crimson lamp" in capsys.readouterr().out
    assert home.run("evaluate", "checkpoint=champion") == 0
    assert "titles/auc" in capsys.readouterr().out
    assert home.run("registry verify") == 0
    assert home.run("reproduce", "trial=1", "track=mlflow", "track.uri=null") == 0


def test_a_wrong_name_of_a_set_is_refused_with_the_nearest_one(home, capsys):
    assert home.run("search", "+space.data.sets.title.share={low: 1, high: 2}") == 2
    assert "Did you mean 'data.sets.titles.share'?" in capsys.readouterr().err
    assert home.run("search", "study.name=other", "data.sets.title.share=3") == 2
    assert "data.sets.title: names no file" in capsys.readouterr().err
