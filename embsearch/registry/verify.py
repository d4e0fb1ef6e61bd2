"""A check that the registry still holds what it says: aliases, files, figures, history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embsearch.config.build import build
from embsearch.config.folders import home_folder
from embsearch.config.schema import Config
from embsearch.errors import UserError
from embsearch.history.folder import StudyFolder
from embsearch.model import pretrained
from embsearch.registry import alias_history
from embsearch.registry import mlflow_registry as registry
from embsearch.registry.judge import Judge
from embsearch.tasks.catalogue import task_of
from embsearch.track.unaltered import check
from embsearch.values import ModelVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient

SAME = 0.001  # of the primary metric: another machine rounds bf16 products otherwise (seen: up to 0.0003)


@dataclass(frozen=True)
class Found:
    """A finding about a version; ``sound`` is False where somebody should look."""

    what: str
    sound: bool
    words: str


def verify(config: Config) -> Iterator[Found]:
    """Yield the findings about every model that embsearch has registered."""
    client = registry.registry(config)
    for model in client.search_registered_models(max_results=1000):
        every = registry.versions(client, model.name)
        if any(version.digest for version in every) or alias_history.history(client, model.name):
            yield from _of_model(client, config, model.name, every)


def _of_model(
    client: MlflowClient, config: Config, name: str, every: list[ModelVersion]
) -> Iterator[Found]:
    history = alias_history.history(client, name)
    last = history[-1]["version"] if history else None
    champion = registry.by_alias(client, name, registry.CHAMPION)
    if champion is None and history:
        yield Found(
            f"{name}@champion",
            False,
            f"no champion, but the history ends with version {last}: was that deleted? "
            "'embsearch rollback' names another",
        )
    elif champion is not None and last != champion.version:
        ends = f"ends with version {last}" if history else "is empty"
        yield Found(
            f"{name}@champion",
            False,
            f"version {champion.version}, but the history {ends}: moved by hand",
        )
    once = {entry["version"] for entry in history}
    for version in every:
        label = " ".join([f"{name}/{version.version}", *(f"@{alias}" for alias in version.aliases)])
        if version.aliases:
            yield _aliased(client, config, version, label)
        elif version.version not in once:
            yield Found(
                label,
                True,
                "registered, never champion: its promotion was cut off or refused by another",
            )
        else:
            yield Found(label, True, "champion once")


def _aliased(client: MlflowClient, config: Config, version: ModelVersion, label: str) -> Found:
    try:
        found = registry.files_of(client, version, home_folder(config.home) / "cache" / "models")
        words = f"files as registered, sha256 {check(found.folder, version.digest)[:12]}"
        pretrained.load(found.folder)
    except UserError as error:
        return Found(label, False, str(error))
    if not any(tag.startswith(registry.scored_tag("")) for tag in found.tags):
        return Found(label, True, f"{words}; what it scored was not kept")
    try:
        judge = _judge(config, found.tags)
        answers = judge(found.folder).answers
    except UserError as error:
        return Found(label, True, f"{words}; not scored again: {error}")
    primary = judge.task.primary
    now = judge.task.metrics(judge.rows, answers)[primary.name]
    then = found.tags[registry.scored_tag(primary.name)]
    same = abs(now - float(then)) <= SAME
    return Found(
        label,
        same,
        f"{words}; test {primary.label} {now:.4f}, {float(then):.4f} when it was promoted",
    )


def _judge(config: Config, tags: Mapping[str, str]) -> Judge:
    """Return a judge by the study's own rows. Raises UserError where they cannot be had."""
    study = StudyFolder(
        replace(config, study=replace(config.study, name=tags.get("embsearch.study", "")))
    )
    theirs = build(study.read_locked()["config"] | {"home": config.home, "device": config.device})
    task = task_of(theirs)
    cache = task.prepare(theirs.data, study.home / "cache")
    data = task.load(cache)
    if data.fingerprint != tags.get("embsearch.data"):
        raise UserError(f"the data of study {study.config.study.name} are others now")
    return Judge(theirs, data, cache)
