"""A check that the registry still holds what it says: aliases, files, figures, history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embsearch.codec import JsonObject
from embsearch.config.folders import home_folder
from embsearch.config.schema import Config
from embsearch.errors import UserError
from embsearch.model import pretrained
from embsearch.registry import alias_history, trained_rows
from embsearch.registry import mlflow_registry as registry
from embsearch.registry.evidence import (
    Noted,
    forgotten,
    judge_of,
    noted_of,
    promotions,
    verified,
)
from embsearch.registry.journal import Journal
from embsearch.track.digest import digest
from embsearch.track.unaltered import kept_manifest
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
    """Yield the findings about every model that embsearch has registered, and about every version
    that a log of this home knows and the registry does not have."""
    client = registry.registry(config)
    noted = promotions(config)
    ours = {one.name for one in noted}
    for model in client.search_registered_models(max_results=1000):
        every = registry.versions(client, model.name)
        moves = alias_history.history(client, model.name)
        if any(version.digest for version in every) or moves or model.name in ours:
            yield from _of_model(client, config, model.name, every)
        there = {(model.name, version.version) for version in every}
        yield from _gone([one for one in noted if one.name == model.name], there, moves)
        ours.discard(model.name)
    yield from _gone([one for one in noted if one.name in ours], set(), [])
    for name in ours | Journal(config).versions.keys():
        if gone := forgotten(config, client, name):
            yield Found(name, False, gone)


def _gone(
    noted: Sequence[Noted], there: Set[tuple[str, int]], moves: Sequence[JsonObject]
) -> Iterator[Found]:
    """Yield the versions that were promoted and are not there. One is missed unless somebody has
    named another champion since."""
    for one in {one.label: one for one in noted}.values():
        if (one.name, one.version) in there:
            continue
        log = f"study {one.study} has promoted it (sha256 {one.digest[:12]})"
        words, sound = f"is not in the registry: was it deleted? {log}", False
        for move in moves:
            if move["time"] > one.event.time and (one.name, move["version"]) in there:
                words = f"deleted since; champion is version {move['version']} after it. {log}"
                sound = True
        yield Found(one.label, sound, words)


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
        words = f"files as registered, sha256 {verified(config, found).digest[:12]}"
        pretrained.load(found.folder)
    except UserError as error:
        return Found(label, False, str(error))
    if digest(kept_manifest(found.artifacts)) != version.digest:
        place = found.artifacts / "manifest.json"
        return Found(label, False, f"{words}; but {place} is missing or another's: restore it")
    run = found.tags.get(trained_rows.TAG)
    noted = [one.event.run for one in noted_of(config, version)]
    _, amiss = trained_rows.trained_on(client, run, found.tags.get(trained_rows.DIGEST))
    if amiss and (run or any(noted)):  # versions of older embsearch have none
        return Found(label, False, f"{words}; but {amiss}, which a later promotion asks for")
    if not any(tag.startswith(registry.scored_tag("")) for tag in found.tags):
        return Found(label, True, f"{words}; what it scored was not kept")
    try:
        study, data = found.tags.get("embsearch.study", ""), found.tags.get("embsearch.data", "")
        judge = judge_of(config, study, data)
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
