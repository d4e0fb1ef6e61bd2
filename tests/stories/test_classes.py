"""Intents as BANKING77 ships them, from the file to the served champion: judged by the nearest class."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from embsearch.cli.main import main
from tests.conftest import COLOURS, THINGS
from tests.stories.home import Home

pytestmark = pytest.mark.story


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_bert):
    """A text's class is its colour, in either of two words; the many things beside it say nothing."""
    folder = tmp_path_factory.mktemp("classes")
    draw = np.random.default_rng(0)
    rows = []
    for colour, words in COLOURS.items():
        for word in (colour, words) * 30:
            things = draw.choice(THINGS, 5)
            rows.append((" ".join([*things[:2], word, *things[2:]]), f"colour_{colour}"))
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "category"), *dict(rows).items()])
    home = Home(folder / "home", tiny_bert, folder / "train.csv")
    home.words.remove("objective=triplet")
    home.words += ["stop.trials=3"]
    return home


def test_the_check_says_how_it_reads_the_texts(home, capsys):
    assert home.run("data check") == 0
    said = capsys.readouterr().out
    assert "format      classes: a row is a text and its class" in said
    assert "columns   text, label = category" in said
    assert "split by text, each class on its own" in said
    assert "text | another of its class | class" in said


def test_losses_that_need_negatives_are_refused(home, capsys):
    assert home.run("search", "objective=triplet") == 2
    assert "objective.name=triplet: none of the" in capsys.readouterr().err
    assert not home.study.exists()


def test_the_search_is_chosen_by_accuracy_and_the_best_trial_beats_the_untuned_encoder(
    home, capsys
):
    assert home.run("plan") == 0
    assert home.run("search") == 0
    said = capsys.readouterr().out
    assert "data.format=classes" in said
    assert "trials are chosen by accuracy" in said
    assert len(home.trials) == 3
    tested = {event["label"]: event for event in home.events("tested")}
    best, untuned = tested["best trial"], tested["untuned encoder"]
    assert best["auc"]["value"] == best["metrics"]["accuracy"]
    assert best["metrics"]["accuracy"] > untuned["metrics"]["accuracy"] + 0.1
    assert set(best["metrics"]) == {"accuracy", "macro_f1", "auc"}
    page = (home.study / "report.html").read_text(encoding="utf-8")
    assert "accuracy" in page
    assert "macro-F1" in page
    assert "nDCG" not in page


def test_the_same_command_finds_it_ended(home, capsys):
    assert home.run("search") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_supervised_contrast_trains_it_too(home, capsys):
    words = ["study.name=supcon", "space.objective.name=null", "space.objective.margin=null"]
    words += ["space.objective.temperature.when=null", "objective=supcon", "stop.trials=1"]
    assert home.run("search", *words) == 0
    assert home.run("compare", "study.name=supcon") == 0
    capsys.readouterr()


def test_the_best_trial_becomes_champion_and_its_vectors_are_served(home, capsys, tmp_path):
    assert home.run("promote", "track=mlflow", "track.uri=null") == 0
    said = capsys.readouterr().out
    assert "test accuracy" in said
    assert "test AUC" in said  # the floor
    assert "macro_f1" in said
    texts, vectors = tmp_path / "texts.txt", tmp_path / "vectors.jsonl"
    texts.write_text("crimson lamp\n", encoding="utf-8")
    assert home.run("encode", "checkpoint=champion", f"input={texts}", f"output={vectors}") == 0
    assert home.run("evaluate", "checkpoint=champion") == 0
    assert "macro_f1" in capsys.readouterr().out
    assert home.run("card") == 0
    card = capsys.readouterr().out
    assert "texts of one class lie near each other" in card
    assert "nDCG" not in card
    assert home.run("status") == 0
    assert home.run("registry verify") == 0
    assert "test accuracy" in capsys.readouterr().out
    assert json.loads(vectors.read_text().splitlines()[0])


def test_the_nearest_training_texts_are_found_with_their_classes(
    home, capsys, tmp_path, monkeypatch
):
    """The command names no data: they are those that the study began with."""
    monkeypatch.setenv("COLUMNS", "400")
    own = [f"home={home.folder}", "study.name=s", "study.task=s", "device=cpu"]
    index, found = tmp_path / "texts.index", tmp_path / "found.jsonl"
    assert main(["index", *own, f"output={index}"]) == 0
    assert "study s: " in (said := capsys.readouterr().out)
    assert " texts; encoded by champion" in said
    assert main(["query", *own, f"index={index}", "k=3", "crimson lamp"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all("  colour_" in line for line in lines[1:])
    assert main(["query", *own, f"index={index}", "k=1", "lamp", f"output={found}"]) == 0
    assert json.loads(found.read_text())["titles"][0]["class"].startswith("colour_")
    assert main(["query", *own, f"index={index}", "k=2", "compare=untuned", "lamp"]) == 0
    assert f"untuned encoder {home.model}" in capsys.readouterr().out


def test_a_table_of_texts_with_a_class_keeps_the_class_too(home, capsys, tmp_path):
    own = [f"home={home.folder}", "study.task=s", "device=cpu"]
    (tmp_path / "more.csv").write_text("utterance,intent\nred lamp,a\nblue shoe,b\nred lamp,a\n")
    index = tmp_path / "more.index"
    assert main(["index", *own, f"input={tmp_path / 'more.csv'}", f"output={index}"]) == 0
    assert "3 texts, 1 of them twice" in capsys.readouterr().out
    assert main(["query", *own, f"index={index}", "blue", "shoe"]) == 0
    first = capsys.readouterr().out.splitlines()[1].split()
    assert first == ["1", "1.0000", "b", "blue", "shoe"]


def test_its_card_and_its_export_speak_of_texts(home, capsys, tmp_path):
    assert home.run("card") == 0
    card = capsys.readouterr().out
    assert 'one, other = model.encode(["a text", "another text"])' in card
    assert "encode_query" not in card
    assert "training rows: " in card
    own = [f"home={home.folder}", "study.name=s", "study.task=s", "device=cpu"]
    assert main(["export", *own, "export.max_auc_loss=1", f"output={tmp_path / 'onnx'}"]) == 0
    assert "accuracy" in json.loads((tmp_path / "onnx" / "export.json").read_text())["parity"]
