"""MLflow's database is a view: deleted or damaged, 'sync' makes it again, registered models and all."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import sys
from contextlib import closing

import pytest
from home import Home, read_only

from embsearch.config.load import compose
from embsearch.history.log import read_json
from embsearch.registry import mlflow_registry as registry
from embsearch.registry import own_copy
from embsearch.registry.journal import FILE
from embsearch.track.mlflow_model import DIGEST

pytestmark = pytest.mark.story
RECORD = ["track=mlflow", "train.texts=600"]
LOOSE = ["promote.min_gain=-1", "promote.max_segment_loss=1", "promote.min_auc=0", "promote.max_slowdown=99",
         "promote.max_leak=1"]  # fmt: skip


def let_go():
    """Do what a new process does: MLflow's connections are to the files of now."""
    for name in ("tracking", "model_registry"):
        if module := sys.modules.get(f"mlflow.store.{name}.sqlalchemy_store"):
            for engine in module.SqlAlchemyStore._engine_map.values():
                engine.dispose()


class Shop(Home):
    """Two studies of one registered model: version 1, 2 over it, rolled back, then 3 of the other study."""

    def run(self, verb, *words):
        let_go()
        return super().run(verb, *RECORD, *words)

    before = None  # what is seen of it while it is whole

    @property
    def database(self):
        return self.folder / "mlflow.db"

    @property
    def client(self):
        let_go()
        return registry.registry(compose([f"home={self.folder}", "study.task=s"]))

    def version(self, number):
        return registry.files_of(
            self.client, registry.get_version(self.client, "s", number), self.folder / "cache"
        )


@pytest.fixture(scope="module")
def shop(tmp_path_factory, tiny_bert, judgements_csv):
    folder = tmp_path_factory.mktemp("shop")
    home = Shop(folder / "home", tiny_bert, shutil.copy(judgements_csv, folder / "rows.csv"))
    home.texts = folder / "texts.txt"
    home.texts.write_text("red shoe\n")
    assert home.run("search", "stop.trials=2") == 0
    assert home.run("promote", *LOOSE, "trial=0") == 0
    assert home.run("promote", *LOOSE, "trial=1") == 0
    assert home.run("rollback", "reason=complaints") == 0
    assert home.run("search", "study.name=other", "stop.trials=1", "train.texts=6000") == 0
    assert home.run("promote", *LOOSE, "study.name=other") == 0
    return home


@pytest.fixture
def says(shop, capsys):
    """What a verb says with this exit code."""

    def run(code, verb, *words):
        capsys.readouterr()
        found = shop.run(verb, *words)
        out, err = capsys.readouterr()
        assert (found, "Traceback" in err) == (code, False), out + err
        return out if code == 0 else out + err  # stderr has the progress too

    return run


@pytest.fixture
def everything(shop, says):
    """What people and programs see of the registry and of the runs."""

    def see():
        client = shop.client
        runs = client.search_runs(
            [e.experiment_id for e in client.search_experiments()], max_results=1000
        )
        tags = {}
        for number in (1, 2, 3):
            found = client.get_model_version("s", str(number))
            tags[number] = {k: v for k, v in found.tags.items() if k != "embsearch.promotion_run"}
            tags[number]["card"] = found.description
        return {
            "history": says(0, "history"),
            "verify": says(0, "registry verify"),
            "champion": says(0, "encode", "checkpoint=champion", f"input={shop.texts}"),
            "first": says(0, "encode", "checkpoint=s/1", f"input={shop.texts}"),
            "runs": sorted(
                (r.data.tags["embsearch.uid"], r.info.status, sorted(r.data.metrics.items()))
                for r in runs
                if "/promotion/" not in r.data.tags["embsearch.uid"]
            ),
            "promotions": sorted(
                (r.data.tags["embsearch.uid"], r.info.run_name, r.data.tags["mlflow.note.content"])
                for r in runs
                if "/promotion/" in r.data.tags["embsearch.uid"]
            ),
            "tags": tags,
            "aliases": dict(client.get_registered_model("s").aliases),
        }

    return see


