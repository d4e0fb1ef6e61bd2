"""``checkpoint=``: which model its words mean in a real registry; its files are those that were registered."""

from __future__ import annotations

import shutil

import pytest

from embsearch.cli.models import chosen, chosen_or_champion
from embsearch.config.load import compose, compose_options
from embsearch.config.options import TakesModel
from embsearch.errors import ModelError
from embsearch.registry.mlflow_registry import CHAMPION, registry
from embsearch.track.digest import digest, manifest
from embsearch.track.mlflow_model import DATA, DIGEST


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_bert):
    """A registry with the model ``shoes``: version 1 is champion, version 2 has been tampered with since."""
    home = tmp_path_factory.mktemp("home")
    client = registry(compose([f"home={home}"]))
    client.create_registered_model("shoes")
    for version in ("1", "2"):
        folder = home / "artifacts" / version
        shutil.copytree(tiny_bert, folder / DATA)
        client.create_model_version(
            "shoes", folder.as_uri(), tags={DIGEST: digest(manifest(folder / DATA))}
        )
    (folder / DATA / "config.json").write_text("{}")
    client.set_registered_model_alias("shoes", CHAMPION, "1")
    return home


def named(home, words):
    """What a verb gets of ``checkpoint=words``."""
    typed = [f"home={home}", "study.task=shoes", f"checkpoint={words}"]
    return compose(typed), compose_options(typed, TakesModel)


@pytest.mark.parametrize(
    "words", ["champion", "shoes@champion", "shoes/1", "models:/shoes@champion", "models:/shoes/1"]
)
def test_an_alias_and_a_version_name_a_registered_model(home, words):
    model = chosen(*named(home, words))
    assert (model.version.name, model.version.version) == ("shoes", 1)
    assert model.folder == home / "artifacts/1" / DATA
    assert model.digest() == digest(manifest(model.folder))


def test_nothing_named_is_the_champion_for_those_who_ask_for_it(home):
    model = chosen_or_champion(compose([f"home={home}", "study.task=shoes"]), TakesModel())
    assert model.name == "shoes@champion"
    assert chosen(compose([f"home={home}"]), TakesModel()).folder is None


def test_a_folder_wins_over_a_version_of_the_same_words(home, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bert, tmp_path / "shoes" / "1")
    assert chosen(*named(home, "shoes/1")).version is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("shoes/7", "model shoes has no such version. It has versions 1 to 2, aliases champion"),
        ("shoes@chmpion", "no alias chmpion. Did you mean 'champion'?"),
        ("shoe@champion", "no model named shoe. Did you mean 'shoes'?"),
        ("./nope", "modules.json is missing"),
        ("shoes/2", "sha256 over its files is"),
    ],
)
def test_what_is_not_there_or_not_as_it_was_is_told(home, words, says):
    with pytest.raises(ModelError) as caught:
        chosen(*named(home, words))
    assert says in str(caught.value)
