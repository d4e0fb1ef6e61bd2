"""Evidence that is taken away, damaged or contradicted: every verb refuses and says which, or makes it again.

The tests stand in the order in which they may be run: what cannot be undone comes last.
"""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import pytest
from home import Home

from embsearch.config.load import compose
from embsearch.registry import alias_history, trained_rows
from embsearch.registry import mlflow_registry as registry
from embsearch.track.digest import digest, manifest
from embsearch.track.mlflow_model import DIGEST

pytestmark = pytest.mark.story
RECORD = ["track=mlflow", "stop.trials=2", "train.texts=600"]
LOOSE = ["promote.min_gain=-1", "promote.max_segment_loss=1", "--dry-run"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory, tiny_bert, judgements_csv):
    """A study that has ended, whose best trial is champion."""
    folder = tmp_path_factory.mktemp("shop")
    home = Home(folder / "home", tiny_bert, shutil.copy(judgements_csv, folder / "rows.csv"))
    assert home.run("search", *RECORD) == 0
    assert (
        home.run("promote", *RECORD, *LOOSE[:2], "promote.min_auc=0", "promote.max_slowdown=99")
        == 0
    )
    (folder / "texts.txt").write_text("red shoe\n")
    home.texts = folder / "texts.txt"
    return home


@pytest.fixture
def client(shop):
    return registry.registry(compose([f"home={shop.folder}", "study.task=s"]))


@pytest.fixture
def champion(shop, client):
    return registry.champion(client, "s", shop.folder / "cache")


@pytest.fixture
def says(shop, capsys):
    """What a verb says on its way out with this exit code."""

    def run(code, verb, *words):
        capsys.readouterr()
        assert shop.run(verb, *RECORD, *words) == code
        return " ".join("".join(capsys.readouterr()).split())

    return run


@pytest.fixture
def every_verb(shop, says):
    """Holds that whoever reads the champion refuses it with these words."""
    other = next(n for n in range(2) if n != shop.result["best"])

    def refuse(words):
        for verb, *more in (
            ("encode", "checkpoint=champion", f"input={shop.texts}"),
            ("evaluate", "checkpoint=champion"),
            ("serve", "checkpoint=s@champion"),
            ("promote", f"trial={other}", *LOOSE),
        ):
            assert words in says(2, verb, *more)
        assert words in says(3, "registry verify")

    return refuse


@contextmanager
def without_tag(client, key):
    value = client.get_model_version("s", "1").tags[key]
    client.delete_model_version_tag("s", "1", key)
    yield value
    client.set_model_version_tag("s", "1", key, value)


@contextmanager
def overwritten(path, change):
    """A file with other content, which a hard link to it does not see."""
    content = path.read_bytes()
    path.unlink()
    if (new := change(content)) is not None:
        path.write_bytes(new)
    yield
    path.write_bytes(content)


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def test_what_is_whole_is_read(says, shop):
    says(0, "encode", "checkpoint=champion", f"input={shop.texts}")
    says(0, "registry verify")


def test_a_digest_that_was_removed(client, every_verb, champion):
    with without_tag(client, DIGEST):
        every_verb(f"its tag {DIGEST} is missing, so MLflow does not say which files were registered; the log of "
                   f"study s says {champion.version.digest}")  # fmt: skip


def test_a_digest_that_was_removed_and_weights_that_were_overwritten(client, every_verb, champion):
    with without_tag(client, DIGEST), overwritten(champion.folder / "model.safetensors", flipped):
        every_verb(f"its tag {DIGEST} is missing")


def test_weights_that_were_overwritten(every_verb, champion):
    with overwritten(champion.folder / "model.safetensors", flipped):
        every_verb("model.safetensors: its sha256 is")


def test_weights_whose_tag_and_manifest_were_changed_along(client, every_verb, champion):
    with overwritten(champion.folder / "model.safetensors", flipped):
        files = manifest(champion.folder)
        mine = json.dumps({"digest": digest(files), "files": files}).encode()
        with overwritten(champion.artifacts / "manifest.json", lambda _: mine):
            client.set_model_version_tag("s", "1", DIGEST, digest(files))
            every_verb(f"its tag {DIGEST} says {digest(files)}, the log of study s says")
            client.set_model_version_tag("s", "1", DIGEST, champion.version.digest)


