"""A search over adapters, from its space to a champion that needs no peft; one that learnt nothing is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.stories.home import Home

pytestmark = pytest.mark.story
RECORD = ["track=mlflow", "stop.trials=3", "space=lora"]


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_bert, judgements_csv):
    folder = tmp_path_factory.mktemp("adapters")
    home = Home(folder / "home", tiny_bert, judgements_csv)
    home.words.remove("space=small")
    home.words.remove("space.train.lr={low: 1e-4, high: 1e-2}")
    home.words.append("space.train.lr={low: 1e-3, high: 1e-1, log: true}")
    home.words[home.words.index("train.lr=1e-3")] = "train.lr=2e-2"
    assert home.run("search", *RECORD) == 0
    return home


def test_every_trial_trains_an_adapter_of_a_rank_of_its_own(home):
    assert all("model.lora.rank" in json.loads(params) for params in home.params())
    tested = {event["label"]: event["metrics"]["auc"] for event in home.events("tested")}
    assert tested["best trial"] > tested["untuned encoder"] + 0.05
    assert "model.lora.rank" in (home.study / "report.html").read_text(encoding="utf-8")


def test_the_champion_is_merged_with_the_adapter_beside_it(home, capsys):
    assert home.run("promote", *RECORD) == 0
    assert "component from the untuned encoder's" in capsys.readouterr().out
    model = home.study / f"trials/t{home.result['best']:04d}/model"
    assert (model / "adapter" / "adapter_model.safetensors").exists()
    own = SentenceTransformer(str(model), device="cpu").encode(["red shoe"])
    out = home.folder / "vectors.npy"
    texts = home.folder / "texts.txt"
    texts.write_text("red shoe\n")
    assert (
        home.run("encode", *RECORD, "checkpoint=champion", f"input={texts}", f"output={out}") == 0
    )
    np.testing.assert_allclose(np.load(out), own, rtol=0, atol=1e-5)


def test_an_adapter_that_moved_no_vector_is_refused_by_name(home, capsys):
    still = [
        "track=mlflow",
        "stop.trials=1",
        "study.name=still",
        "space=none",
        "model.adapter=lora",
    ]
    words = [word for word in home.words if not word.startswith(("space.", "train.lr"))]
    other = Home(home.folder, home.model, home.data)
    other.words = [*words, *still, "train.lr=1e-12", "promote.min_gain=-1"]
    assert other.run("search") == 0
    capsys.readouterr()
    assert other.run("promote") == 3
    assert "moved" in capsys.readouterr().err.strip().rpartition("refused by ")[2]


def test_a_trial_is_reproduced_to_the_bit_and_its_card_tells_of_the_adapter(home, capsys):
    best = f"trial={home.result['best']}"
    assert home.run("reproduce", *RECORD, best) == 0
    assert "identical: 3 of 3 evaluations, weights sha256" in capsys.readouterr().out
    assert home.run("card", *RECORD, best) == 0
    said = capsys.readouterr().out
    assert "`adapter/` holds it alone" in said
    assert "adapter: lora" in said
