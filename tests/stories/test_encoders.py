"""A search over encoders of several kinds, from the first check to promotion, with static ones among them."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_encoders
from sentence_transformers import SentenceTransformer

from embsearch.cli.main import main
from tests.conftest import judgement_rows
from tests.stories.home import Home

pytestmark = pytest.mark.story
LENGTHS = "+space.model.max_length={choices: [8, 16, 65], ordered: true}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("encoders")
    texts = [text for row in judgement_rows() for text in row[:2]]
    return {
        "static": tiny_encoders.save_model2vec(texts, place / "static"),
        "router": tiny_encoders.save("Router: two heads", texts, place / "router"),
    }


@pytest.fixture(scope="module")
def home(folders, judgements_csv, tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home") / "home", folders["static"], judgements_csv)
    choices = ", ".join(map(str, folders.values()))
    home.words += [f"+space.model.path={{choices: [{choices}]}}", "stop.trials=4"]
    return home


def test_what_one_of_the_encoders_cannot_do_is_refused_before_anything_begins(home, capsys):
    assert home.run("search", LENGTHS, "model.max_length=8") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "the space has what an encoder cannot do: model.max_length=65: the encoder has 64" in said
    )
    assert not home.study.exists()


def test_each_encoder_has_its_baseline_and_the_page_says_which_won(home, folders, capsys):
    assert home.run("search") == 0
    said = " ".join(capsys.readouterr().err.split())
    (baseline,) = home.events("baseline")
    assert [*baseline["encoders"]] == [str(folder) for folder in folders.values()]
    for path, facts in baseline["encoders"].items():
        model = SentenceTransformer(path, device="cpu")
        assert facts["parameters"] == sum(p.numel() for p in model.parameters())
        assert f"untuned {path}: auc {facts['metrics']['auc']:.4f}" in said
    assert baseline["encoders"][str(folders["static"])]["metrics"] == baseline["metrics"]
    page = (home.study / "report.html").read_text(encoding="utf-8")
    assert "The encoders" in page
    assert page.count('<span class="mark">won</span>') == 1


def test_promotion_asks_for_the_licence_of_the_encoder_that_won(home, folders, capsys):
    (folders["static"] / "README.md").write_text("---\nlicense: mit\n---\n")
    (folders["router"] / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    best = home.events("created", home.result["best"])[0]["params"]["model.path"]
    home.run("promote", "promote.licence=null", "track.uri=null", "--dry-run")
    licence = {str(folders["static"]): "mit", str(folders["router"]): "apache-2.0"}[best]
    assert f"{best}: {licence}" in capsys.readouterr().out.replace("\n", "").replace("  ", "")


def test_a_role_takes_its_route_through_encode(home, folders, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("red shoe\nblue lamp\n")
    model = SentenceTransformer(str(folders["router"]), device="cpu")
    for role, own in (("query", model.encode_query), ("document", model.encode_document)):
        file = tmp_path / f"{role}.npy"
        words = [
            f"checkpoint={folders['router']}",
            f"input={texts}",
            f"output={file}",
            f"as={role}",
        ]
        assert main(["encode", f"home={tmp_path}", "device=cpu", *words]) == 0
        np.testing.assert_allclose(np.load(file), own(["red shoe", "blue lamp"]), atol=1e-5)


def test_a_graph_of_what_is_no_single_transformer_is_refused(home, folders, tmp_path, capsys):
    for name, kind in (("static", "StaticEmbedding"), ("router", "Router")):
        words = [f"checkpoint={folders[name]}", f"output={tmp_path / 'graph'}"]
        assert home.run("export", *words) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"{kind} is not exported" in said
        assert not (tmp_path / "graph").exists()