def test_a_home_that_cannot_be_written_answers_as_before(shop, says, sound, everything, tmp_path):
    gathered(shop.database)
    page = tmp_path / "page.html"
    tmp_path.chmod(0o777)
    (shop.model / "model.safetensors").chmod(0o644)
    asked = [
        ("status", "--why"),
        ("plan",),
        ("card", "trial=1"),
        ("data check",),
        ("evaluate", "trial=1"),
        ("report", f"output={page}", "--no-open"),
        ("encode", "trial=1", f"input={shop.texts}"),
        ("compare", "study.name=other"),
        ("rollback", "--dry-run"),
        ("promote", "trial=1", *LOOSE),
        ("search", "stop.trials=3"),
        ("report", "--no-open"),
    ]
    with read_only(shop.folder):
        assert everything() == sound
        for verb, *words in asked[:8]:
            said = says(0, verb, *words)
            if verb == "evaluate":
                assert f"{shop.folder} cannot be written: this look at its test rows is not" in said
        assert page.exists()
        for verb, *words in asked[8:]:
            assert "expected a place that can be written" in says(2, verb, *words)
        assert shop.run("status") == 0
    assert everything() == sound


def test_a_home_that_cannot_be_written_and_has_no_database_says_so(shop, says, sound):
    delete(shop.database)
    with read_only(shop.folder):
        told = f"{shop.database}: is not there, and {shop.folder} cannot be written"
        assert told in says(2, "history")
    assert not shop.database.exists()


def moves(history):
    """The champions of a history's table."""
    return re.findall(r"^ *[-\d]+ [:\d]+ +version (\d)", history, re.M)


