"""A rollback that is killed anywhere is finished by the same command, also where mlflow.db went too."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from embsearch.config.schema import Config
from embsearch.history import events
from embsearch.history.folder import StudyFolder
from embsearch.history.log import EventLog, read_events
from embsearch.registry import alias_history, journal, own_copy, restore
from embsearch.registry import mlflow_registry as registry
from embsearch.registry.evidence import promotions
from embsearch.registry.rollback import rollback
from embsearch.track.digest import digest, manifest
from embsearch.track.mlflow_model import DATA, DIGEST
from embsearch.values import ModelVersion, record

NAME, RUN = "search", "embsearch.promotion_run"


@pytest.fixture
def client(config: Config, encoder_folder: Path) -> MlflowClient:
    """Versions 1 to 3 of a model, each champion once; the journal knows them."""
    client = registry.registry(config)
    registry.ensure_registered_model(client, NAME)
    for number in (1, 2, 3):
        made = shutil.copytree(encoder_folder, Path(config.home) / "encoder")
        (made / "README.md").write_text(f"version {number}", encoding="utf-8")
        sha = digest(manifest(made))
        place = own_copy.place_of(config, sha)
        shutil.move(made, place / DATA)
        promote(client, number, sha, place.as_uri())
    journal.note(config, client, NAME)
    return client


def promote(client: MlflowClient, number: int, sha: str, source: str = "file:///nowhere") -> None:
    """Register and move as a promotion does."""
    tags = {DIGEST: sha, RUN: f"run{number}"}
    client.create_model_version(NAME, source, None, tags)
    now = champion(client)
    why, run = "promoted: study shop, trial 0", f"run{number}"
    alias_history.move_champion(client, NAME, number, now, why, study="shop", run=run)


def champion(client: MlflowClient) -> int | None:
    version = registry.by_alias(client, NAME, registry.CHAMPION)
    return None if version is None else version.version


def moves(client: MlflowClient) -> list[int]:
    return [entry["version"] for entry in alias_history.history(client, NAME)]


class Killed(BaseException):
    """The end of a process, which nothing catches."""


def die_at(monkeypatch: pytest.MonkeyPatch, count: int) -> SimpleNamespace:
    """End the process after this many things that it wrote to MLflow and to the journal."""
    left = SimpleNamespace(writes=count)

    def dying(write: Any) -> Any:
        def call(*args: Any, **words: Any) -> Any:
            if left.writes == 0:
                raise Killed
            left.writes -= 1
            return write(*args, **words)

        return call

    for owner, name in (
        (MlflowClient, "set_registered_model_tag"),
        (MlflowClient, "set_registered_model_alias"),
        (EventLog, "append"),
    ):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    return left


@pytest.mark.parametrize("version", [None, 2])
@pytest.mark.parametrize("database", ["kept", "lost"])
@pytest.mark.parametrize("writes", range(7))
def test_the_same_command_finishes_a_killed_rollback(
    client: MlflowClient,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
    database: str,
    version: int | None,
) -> None:
    """In order: moving, the same in the journal, previous, champion, moved, the same in the journal."""
    with monkeypatch.context() as patch:
        left = die_at(patch, writes)
        if writes < 6:
            with pytest.raises(Killed):
                rollback(config, version, "")
        else:
            rollback(config, version, "")
        assert left.writes == 0
    assert champion(client) == (3 if writes < 4 else 2)
    if database == "lost":
        client.delete_registered_model(NAME)
        restore.restore(config)
        assert champion(client) == (3 if writes < 2 else 2)  # what was begun is finished
    if writes == 6:  # it was not killed: the journal has it as moved
        assert journal.Journal(config).moves[NAME][3]["state"] == "moved"
        return
    old, new = rollback(config, version, "")
    assert (old and old.version, new.version, champion(client)) == (3, 2, 2)
    assert moves(client) == [1, 2, 3, 2]
    noted = journal.Journal(config).moves[NAME]
    assert noted == alias_history.entries(client, NAME)
    assert rollback(config, 1, "")[1].version == 1


def test_a_version_that_is_promoted_again_is_noted_again(
    client: MlflowClient, config: Config
) -> None:
    """With the tags of its second promotion; of other versions those of the first stay."""
    for number in ("1", "2"):
        client.set_model_version_tag(NAME, number, RUN, "again")
    journal.note(config, client, NAME, promoted=1)
    journal.note(config, client, NAME, promoted=1)
    noted = [e for e in read_events(Path(config.home) / journal.FILE) if e.kind == "registered"]
    assert [e.version for e in noted if isinstance(e, events.Registered)] == [1, 2, 3, 1]
    known = journal.Journal(config).versions[NAME]
    assert [known[number].tags[RUN] for number in (1, 2, 3)] == ["again", "run2", "run3"]


def test_a_second_promotion_of_a_version_that_only_its_study_has_comes_back(
    client: MlflowClient, config: Config
) -> None:
    """The journal ends before it: its process was killed, or was an older embsearch's."""
    log = StudyFolder(config).log
    for number, run in ((1, "run1"), (2, "run2"), (3, "run3"), (1, "again")):
        sha = client.get_model_version(NAME, str(number)).tags[DIGEST]
        version = record(ModelVersion(NAME, number, sha, "", ()))
        log.append(events.Promoted(version=version, run=run, trial=0))
    log.append(events.Promoted(version=version, trial=0))  # it was champion already
    assert [one.version for one in promotions(config)] == [1, 2, 3, 1, 1]
    client.delete_registered_model(NAME)
    restore.restore(config)
    assert moves(client) == [1, 2, 3, 1]
    assert champion(client) == 1
    assert client.get_model_version(NAME, "1").tags[RUN] == "again"
    assert client.get_model_version(NAME, "2").tags[RUN] == "run2"
