"""The model registry as promotion needs it: versions by digest, aliases that move with a history.

MLflow registers the same model twice without a word, keeps no history of aliases and has no
compare-and-set (measured with MLflow 3.17): what is missing is done here. Two promotions on one
machine are kept apart by the caller's lock; on two machines the later one wins, and the
history says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embsearch.config.schema import Config
from embsearch.errors import EmbsearchError
from embsearch.track.mlflow_model import DATA, DIGEST, find_model, local_path
from embsearch.track.mlflow_store import connect, find_experiment, quoted
from embsearch.values import ModelVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

CHAMPION = "champion"
PREVIOUS = "previous"
HISTORY = "embsearch.history."


class Moved(EmbsearchError):
    """The alias points elsewhere than when the candidate was judged; the registry is unchanged."""


@dataclass(frozen=True)
class Champion:
    """A registered version and its encoder's folder in sentence-transformers' format."""

    version: ModelVersion
    folder: Path
    tags: Mapping[str, str]


def registry(config: Config) -> MlflowClient:
    """A client whose registry holds the config's models."""
    return connect(config)


def model_of_trial(client: MlflowClient, config: Config, study_uid: str, trial: int) -> LoggedModel | None:
    """The logged model of a trial, None where the recorder has not sent it (or MLflow was away)."""
    experiment = find_experiment(client, config, create=False)
    return find_model(client, experiment, f"{study_uid}/t{trial:04d}") if experiment else None


def register(
    client: MlflowClient, name: str, model_id: str, digest: str, tags: Mapping[str, str] | None = None
) -> ModelVersion:
    """The version of ``name`` with this model digest, found or made, with the given tags on it."""
    _ensure_registered_model(client, name)
    versions = client.search_model_versions(f"name = {quoted(name)}", max_results=1000)
    found = [v for v in versions if v.tags.get(DIGEST) == digest]
    if found:
        version = min(found, key=lambda v: int(v.version))
    else:
        model = client.get_logged_model(model_id)
        # Not "models:/m-...": MLflow would look that up at its global tracking URI.
        version = client.create_model_version(
            name, model.artifact_location, model.source_run_id, {DIGEST: digest}, model_id=model_id
        )
    for key, value in (tags or {}).items():
        client.set_model_version_tag(name, version.version, key, value)
    return get_version(client, name, int(version.version))


def get_version(client: MlflowClient, name: str, version: int) -> ModelVersion:
    """A version as it stands now."""
    return _value(client.get_model_version(name, str(version)))


def versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions, the oldest first."""
    found = client.search_model_versions(f"name = {quoted(name)}", max_results=1000)
    return sorted((get_version(client, name, int(v.version)) for v in found), key=lambda v: v.version)


def by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version an alias points to, None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return _value(client.get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def champion(client: MlflowClient, name: str, cache: Path) -> Champion | None:
    """The present champion with its files; remote ones are fetched into ``cache``, once."""
    version = by_alias(client, name, CHAMPION)
    return files_of(client, version, cache) if version else None


def files_of(client: MlflowClient, version: ModelVersion, cache: Path) -> Champion:
    """A version with its files on this machine."""
    tags = client.get_model_version(version.name, str(version.version)).tags
    source = client.get_model_version_download_uri(version.name, str(version.version))
    folder = local_path(source)
    if folder is None:
        folder = cache / (version.digest or f"{version.name}-{version.version}")
        if not folder.exists():
            _download(client, source, folder)
    if not (folder / DATA).exists():
        raise EmbsearchError(
            f"{version.uri}: its files are gone from {folder}; restore them, or move the alias to another version"
        )
    return Champion(version, folder / DATA, tags)


def move_alias(
    client: MlflowClient, name: str, version: int, expected: int | None, reason: str, **facts: Any
) -> ModelVersion:
    """Make ``version`` the champion and the old one ``previous``, and append to the history.

    ``expected`` is the champion's version when the candidate was judged, None for none; Moved
    is raised where it is another by now. A crash in here leaves the old champion or the new
    one, never none, and the same call again completes it.
    """
    old = by_alias(client, name, CHAMPION)
    if old is not None and old.version == version:
        if not any(entry["version"] == version for entry in history(client, name)[-1:]):
            _append_history(client, name, version, expected, reason, facts)
        return old
    _expect(name, old, expected)
    client.get_model_version(name, str(version))  # exists, else raises before anything is changed
    if old is not None:
        client.set_registered_model_alias(name, PREVIOUS, str(old.version))
    _expect(name, by_alias(client, name, CHAMPION), expected)
    client.set_registered_model_alias(name, CHAMPION, str(version))
    now = by_alias(client, name, CHAMPION)
    if now is None or now.version != version:
        raise Moved(
            f"{name}@{CHAMPION} was set to version {version} and reads {now and now.version}: somebody else moved it"
        )
    _append_history(client, name, version, expected, reason, facts)
    return now


def history(client: MlflowClient, name: str) -> list[dict[str, Any]]:
    """Every move of the champion, the oldest first."""
    tags = client.get_registered_model(name).tags
    entries = {int(k.removeprefix(HISTORY)): json.loads(v) for k, v in tags.items() if k.startswith(HISTORY)}
    return [entries[n] for n in sorted(entries)]


def _expect(name: str, now: ModelVersion | None, expected: int | None) -> None:
    at = now.version if now else None
    if at != expected:
        raise Moved(
            f"{name}@{CHAMPION} was version {expected} when the candidate was judged and is {at} now; promote again"
        )


def _append_history(
    client: MlflowClient, name: str, version: int, before: int | None, reason: str, facts: Mapping[str, Any]
) -> None:
    entry = {"time": int(time.time() * 1000), "version": version, "before": before, "reason": reason, **facts}
    text = json.dumps(entry, ensure_ascii=False)
    client.set_registered_model_tag(name, f"{HISTORY}{len(history(client, name))}", text)


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _download(client: MlflowClient, source: str, folder: Path) -> None:
    """Fetch artifacts whole or not at all."""
    import shutil
    import tempfile

    from mlflow.artifacts import download_artifacts

    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        fetched = download_artifacts(artifact_uri=source, dst_path=str(draft), tracking_uri=client.tracking_uri)
        Path(fetched).replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _value(found: Any) -> ModelVersion:
    name, version = found.name, int(found.version)
    return ModelVersion(
        name, version, found.tags.get(DIGEST, ""), f"models:/{name}/{version}", tuple(sorted(found.aliases or []))
    )
