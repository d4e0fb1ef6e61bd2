"""From a study to a champion and back: every gate that should refuse does, by its name."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from home import Home

from embsearch.config.load import compose
from embsearch.registry import alias_history
from embsearch.registry import mlflow_registry as registry

pytestmark = pytest.mark.story
RECORD = ["track=mlflow", "stop.trials=3"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory, tiny_bert, judgements_csv):
    """A study that has ended, and was promoted."""
    folder = tmp_path_factory.mktemp("shop")
    home = Home(folder / "home", tiny_bert, shutil.copy(judgements_csv, folder / "rows.csv"))
    assert home.run("search", *RECORD) == 0
    assert home.run("promote", *RECORD) == 0
    return home


@pytest.fixture
def refused(shop, capsys):
    def by(*words: str) -> str:
        """Which gates refuse a promotion with these words."""
        capsys.readouterr()
        assert shop.run("promote", *RECORD, *words) == 3
        said = capsys.readouterr()
        return said.err.strip().rpartition("refused by ")[2]

    return by


@pytest.fixture
def other(shop):
    """A trial that did not win."""
    return next(n for n in range(3) if n != shop.result["best"])


def client_of(home):
    config = compose([f"home={home.folder}", "study.task=s"])
    return registry.registry(config)


def test_every_gate_was_asked_and_the_run_in_mlflow_has_the_evidence(shop, tmp_path):
    event = shop.events("promoted")[0]
    names = [
        "gain",
        "floor",
        "ranking",
        "segments",
        "given",
        "moved",
        "dimension",
        "speed",
        "reload",
        "files",
        "data",
        "leak",
        "licence",
    ]
    assert [gate["name"] for gate in event["gates"]] == names
    assert all(gate["passed"] for gate in event["gates"])
    given = next(gate for gate in event["gates"] if gate["name"] == "given")
    if event["trial"]:
        assert (given["facts"]["against"], "gain" in given["facts"]) == (
            "default configuration",
            True,
        )
    else:
        assert given["words"] == "it is the default configuration: no search has to be proved"
    client = client_of(shop)
    kept = client.download_artifacts(event["run"], "", str(tmp_path))
    assert json.loads((tmp_path / "gates.json").read_text()) == event["gates"], kept
    table = pd.read_csv(tmp_path / "scores.csv")
    rows = shop.events("opened")[0]["rows"]
    assert list(table)[:4] == ["row", "query", "relevant", "segment"]
    assert list(table)[4:] == ["candidate", "untuned encoder"]
    assert len(table) == rows["splits"]["test"]["rows"] if "splits" in rows else len(table) > 0
    for picture in ("gains.png", "pairs.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert len(np.load(tmp_path / "trained_on.npy")) > 100
    version = client.get_model_version("s", "1")
    assert version.tags["embsearch.licence"] == "mit"
    assert version.description.startswith("---")  # its card
    assert "models:/s/1" in version.description


def test_a_first_champion_meets_the_best_given_point(shop, other, tmp_path, capsys):
    """Trial 0 is the default configuration: the others are compared with it, and not where its files changed."""
    home = shop.at(tmp_path / "home")
    shutil.copytree(shop.study, home.study)
    log = home.study / "events.jsonl"
    kept = [line for line in log.read_text().splitlines(True) if '"kind": "promoted"' not in line]
    log.write_text("".join(kept))
    words = [*RECORD, "promote.dry_run=true", f"trial={other or 1}"]
    home.run("promote", *words)
    said = " ".join(capsys.readouterr().out.split())
    assert "over the default configuration, the best that was given, 95 % interval" in said
    (home.study / "trials/t0000/model/pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert home.run("promote", *words) == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "REFUSED given the default configuration (trial 0) cannot be judged: " in said


def test_changed_weights_and_pickles_are_refused(shop, refused):
    model = shop.study / f"trials/t{shop.result['best']:04d}/model"
    kept = shutil.copytree(model, model.with_name("kept"))
    try:
        weights = model / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.unlink()
        weights.write_bytes(content)
        assert refused() == "files"
        shutil.rmtree(model)
        shutil.copytree(kept, model)
        (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
        assert refused() == "files"
    finally:
        shutil.rmtree(model)
        kept.rename(model)
    assert shop.run("promote", *RECORD) == 0


def test_other_data_than_the_study_had_are_refused(shop, refused, other):
    content = shop.data.read_text()
    try:
        shop.data.write_text(content + "grey hat,grey hat new,1,hat\n")
        assert "data" in refused(f"trial={other}").split(", ")
    finally:
        shop.data.write_text(content)


def test_vectors_of_another_width_are_refused(shop, refused):
    narrow = ["study.name=narrow", "model.projection=16", "stop.trials=1"]
    assert shop.run("search", *RECORD, *narrow) == 0
    assert "dimension" in refused(*narrow).split(", ")
    assert "dimension" not in refused(
        *narrow, "promote.allow_dim_change=true", "promote.min_gain=1"
    ).split(", ")


def test_test_rows_that_the_champion_was_trained_on_are_refused_and_there_and_back_leaves_a_history(
    shop, refused, capsys
):
    mixed = ["study.name=mixed", "data.split.seed=1"]
    assert shop.run("search", *RECORD, *mixed) == 0
    assert "leak" in refused(*mixed).split(", ")
    loose = ["promote.max_leak=1", "promote.min_gain=-1", "promote.max_segment_loss=1"]
    assert shop.run("promote", *RECORD, *mixed, *loose) == 0

    words = ["track=mlflow", "reason=too bold"]
    assert shop.run("rollback", *words, "--dry-run") == 0
    assert registry.by_alias(client_of(shop), "s", "champion").version == 2
    assert shop.run("rollback", *words) == 0
    client = client_of(shop)
    assert registry.by_alias(client, "s", "champion").version == 1
    assert registry.by_alias(client, "s", "previous").version == 2
    last = max(
        alias_history.entries(client, "s")
    )  # as a kill leaves it that came right after the move
    alias_history._write(
        client, "s", alias_history.entries(client, "s")[last] | {"state": "moving"}, last
    )
    assert shop.run("rollback", *words) == 0
    assert registry.by_alias(client, "s", "champion").version == 1
    capsys.readouterr()
    assert shop.run("history", "track=mlflow") == 0
    said = capsys.readouterr().out
    assert said.count("promoted: study") == 2
    assert "rolled back: too bold" in said
    assert shop.run("rollback", "track=mlflow", "version=9") == 2
    assert "version=9: s has no such version; it has 1, 2" in capsys.readouterr().err


def test_verify_scores_again_and_finds_changed_files_and_moves_by_hand(shop, capsys):
    capsys.readouterr()
    assert shop.run("registry verify", "track=mlflow") == 0
    assert "when it was promoted" in capsys.readouterr().out
    client = client_of(shop)
    now = registry.by_alias(client, "s", "champion")
    other = 3 - now.version
    client.set_registered_model_alias("s", "champion", str(other))
    assert shop.run("registry verify", "track=mlflow") == 3
    assert "moved by hand" in capsys.readouterr().out
    client.set_registered_model_alias("s", "champion", str(now.version))

    weights = registry.files_of(client, now, shop.folder / "cache").folder / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        assert shop.run("registry verify", "track=mlflow") == 3
        assert "model.safetensors: its sha256 is" in capsys.readouterr().out
        client.set_registered_model_alias("s", "champion", str(other))
        assert shop.run("rollback", "track=mlflow", f"version={now.version}") == 2
        assert "model.safetensors: its sha256 is" in capsys.readouterr().err
    finally:
        weights.write_bytes(content)
        client.set_registered_model_alias("s", "champion", str(now.version))


def test_a_deleted_champion_is_found_and_another_version_takes_its_place(shop, capsys):
    client = client_of(shop)
    now = registry.by_alias(client, "s", "champion")
    client.delete_model_version("s", str(now.version))  # MLflow drops the alias without a word
    assert shop.run("registry verify", "track=mlflow") == 3
    assert "was that deleted?" in capsys.readouterr().out
    assert shop.run("rollback", "track=mlflow", f"version={3 - now.version}") == 0
    assert registry.by_alias(client, "s", "champion").version == 3 - now.version
    assert shop.run("registry verify", "track=mlflow") == 0


def test_two_promotions_at_once_wait_for_each_other(shop):
    loose = [
        "promote.min_gain=-1",
        "promote.max_segment_loss=1",
        "promote.allow_dim_change=true",
        "promote.max_leak=1",
    ]
    words = [
        *RECORD,
        "study.name=narrow",
        "model.projection=16",
        "stop.trials=1",
        "promote.min_auc=0",
        *loose,
    ]
    before = len(alias_history.history(client_of(shop), "s"))
    both = [shop.start("promote", *words) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("was champion already" in text for text in said) == [False, True]
    assert len(alias_history.history(client_of(shop), "s")) == before + 1


def test_a_champion_is_missed_also_where_no_version_is_left(shop, capsys):
    client = client_of(shop)
    for version in registry.versions(client, "s"):
        client.delete_model_version("s", str(version.version))
    capsys.readouterr()
    assert shop.run("registry verify", "track=mlflow") == 3
    assert "was that deleted?" in capsys.readouterr().out
