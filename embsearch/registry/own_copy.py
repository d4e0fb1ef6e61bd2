"""The registered model as a copy of its own: damage to the trial's files does not reach it.

It lies in ``mlartifacts/registered/<digest>`` of the home, where no record of a study writes. It
can be made again of any other copy with that sha256 over its files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from embsearch import disk
from embsearch.config.folders import home_folder
from embsearch.config.schema import Config
from embsearch.errors import ModelError, UserError
from embsearch.track.digest import digest, manifest
from embsearch.track.mlflow_model import DATA, DIGEST, copy_tree, describe
from embsearch.track.mlflow_store import artifact_root, tracking_uri
from embsearch.track.unaltered import kept_manifest

Tags = Mapping[str, str]


def place_of(config: Config, sha: str) -> Path:
    """Return where the artifacts of a registered model lie."""
    return artifact_root(home_folder(config.home)) / "registered" / sha


def is_whole(encoder: Path, sha: str) -> bool:
    """Return whether the files of an encoder's folder are those with this digest, read now."""
    try:
        return digest(manifest(encoder)) == sha
    except (OSError, UserError):
        return False


def is_shared(encoder: Path) -> bool:
    """Return whether a file is a hard link to another's: a model registered by an older version."""
    return any(file.stat().st_nlink > 1 for file in encoder.rglob("*.safetensors"))


def whole_copy(config: Config, tags: Tags) -> Path | None:
    """Return an encoder's folder that has the digest of a version with these tags."""
    return next((one for one in places(config, tags) if is_whole(one, tags[DIGEST])), None)


def places(config: Config, tags: Tags) -> Iterator[Path]:
    """Yield where an encoder of a version with these tags may lie: registered, logged, trained."""
    home = home_folder(config.home)
    yield place_of(config, tags[DIGEST]) / DATA
    for logged in artifact_root(home).glob("*/models/*/artifacts"):
        if digest(kept_manifest(logged)) == tags[DIGEST]:
            yield logged / DATA
    trial = tags.get("embsearch.trial", "")
    if trial.isdigit():
        trials = home / "studies" / tags["embsearch.study"] / "trials"
        yield trials / f"t{int(trial):04d}" / "model"


def keep(config: Config, artifacts: Path, sha: str) -> str | None:
    """Return the address of a registered model's own copy, made where there is none.

    None for a server's, which has its own. Raises ModelError.
    """
    if not tracking_uri(config).startswith("sqlite:"):
        return None
    place = place_of(config, sha)
    if not is_whole(place / DATA, sha):
        make(place, artifacts / DATA, sha)
    return place.as_uri()


def make(place: Path, encoder: Path, sha: str) -> None:
    """Copy an encoder, with what MLflow wrote around it, to ``place``: whole or not at all.

    Raises ModelError where the copy is not what it should be.
    """
    disk.make_folder(place.parent)
    with disk.draft_of(place) as parent:
        draft = parent / "artifacts"
        if digest(kept_manifest(encoder.parent)) == sha and (encoder.parent / "MLmodel").exists():
            copy_tree(encoder.parent, draft)
        else:
            copy_tree(encoder, draft / DATA)
            describe(draft, manifest(encoder), sha[:12], place.as_uri())
        if not is_whole(draft / DATA, sha):
            raise ModelError(f"{encoder}: a copy of it is not what was registered (sha256 {sha})")
        disk.settle_all(draft)  # so that the place is empty for a moment only
        if place.exists():
            place.rename(parent / "before")
        disk.put(draft, place)
