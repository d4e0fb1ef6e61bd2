"""Whether the registry still holds what it says: aliases, files, figures, history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embsearch.config.build import build
from embsearch.config.schema import Config
from embsearch.data.dataset import Dataset
from embsearch.data.load import prepare_dataset
from embsearch.errors import UserError
from embsearch.evaluate.auc import roc_auc
from embsearch.folder import StudyFolder
from embsearch.model import pretrained
from embsearch.registry import mlflow_registry as registry
from embsearch.registry import moves
from embsearch.registry.evidence import Judge
from embsearch.track.unaltered import check
from embsearch.values import ModelVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient

SAME = 0.001  # of AUC: another machine rounds bf16 products otherwise (seen: up to 0.0003)


@dataclass(frozen=True)
class Found:
    """What is true of a version; ``sound`` is False where somebody should look."""

    what: str
    sound: bool
    words: str


def verify(config: Config) -> Iterator[Found]:
    """Every model that embsearch has registered, one finding after the other."""
    client = registry.registry(config)
    for model in client.search_registered_models(max_results=1000):
        every = registry.versions(client, model.name)
        if any(version.digest for version in every):
            yield from _of_model(client, config, model.name, every)


def _of_model(client: MlflowClient, config: Config, name: str, every: list[ModelVersion]) -> Iterator[Found]:
    history = moves.history(client, name)
    champion = registry.by_alias(client, name, registry.CHAMPION)
    if champion is None and history:
        last = f"the history ends with version {history[-1]['version']}: was that deleted?"
        yield Found(f"{name}@champion", False, f"no champion, but {last} 'embsearch rollback' names another")
    elif champion is not None and (not history or history[-1]["version"] != champion.version):
        last = f"ends with version {history[-1]['version']}" if history else "is empty"
        yield Found(f"{name}@champion", False, f"version {champion.version}, but the history {last}: moved by hand")
    once = {entry["version"] for entry in history}
    for version in every:
        label = " ".join([f"{name}/{version.version}", *(f"@{alias}" for alias in version.aliases)])
        if version.aliases:
            yield _aliased(client, config, version, label)
        elif version.version not in once:
            yield Found(label, True, "registered, never champion: its promotion was cut off or refused by another")
        else:
            yield Found(label, True, "champion once")


def _aliased(client: MlflowClient, config: Config, version: ModelVersion, label: str) -> Found:
    try:
        found = registry.files_of(client, version, Path(config.home).expanduser().resolve() / "cache" / "models")
        words = f"files as registered, sha256 {check(found.folder, version.digest)[:12]}"
        pretrained.load(found.folder)
    except UserError as error:
        return Found(label, False, str(error))
    then = found.tags.get(registry.AUC)
    if then is None:
        return Found(label, True, f"{words}; what it scored was not kept")
    try:
        now = _score(config, found.tags, found.folder)
    except UserError as error:
        return Found(label, True, f"{words}; not scored again: {error}")
    same = abs(now - float(then)) <= SAME
    return Found(label, same, f"{words}; test AUC {now:.4f}, {float(then):.4f} when it was promoted")


def _score(config: Config, tags: Any, folder: Path) -> float:
    """Its test AUC by the study's own rows. Raises UserError where they cannot be had."""
    study = StudyFolder(replace(config, study=replace(config.study, name=tags.get("embsearch.study", ""))))
    theirs = build(study.read_locked()["config"] | {"home": config.home, "device": config.device})
    cache = prepare_dataset(theirs.data, study.home / "cache")
    data = Dataset.load(cache)
    if data.fingerprint != tags.get("embsearch.data"):
        raise UserError(f"the data of study {study.config.study.name} are others now")
    return roc_auc(Judge(theirs, data, cache)(folder).scores, data.test.relevant)