def test_a_manifest_that_is_gone(says, champion, shop):
    with overwritten(champion.artifacts / "manifest.json", lambda _: None):
        assert "manifest.json is missing" in says(3, "registry verify")
        says(
            0, "encode", "checkpoint=champion", f"input={shop.texts}"
        )  # log and tag prove the files


@pytest.fixture
def rows_list(client, champion):
    """The list of the champion's training rows."""
    run = client.get_run(champion.tags[trained_rows.TAG])
    return registry.local_path(run.info.artifact_uri) / trained_rows.FILE


@pytest.mark.parametrize(
    ("change", "word"),
    [(flipped, "is damaged"), (lambda old: old[:40], "is damaged"), (lambda old: None, "is missing")],
    ids=["flipped", "truncated", "deleted"],
)  # fmt: skip
def test_a_list_of_training_rows_that_tells_nothing(
    change, word, rows_list, says, client, champion, shop
):
    other = f"trial={next(n for n in range(2) if n != shop.result['best'])}"
    said = f"trained_on.npy of run {champion.tags[trained_rows.TAG]} {word}"
    with overwritten(rows_list, change):
        assert said in says(3, "registry verify")
        found = says(3, "promote", other, *LOOSE, "promote.min_gain=1")
        assert "made again from study s" in found  # and so the gate can ask
        client.set_model_version_tag("s", "1", "embsearch.data", "other")
        found = says(3, "promote", other, *LOOSE)
        client.set_model_version_tag("s", "1", "embsearch.data", champion.tags["embsearch.data"])
    assert "nothing says that the champion was not trained on the test rows" in found
    assert "it cannot be made again: the data of study s are others now" in found


def test_a_version_that_names_no_run_of_its_promotion(client, says, shop):
    other = f"trial={next(n for n in range(2) if n != shop.result['best'])}"
    with without_tag(client, trained_rows.TAG):
        assert "the version names no run of its promotion" in says(3, "registry verify")
        assert "made again" not in says(
            3, "promote", other, *LOOSE, "promote.min_gain=1"
        )  # the log knows it


def test_a_history_that_was_removed(client, says):
    tags = client.get_registered_model("s").tags
    history = {key: value for key, value in tags.items() if key.startswith(alias_history.HISTORY)}
    for key in history:
        client.delete_registered_model_tag("s", key)
    assert "the history is empty: moved by hand" in says(3, "registry verify")
    for key, value in history.items():
        client.set_registered_model_tag("s", key, value)


def test_an_alias_that_was_removed(client, says, shop):
    client.delete_registered_model_alias("s", "champion")
    other = f"trial={next(n for n in range(2) if n != shop.result['best'])}"
    assert "no champion, but the history ends with version 1" in says(3, "registry verify")
    assert "has no alias champion" in says(
        2, "encode", "checkpoint=champion", f"input={shop.texts}"
    )
    assert "s has no champion, but version 1 was one" in says(2, "promote", other, *LOOSE)
    says(0, "rollback", "version=1")
    says(0, "registry verify")


def test_a_version_that_was_deleted(client, says, shop):
    client.delete_model_version("s", "1")
    assert "s/1: is not in the registry: was it deleted? study s has promoted it" in says(
        3, "registry verify"
    )
    assert "study s has promoted s/1, and MLflow has no version of it any more" in says(
        2, "encode", "checkpoint=champion", f"input={shop.texts}"
    )


def test_a_model_that_was_deleted(client, says, shop):
    client.delete_registered_model("s")
    assert "s/1: is not in the registry" in says(3, "registry verify")
    assert "s/1 was promoted in this home, and MLflow does not know the model s" in says(
        2, "encode", "checkpoint=champion", f"input={shop.texts}"
    )
