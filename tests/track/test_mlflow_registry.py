"""Versions by digest, and an alias that moves with a history."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import append
from synthetic import start_trial, train, write_study

from embsearch.config.schema import Config
from embsearch.history import events
from embsearch.history.log import read_events
from embsearch.registry.alias_history import AliasMoved, history, move_champion
from embsearch.registry.mlflow_registry import (
    by_alias,
    champion,
    model_of_trial,
    register,
    registry,
    versions,
)
from embsearch.track.digest import digest, manifest
from embsearch.track.mirror import study_uid
from embsearch.track.mlflow import MlflowRecorder
from embsearch.track.mlflow_model import DIGEST
from embsearch.track.server import Server


@pytest.fixture(params=["database", "server"])
def models(
    request: pytest.FixtureRequest, config: Config, encoder_folder: Path
) -> tuple[Any, Config, list[tuple[str, str]]]:
    """A client, and two logged models as (id, digest)."""
    if request.param == "server":
        running: Server = request.getfixturevalue("server")[0]
        config = replace(
            config, track=replace(config.track, uri=running.url, experiment="registry")
        )
    study = write_study(Path(config.home) / "studies" / "shop")
    made = []
    for number in (4, 5):
        log = start_trial(study, number, lr=1e-4, batch=64, loss="triplet")
        train(log, steps=3, measure={3: 0.9})
        shutil.copytree(encoder_folder, log.path.parent / "model")
        (log.path.parent / "model" / "README.md").write_text(f"trial {number}")
        append(log, "ended", state="complete", reason="budget spent", value=0.9, failure=None, objective=0.9,
                   model="model")  # fmt: skip
    recorder = MlflowRecorder(config, study)
    assert recorder.sync() == 0, recorder.problem
    client = registry(config)
    opened = events.of_kind(read_events(study / "events.jsonl"), events.Opened)
    uid = study_uid(opened[0])
    for number in (4, 5):
        model = model_of_trial(client, config, uid, number)
        assert model is not None
        made.append((model.model_id, model.tags[DIGEST]))
    return client, config, made


def test_registering_the_same_model_twice_makes_one_version(models: Any) -> None:
    client, config, ((first, sha), _) = models
    name = f"once-{config.track.uri is None}"

    one = register(client, name, first, sha, {"embsearch.auc": "0.9"})
    two = register(client, name, first, sha)

    assert one == two == versions(client, name)[0]
    assert (one.version, one.digest, one.uri) == (1, sha, f"models:/{name}/1")
    assert client.get_model_version(name, "1").tags == {DIGEST: sha, "embsearch.auc": "0.9"}


def test_moving_the_champion_keeps_the_old_one_and_its_history(models: Any, tmp_path: Path) -> None:
    client, config, ((first, sha1), (second, sha2)) = models
    name = f"moves-{config.track.uri is None}"
    one, two = register(client, name, first, sha1), register(client, name, second, sha2)
    assert champion(client, name, tmp_path) is None

    move_champion(client, name, one.version, expected=None, reason="first", auc=0.9)
    move_champion(client, name, two.version, expected=1, reason="better")
    move_champion(client, name, one.version, expected=2, reason="rollback")

    assert (
        by_alias(client, name, "champion").version,
        by_alias(client, name, "previous").version,
    ) == (1, 2)
    assert [(e["before"], e["version"], e["reason"]) for e in history(client, name)] == [
        (None, 1, "first"), (1, 2, "better"), (2, 1, "rollback")
    ]  # fmt: skip
    assert history(client, name)[0]["auc"] == 0.9
    found = champion(client, name, tmp_path)
    assert found is not None
    assert found.version.aliases == ("champion",)
    assert digest(manifest(found.folder)) == sha1


def test_a_champion_that_moved_meanwhile_refuses_the_promotion(models: Any) -> None:
    client, config, ((first, sha1), (second, sha2)) = models
    name = f"raced-{config.track.uri is None}"
    one, two = register(client, name, first, sha1), register(client, name, second, sha2)
    move_champion(client, name, one.version, expected=None, reason="somebody else")
    with pytest.raises(
        AliasMoved, match="was version None when the candidate was judged and is 1 now"
    ):
        move_champion(client, name, two.version, expected=None, reason="late")
    assert by_alias(client, name, "champion").version == 1
    assert len(history(client, name)) == 1


@pytest.mark.parametrize("dies_at", ["set_registered_model_alias", "get_model_version_by_alias"])
def test_a_move_that_died_is_in_the_history_only_if_it_was_made(models: Any, dies_at: str) -> None:
    """The first time the alias is set, or read back after it was."""
    client, config, ((first, sha1), _) = models
    name = f"died-{dies_at}-{config.track.uri is None}"
    one = register(client, name, first, sha1)
    with pytest.raises(ZeroDivisionError):
        move_champion(Dying(client, dies_at), name, one.version, expected=None, reason="first")
    made = by_alias(client, name, "champion") is not None
    assert made is (dies_at == "get_model_version_by_alias")
    assert [e["version"] for e in history(client, name)] == [1] * made
    for _ in range(2):
        move_champion(client, name, one.version, expected=None, reason="again")
    assert [(e["version"], e["reason"]) for e in history(client, name)] == [
        (1, "first" if made else "again")
    ]


class Dying:
    """A client that raises where it should set an alias, or where it reads one that was set."""

    def __init__(self, client: Any, at: str) -> None:
        self._client, self._at, self._set = client, at, False

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            if name == self._at and (self._set or name == "set_registered_model_alias"):
                raise ZeroDivisionError
            self._set = self._set or name == "set_registered_model_alias"
            return getattr(self._client, name)(*args)

        return call
