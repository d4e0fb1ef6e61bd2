"""STS-B as GLUE ships it, from the file to promotion: judged by Spearman, trained by CoSENT."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embsearch.cli.main import main
from tests.conftest import judgement_rows
from tests.stories.home import Home

pytestmark = pytest.mark.story

HEADER = [
    "index",
    "genre",
    "filename",
    "year",
    "old_index",
    "source1",
    "source2",
    "sentence1",
    "sentence2",
    "score",
]


def pairs():
    """Pairs with a score from 0 to 5: high where the title is right, with noise."""
    random = np.random.default_rng(0)
    for query, title, grade, _ in judgement_rows():
        score = np.clip(round(4.2 * grade + random.uniform(0, 1.2), 2), 0, 5)
        yield query, title, score


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_bert):
    folder = tmp_path_factory.mktemp("scored")
    lines = ["\t".join(HEADER)]
    for n, (one, other, score) in enumerate(pairs()):
        # a text of its own a row, as in STS, and a quote mark that closes nowhere
        cells = ["main-news", "MSRpar", "2012test", f"{n:04}", "none", "none"]
        mark = '"' if n % 7 == 0 else ""
        lines.append("\t".join([str(n), *cells, f"{mark}{one} never {n}", other, f"{score:.3f}"]))
    (folder / "sts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    home = Home(folder / "home", tiny_bert, folder / "sts.tsv")
    home.words.remove("objective=triplet")
    home.words += ["stop.trials=3"]
    return home


def test_the_check_says_how_it_reads_the_pairs(home, capsys):
    assert home.run("data check") == 0
    said = capsys.readouterr().out
    assert "format      scored: a row is two texts and how alike they are" in said
    assert "query = sentence1, title = sentence2, grade = score" in said
    assert " to 5, here 0 to 1; a pair from their mean" in said
    assert "training rows: text | text | score" in said


def test_losses_that_cannot_learn_are_refused_before_anything_begins(home, capsys):
    assert home.run("search", "objective=infonce") == 2
    assert "objective.name=infonce: takes every pair for a good one" in capsys.readouterr().err
    assert not home.study.exists()


def test_the_search_trains_by_the_order_of_scores_and_spearman_chooses(home, capsys):
    assert home.run("plan") == 0
    assert home.run("search") == 0
    said = capsys.readouterr().out
    assert "data.format=scored" in said
    assert len(home.trials) == 3
    losses = {home.events("created", n)[0]["params"]["objective.name"] for n in range(3)}
    assert losses <= {"cosent", "angle"}
    tested = {event["label"]: event for event in home.events("tested")}
    best = tested["best trial"]
    assert best["auc"]["value"] == best["metrics"]["spearman"]
    assert best["metrics"]["spearman"] > tested["untuned encoder"]["metrics"]["spearman"] + 0.1
    assert {"spearman", "pearson", "auc"} == set(best["metrics"])
    page = (home.study / "report.html").read_text(encoding="utf-8")
    assert "Spearman" in page
    assert "nDCG" not in page


def test_the_same_command_finds_it_ended_and_another_loss_is_another_study(home, capsys):
    assert home.run("search") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert home.run("search", "objective=cosine_mse") == 2
    assert 'objective.name: "cosent" -> "cosine_mse"' in capsys.readouterr().err


def test_gates_ask_spearman_for_the_gain_and_auc_for_the_floor(home, capsys):
    assert home.run("promote", "track.uri=null", "--dry-run") in (0, 3)
    said = capsys.readouterr().out
    assert f"trial {home.result['best']}: test Spearman" in said
    assert "test AUC" in said
    assert "pearson" in said


def test_what_describes_the_winner_speaks_of_its_scores(home, capsys):
    assert home.run("status") == 0
    assert home.run("evaluate", f"checkpoint={home.study}/trials/t0000/model") == 0
    assert home.run("card") == 0
    said = capsys.readouterr().out
    assert "Spearman" in said
    assert "nDCG" not in said


def test_a_person_with_the_model_finds_the_texts_most_like_one(home, capsys, tmp_path):
    """From the study's name alone; a text of the data finds itself, and its card speaks of texts."""
    own = [f"home={home.folder}", "study.name=s", "study.task=s", "device=cpu", "trial=0"]
    assert main(["index", *own, f"output={tmp_path / 'i'}"]) == 0
    assert "study s: " in capsys.readouterr().out
    text = json.loads((tmp_path / "i" / "titles.json").read_text(encoding="utf-8"))[0]
    assert main(["query", *own, f"index={tmp_path / 'i'}", "k=1", *text.split()]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1] == "1.0000"
    assert home.run("card") == 0
    assert 'one, other = model.encode(["a text", "another text"])' in capsys.readouterr().out
    assert main(["export", *own, "export.max_auc_loss=1", f"output={tmp_path / 'onnx'}"]) == 0
    assert "spearman" in json.loads((tmp_path / "onnx" / "export.json").read_text())["parity"]