@pytest.fixture
def sound(shop, everything):
    """What is seen before anything is damaged. It is so again after the test."""
    kept = {p: p.read_bytes() for p in (*shop.folder.glob("mlflow.db*"), shop.folder / FILE)}
    if shop.before is None:
        shop.before = everything()
    assert shop.before["aliases"] == {"champion": 3, "previous": 1}
    assert moves(shop.before["history"]) == ["1", "2", "1", "3"]
    yield shop.before
    for path in shop.folder.glob("mlflow.db*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)


def gathered(path):
    """The file of a database with all that its WAL has."""
    let_go()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def delete(path):
    for part in path.parent.glob("mlflow.db*"):
        part.unlink()


def empty(path):
    gathered(path)
    path.write_bytes(b"")


def flip(path):
    gathered(path)
    with path.open("r+b") as file:
        file.write(b"?")


def truncate(path):
    gathered(path)
    os.truncate(path, path.stat().st_size // 2)


def garble(path):
    gathered(path)
    path.write_text("not a database\n" * 100)


def replace_by_folder(path):
    delete(path)
    path.mkdir()
    (path / "file").write_text("")


def zero(path):
    """A page in the middle that is in use."""
    gathered(path)
    with closing(sqlite3.connect(path)) as database:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'model_versions'"
        (page,) = database.execute(query).fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(size))


@pytest.mark.parametrize("how", [delete, empty])
def test_a_database_that_is_gone_is_named_and_made_again(how, shop, says, sound, everything):
    how(shop.database)
    told = (
        "s/3 was promoted in this home, and MLflow does not know the model s any more: 'embsearch"
    )
    for verb, *words in (
        ("history",),
        ("rollback",),
        ("encode", "checkpoint=champion", f"input={shop.texts}"),
        ("promote", "trial=1", *LOOSE),
    ):
        assert told in says(2, verb, *words)
    assert "s/3: is not in the registry" in says(3, "registry verify")
    assert "registered model s: made again, 3 versions" in says(0, "sync")
    assert everything() == sound
    assert "made again" not in says(0, "sync")


@pytest.mark.parametrize("how", [flip, truncate, garble, replace_by_folder, zero])
def test_a_damaged_database_is_named_set_aside_and_made_again(
    how, shop, says, sound, everything, tmp_path
):
    how(shop.database)
    for verb, *words in (
        ("history",),
        ("rollback",),
        ("encode", "checkpoint=champion", f"input={shop.texts}"),
        ("evaluate", "checkpoint=champion"),
        ("serve", "checkpoint=s@champion"),
        ("index", "checkpoint=champion", f"input={shop.texts}", f"output={tmp_path / 'index'}"),
        ("promote", "trial=1", *LOOSE),
        ("registry verify",),
        ("reproduce", "checkpoint=s@champion"),
        ("ui", "open=false"),
    ):
        said = says(2, verb, *words)
        assert f"{shop.database}: MLflow's database is damaged: " in said, verb
        assert f"'embsearch sync study.name=NAME home={shop.folder}'" in said
    says(0, "status")
    said = says(0, "sync")
    assert f"{shop.database} is damaged" in said
    assert "kept as mlflow.db.damaged, made again from the event logs" in said
    assert (shop.folder / "mlflow.db.damaged").exists()
    assert everything() == sound
    assert "version 3" in says(0, "rollback", "version=2")
    assert "version 2" in says(0, "rollback", "version=3")


def test_a_search_goes_on_without_its_database_and_says_how_it_comes_back(
    shop, says, sound, capsys
):
    flip(shop.database)
    assert shop.run("search", "stop.trials=2") == 0
    said = "".join(capsys.readouterr())
    assert "MLflow's database is damaged: file is not a database; 'embsearch sync" in said


def test_a_new_number_follows_on_those_that_were_given(shop, says, sound):
    delete(shop.database)
    says(0, "sync")
    made = shop.client.create_model_version("s", "file:///nowhere")
    assert int(made.version) == 4


def test_without_the_journal_the_promotions_of_the_studies_are_enough(
    shop, says, sound, everything
):
    """As in a home of an older version: who rolled back is not known then."""
    (shop.folder / FILE).unlink()
    delete(shop.database)
    says(0, "sync")
    now = everything()
    assert moves(now["history"]) == ["1", "2", "3"]
    assert now["aliases"] == {"champion": 3, "previous": 2}
    assert now["champion"] == sound["champion"]
    assert re.findall(r"^ok +(s/.*?):.*promoted$", now["verify"], re.M) == [
        "s/2 @previous",
        "s/3 @champion",
    ]
    assert now["tags"][3].keys() >= {DIGEST, "embsearch.test_auc", "embsearch.data"}


def test_a_sync_that_was_killed_is_gone_on_with(shop, says, sound, everything, monkeypatch):
    from mlflow import MlflowClient

    create, made = MlflowClient.create_model_version, []

    def die(*args, **words):
        made.append(create(*args, **words))
        if len(made) == 2:
            raise KeyboardInterrupt
        return made[-1]

    delete(shop.database)
    monkeypatch.setattr(MlflowClient, "create_model_version", die)
    says(130, "sync")
    assert "does not know the model s any more" in says(2, "promote", "trial=1", *LOOSE)
    says(0, "sync")
    assert everything() == sound


def test_a_model_of_a_study_that_is_gone_comes_back(shop, says, sound, everything, tmp_path):
    """Its copy and the journal do not need the study."""
    shutil.move(shop.folder / "studies" / "other", tmp_path / "other")
    delete(shop.database)
    assert "s/3 was promoted in this home" in says(2, "promote", "trial=1", *LOOSE)
    said = says(0, "sync")
    assert "registered model s: made again, 3 versions" in said
    assert says(0, "encode", "checkpoint=champion", f"input={shop.texts}") == sound["champion"]
    assert says(0, "history") == sound["history"]
    shutil.move(tmp_path / "other", shop.folder / "studies" / "other")


@pytest.fixture
def copies(shop):
    """The registered files of version 1, the trial's and those that were logged; whole again after the test."""
    registered = shop.version(1).folder
    config = compose([f"home={shop.folder}", "study.task=s"])
    found = list(own_copy.places(config, shop.client.get_model_version("s", "1").tags))
    assert registered == found[0]
    kept = {
        f: f.read_bytes() for one in found if one.is_dir() for f in one.rglob("*") if f.is_file()
    }
    yield found
    for file, content in kept.items():
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            file.write_bytes(content)


def spoil(folder):
    """A flipped byte in place, as a damaged block has it: who has a hard link to the file sees it too."""
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def test_the_registered_model_is_a_copy_of_its_own(shop, says, sound, copies):
    registered, *others = copies
    assert not own_copy.is_shared(registered)
    for one in others:
        if one.is_dir():
            spoil(one)
            break  # the logged one and the trial's are one file
    assert own_copy.is_whole(registered, shop.client.get_model_version("s", "1").tags[DIGEST])
    assert says(0, "encode", "checkpoint=s/1", f"input={shop.texts}") == sound["first"]
    says(0, "sync")
    assert says(0, "encode", "checkpoint=s/1", f"input={shop.texts}") == sound["first"]


@pytest.mark.parametrize("how", [spoil, shutil.rmtree])
def test_registered_files_are_made_again_of_the_trials(how, shop, says, sound, copies, everything):
    registered = copies[0]
    how(registered)
    words = ("encode", "checkpoint=s/1", f"input={shop.texts}")
    assert "'embsearch sync" in says(2, *words)
    assert "'embsearch sync" in says(3, "registry verify")
    assert f"s/1: its files were gone or damaged; copied from {copies[1]}" in says(0, "sync")
    assert everything() == sound


@pytest.mark.parametrize("database", [delete, lambda path: None], ids=["lost too", "whole"])
def test_files_that_are_nowhere_are_named_and_the_rest_comes_back(
    database, shop, says, sound, copies
):
    for one in copies:
        shutil.rmtree(one, ignore_errors=True)
    database(shop.database)
    said = says(2, "sync")
    assert "s/1: its files (sha256 " in said
    assert str(copies[-1]) in said
    assert says(0, "encode", "checkpoint=champion", f"input={shop.texts}") == sound["champion"]
    assert "its files are gone" in says(2, "encode", "checkpoint=s/1", f"input={shop.texts}")
    assert "its files are gone" in says(2, "rollback")
    assert says(0, "history") == sound["history"]


def test_a_model_that_an_older_version_registered_becomes_a_copy(shop, says, sound, copies):
    registered, logged = copies[0], copies[1]
    for file in registered.rglob("*"):
        if file.is_file():
            file.unlink()
            os.link(logged / file.relative_to(registered), file)
    assert "s/1: its files are a copy of their own now" in says(0, "sync")
    assert not own_copy.is_shared(registered)


def test_mlflow_itself_loads_what_was_restored(shop, says, sound, monkeypatch):
    import mlflow

    delete(shop.database)
    says(0, "sync")
    let_go()
    uri = f"sqlite:///{shop.database}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_registry_uri(uri)
    try:
        vector = mlflow.pyfunc.load_model("models:/s@champion").predict(["red shoe"])[0]
    finally:
        mlflow.set_registry_uri("")
    wanted = json.loads(sound["champion"].splitlines()[0])
    assert list(vector) == pytest.approx(
        wanted if isinstance(wanted, list) else wanted["vector"], abs=1e-5
    )


def test_the_journal_has_each_version_and_each_move_once_and_a_rollback_before_it_is_made(
    shop, sound
):
    lines = read_json(shop.folder / FILE)
    versions = [one["version"] for one in lines if one["kind"] == "registered"]
    entries = [one["entry"] for one in lines if one["kind"] == "moved"]
    assert sorted(versions) == [1, 2, 3]
    assert [(entry["before"], entry["version"], entry["state"]) for entry in entries] == [
        (None, 1, "moved"),
        (1, 2, "moved"),
        (2, 1, "moving"),
        (2, 1, "moved"),
        (1, 3, "moved"),
    ]
