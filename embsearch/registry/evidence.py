"""The evidence of what the registry should hold: this home's logs beside MLflow's tags.

Whoever may write to MLflow can take a tag away, or put another one there. The ``promoted`` events
of the studies know each version's digest and the run of its promotion, so both are compared. What
is missing, damaged or contradicted refuses, and says which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from embsearch.config.build import build
from embsearch.config.folders import home_folder
from embsearch.config.schema import Config
from embsearch.errors import ModelError, UserError
from embsearch.history import events
from embsearch.history.folder import LOADER, StudyFolder
from embsearch.history.log import read_events
from embsearch.registry import alias_history, own_copy, trained_rows
from embsearch.registry import mlflow_registry as registry
from embsearch.registry.journal import Journal
from embsearch.registry.judge import Judge
from embsearch.tasks.catalogue import task_of
from embsearch.track.mlflow_model import DIGEST
from embsearch.track.mlflow_store import own_database
from embsearch.track.unaltered import check
from embsearch.values import ModelVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from embsearch.data.pairs import Keys


REMEDY = "nothing was loaded: put the tag back, or go to another version with 'embsearch rollback'"
UNKNOWN = "no log of this home knows it; its folder can be named: checkpoint=FOLDER"


@dataclass(frozen=True)
class Noted:
    """A promotion as the log of its study has it."""

    study: str
    name: str
    version: int
    digest: str
    event: events.Promoted
    data: str  # the fingerprint in its study

    @property
    def label(self) -> str:
        return f"{self.name}/{self.version}"


def promotions(config: Config) -> list[Noted]:
    """Return every promotion into this registry that a study of this home has noted, in order.

    Raises StudyError naming a log that is damaged.
    """
    found: list[Noted] = []
    for log in sorted((home_folder(config.home) / "studies").glob("*/events.jsonl")):
        if b'"promoted"' not in log.read_bytes():
            continue
        if _registry_of(log.parent, config.track.uri) != config.track.uri:
            continue
        study = log.parent.name
        data = ""
        for event in read_events(log):
            if isinstance(event, events.Opened):
                data = event.data
            if isinstance(event, events.Promoted) and (at := event.version) is not None:
                of = at["name"], at["version"], at["digest"]
                found.append(Noted(study, *of, event, data))
    return sorted(found, key=lambda one: one.event.time)


def _registry_of(study: Path, default: str | None) -> str | None:
    """Return the ``track.uri`` of a study; ``default`` where its config is gone or damaged."""
    try:
        locked = yaml.load((study / "study.yaml").read_text(encoding="utf-8"), LOADER)
        uri: str | None = locked["config"]["track"].get("uri")
    except Exception:  # damaged in whatever way
        return default
    return uri


def noted_of(config: Config, version: ModelVersion) -> list[Noted]:
    """Return what the logs say of a version, newest first: a number may be given more than once."""
    label = f"{version.name}/{version.version}"
    return [one for one in reversed(promotions(config)) if one.label == label]


def forgotten(config: Config, client: MlflowClient, name: str) -> str:
    """Return what to do where MLflow does not know a registered model that this home has logged;
    else the empty string. A server is asked for no such thing.
    """
    if own_database(config) is None or registry.is_there(client, name):
        return ""
    known = [one.version for one in promotions(config) if one.name == name]
    known += Journal(config).versions[name]
    if not known:
        return ""
    return (
        f"{name}/{max(known)} was promoted in this home, and MLflow does not know the model {name} "
        "any more: 'embsearch sync' of any study makes versions, aliases and history again"
    )


def missing(config: Config, client: MlflowClient, name: str) -> str:
    """Return what to do where MLflow has no version of a model that the logs know; else the empty
    string.
    """
    lost = [one for one in promotions(config) if one.name == name]
    if not lost or registry.versions(client, name):
        return ""
    last = lost[-1]
    return forgotten(config, client, name) or (
        f"study {last.study} has promoted {last.label}, and MLflow has no version of it any more: was it "
        f"deleted? Its files may still be read by trial=N study.name={last.study}, and 'embsearch "
        "promote' registers them again"
    )


def verified(config: Config, found: registry.Registered) -> ModelVersion:
    """Return a version with the digest of its files, which were read now.

    Raises ModelError where they are not those that were registered, or where what tells it is
    missing or contradicts itself.
    """
    version = found.version
    known = {one.digest: one.study for one in noted_of(config, version)}
    told = UNKNOWN
    for digest, study in known.items():
        told = f"the log of study {study} says {digest}"
    if not version.digest:
        raise ModelError(
            f"{version.uri}: its tag {DIGEST} is missing, so MLflow does not say which files were "
            f"registered; {told}; {REMEDY}"
        )
    if known and version.digest not in known:
        raise ModelError(
            f"{version.uri}: its tag {DIGEST} says {version.digest}, {told}; one of them was "
            f"changed; {REMEDY}"
        )
    try:
        return replace(version, digest=check(found.folder, version.digest))
    except ModelError as error:
        whole = own_copy.whole_copy(config, found.tags)
        if whole is None or own_database(config) is None:
            raise
        told = f"{whole} is whole: 'embsearch sync' makes the registered files of it again"
        raise ModelError([*error.faults, told]) from error


def refuse_missing_champion(config: Config, client: MlflowClient, name: str) -> None:
    """Refuse to judge a candidate as a first champion where there should be another.

    Raises ModelError.
    """
    if gone := forgotten(config, client, name):
        raise ModelError(gone)
    there = [version.version for version in registry.versions(client, name)]
    if not there:  # nothing to compare with: a beginning, or somebody's new one
        return
    lost = [one.version for one in promotions(config) if one.name == name]
    lost += [move["version"] for move in alias_history.history(client, name)]
    if lost:
        raise ModelError(
            f"{name} has no champion, but version {lost[-1]} was one: its alias was removed, or it was "
            "deleted. Name the champion that a candidate is to be compared with: "
            f"'embsearch rollback version=N'; versions there: {', '.join(map(str, there))}"
        )


def training_rows(
    config: Config, client: MlflowClient, found: registry.Registered
) -> tuple[Keys | None, str]:
    """Return the rows that a version was trained on, and what was amiss with their list.

    They are made again from its study's data where that is gone or damaged; None where nothing
    tells them.
    """
    run, study = found.tags.get(trained_rows.TAG), found.tags.get("embsearch.study", "")
    if not run:
        for one in noted_of(config, found.version)[:1]:
            run, study = one.event.run, one.study
    keys, why = trained_rows.trained_on(client, run, found.tags.get(trained_rows.DIGEST))
    if keys is not None:
        return keys, ""
    try:
        judge = judge_of(config, study, found.tags.get("embsearch.data", ""))
    except UserError as error:
        return None, f"{why}, and it cannot be made again: {error}"
    return judge.task.training_keys(judge.data), f"{why}; made again from study {study}"


def judge_of(config: Config, study: str, fingerprint: str) -> Judge:
    """Return a judge by the rows of a study. Raises UserError where they cannot be had."""
    if not study:
        raise UserError("no study is named")
    folder = StudyFolder(replace(config, study=replace(config.study, name=study)))
    theirs = build(folder.read_locked()["config"] | {"home": config.home, "device": config.device})
    task = task_of(theirs)
    cache = task.prepare(theirs.data, folder.home / "cache")
    data = task.load(cache)
    if data.fingerprint != fingerprint:
        raise UserError(f"the data of study {study} are others now")
    return Judge(theirs, data, cache)
