"""The model registry as promotion needs it: versions by digest, and their files.

MLflow registers the same model twice without a word (measured with MLflow 3.17), so a version is
found by its digest before it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embsearch import disk
from embsearch.config.schema import Config
from embsearch.errors import ModelError
from embsearch.track.mlflow_model import DATA, DIGEST, find_model, local_path
from embsearch.track.mlflow_store import connect, find_experiment, quoted
from embsearch.values import ModelVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion


CHAMPION = "champion"
RESTORING = "embsearch.restoring"  # of a registered model, and of versions that are lost


def scored_tag(metric: str) -> str:
    """Return the tag of a version that keeps its primary metric on the test rows when it was
    promoted.
    """
    return f"embsearch.test_{metric}"


@dataclass(frozen=True)
class Registered:
    """A registered version and its encoder's folder in sentence-transformers' format."""

    version: ModelVersion
    folder: Path
    tags: Mapping[str, str]

    @property
    def artifacts(self) -> Path:
        """The folder that MLflow loads it from."""
        return self.folder.parent


def registry(config: Config) -> MlflowClient:
    """Return a client whose registry holds the config's models."""
    return connect(config)


def model_of_trial(
    client: MlflowClient, config: Config, study_uid: str, trial: int
) -> LoggedModel | None:
    """Return the logged model of a trial, None where the recorder has not sent it (or MLflow was
    away).
    """
    experiment = find_experiment(client, config, create=False)
    return find_model(client, experiment, f"{study_uid}/t{trial:04d}") if experiment else None


def register(
    client: MlflowClient,
    name: str,
    model_id: str,
    digest: str,
    tags: Mapping[str, str] | None = None,
    source: str | None = None,
) -> ModelVersion:
    """Find or make the version of ``name`` with this model digest; put the given tags on it.

    ``source``: where its files lie, if not with the logged model.
    """
    ensure_registered_model(client, name)
    versions = client.search_model_versions(f"name = {quoted(name)}", max_results=1000)
    found = [v for v in versions if v.tags.get(DIGEST) == digest]
    if found:
        version = min(found, key=lambda v: int(v.version))
    else:
        model = client.get_logged_model(model_id)
        # Not "models:/m-...": MLflow would look that up at its global tracking URI.
        source = source or model.artifact_location
        version = client.create_model_version(
            name, source, model.source_run_id, {DIGEST: digest}, model_id=model_id
        )
    for key, value in (tags or {}).items():
        client.set_model_version_tag(name, version.version, key, value)
    return get_version(client, name, int(version.version))


def get_version(client: MlflowClient, name: str, version: int) -> ModelVersion:
    """Return a version as it stands now."""
    return _value(client.get_model_version(name, str(version)))


def versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return all versions, the oldest first."""
    found = client.search_model_versions(f"name = {quoted(name)}", max_results=1000)
    return sorted(
        (get_version(client, name, int(v.version)) for v in found), key=lambda v: v.version
    )


def by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """Return the version an alias points to, None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return _value(client.get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def is_there(client: MlflowClient, name: str) -> bool:
    """Return whether MLflow has the registered model, and no restoration of it was cut off."""
    from mlflow.exceptions import MlflowException

    try:
        return RESTORING not in client.get_registered_model(name).tags
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def champion(client: MlflowClient, name: str, cache: Path) -> Registered | None:
    """Return the present champion with its files; remote ones are fetched into ``cache``, once."""
    version = by_alias(client, name, CHAMPION)
    return files_of(client, version, cache) if version else None


def files_of(client: MlflowClient, version: ModelVersion, cache: Path) -> Registered:
    """Return a version with its files on this machine. Raises ModelError where they are gone."""
    tags = client.get_model_version(version.name, str(version.version)).tags
    source = client.get_model_version_download_uri(version.name, str(version.version))
    folder = _here(client, source, version.digest or f"{version.name}-{version.version}", cache)
    if not (folder / DATA).exists():
        raise ModelError(
            f"{version.uri}: its files are gone from {folder}; 'embsearch sync' makes them again "
            "where the trial's are whole; else restore them, or go to another version with "
            "'embsearch rollback'"
        )
    return Registered(version, folder / DATA, tags)


def artifacts_of(client: MlflowClient, model: LoggedModel, cache: Path) -> Path:
    """Return the folder that MLflow loads a logged model from."""
    return _here(client, model.artifact_location, model.tags.get(DIGEST) or model.model_id, cache)


def _here(client: MlflowClient, source: str, key: str, cache: Path) -> Path:
    """Return a folder of artifacts on this machine; a remote one is fetched into ``cache`` under
    ``key``.
    """
    folder = local_path(source)
    if folder is None:
        folder = cache / key
        if not folder.exists():
            _download(client, source, folder)
    return folder


def ensure_registered_model(
    client: MlflowClient, name: str, tags: Mapping[str, str] | None = None
) -> None:
    """Make a registered model with these tags, where there is none of this name."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, dict(tags or {}))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _download(client: MlflowClient, source: str, folder: Path) -> None:
    """Fetch artifacts whole or not at all."""
    from mlflow.artifacts import download_artifacts

    folder.parent.mkdir(parents=True, exist_ok=True)
    with disk.draft_of(folder) as draft:
        fetched = download_artifacts(
            artifact_uri=source, dst_path=str(draft), tracking_uri=client.tracking_uri
        )
        Path(fetched).replace(folder)


def _value(found: MlflowVersion) -> ModelVersion:
    name, version = found.name, int(found.version)
    return ModelVersion(
        name,
        version,
        found.tags.get(DIGEST, ""),
        f"models:/{name}/{version}",
        tuple(sorted(found.aliases or [])),
    )
