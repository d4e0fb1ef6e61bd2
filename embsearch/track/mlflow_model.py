"""A trial's model as an MLflow LoggedModel, without importing torch.

The folder MLflow's own sentence_transformers flavour writes is built by hand around the saved
encoder, so ``mlflow.pyfunc.load_model("models:/m-...")`` works, and so does
``SentenceTransformer(<artifacts>/model.sentence_transformer)``.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import yaml

from embsearch import disk
from embsearch.track.digest import digest, manifest
from embsearch.track.environment import environment
from embsearch.track.mirror import Point
from embsearch.track.mlflow_store import quoted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

DATA = "model.sentence_transformer"  # the name MLflow's flavour looks for
DIGEST = "embsearch.model_digest"
UID = "embsearch.uid"
_PINNED = ("mlflow", "sentence-transformers", "transformers", "torch", "numpy", "safetensors")


def find_model(client: MlflowClient, experiment_id: str, uid: str) -> LoggedModel | None:
    """Return the model of the trial with this ``embsearch.uid``."""
    found = client.search_logged_models(
        [experiment_id], f"tags.`{UID}` = {quoted(uid)}", max_results=1
    )
    return found[0] if found else None


def log_model(
    client: MlflowClient,
    experiment_id: str,
    run_id: str,
    uid: str,
    folder: Path,
    name: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    metrics: Sequence[Point],
    step: int,
) -> str:
    """Find or make the LoggedModel of a trial from ``folder`` (sentence-transformers' format).

    Safe to call again after a crash at any point: an unfinished one is completed. Returns the id.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

    files = manifest(folder)
    sha = digest(files)
    model = find_model(client, experiment_id, uid)
    if model is None:
        tags = {**tags, UID: uid, DIGEST: sha}
        model = client.create_logged_model(experiment_id, name, run_id, dict(tags), dict(params))
    if str(model.status) != str(LoggedModelStatus.READY) or model.tags.get(DIGEST) != sha:
        _write_artifacts(client, model, run_id, folder, files)
        client.set_logged_model_tags(model.model_id, {DIGEST: sha})
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = client.get_run(run_id).outputs
    if model.model_id not in {o.model_id for o in (outputs.model_outputs if outputs else [])}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    linked = [
        Metric(p.key, p.value, p.time, p.step, model_id=model.model_id, run_id=run_id)
        for p in metrics
    ]
    client.log_batch(run_id, linked, synchronous=True)
    return model.model_id


def local_path(uri: str) -> Path | None:
    """Return the folder of an artifact location on this machine, None for a remote one."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return None
    return Path(url2pathname(parts.path) if parts.scheme else uri)


def _write_artifacts(
    client: MlflowClient, model: LoggedModel, run_id: str, folder: Path, files: Mapping[str, str]
) -> None:
    """Build the artifact folder; on this machine by links and one rename, else by upload."""
    place = local_path(model.artifact_location)
    parent = place.parent if place else folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    with disk.draft_of(parent / "artifacts") as draft:
        # An uploaded model needs no second copy, nor does one that is a view of the trial's.
        link = place is None or client.tracking_uri.startswith("sqlite:")
        copy_tree(folder, draft / DATA, link)
        describe(draft, files, model.name, model.artifact_location, run_id, model.model_id)
        if place is None:
            client.log_model_artifacts(model.model_id, str(draft))
        else:
            draft.chmod(0o755)
            for written in draft.iterdir():
                if written.is_file():
                    with written.open("rb") as file:
                        os.fsync(file.fileno())
            if place.exists():
                shutil.rmtree(place)
            draft.replace(place)


def copy_tree(source: Path, target: Path, link: bool = False) -> None:
    """Copy a folder; with ``link`` by hard links where the disk allows it.

    A link is safe from this program, which replaces saved models whole, and from no other: the
    registered model is a copy.
    """

    def one(a: str, b: str) -> str:
        with suppress(OSError):
            if link:
                os.link(a, b)
                return b
        return disk.copy(a, b)

    shutil.copytree(source, target, copy_function=one, ignore=shutil.ignore_patterns("__pycache__"))


def describe(
    draft: Path,
    files: Mapping[str, str],
    name: str,
    location: str,
    run_id: str | None = None,
    model_id: str | None = None,
) -> None:
    """Write MLmodel, manifest.json and the environment files around the encoder's folder."""
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import ColSpec, DataType, Schema, TensorSpec

    versions = environment()["packages"]
    _write_environment(draft, versions)
    kept = {"digest": digest(files), "files": dict(files)}
    (draft / "manifest.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    described = Model(
        artifact_path=location,
        model_uuid=model_id or digest(files)[:32],
        run_id=run_id,
        model_id=model_id,
    )
    described.signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, dimension(folder=draft / DATA)))]),
    )
    mlflow.pyfunc.add_to_model(
        described,
        loader_module="mlflow.sentence_transformers",
        data=DATA,
        conda_env="conda.yaml",
        python_env="python_env.yaml",
    )
    described.add_flavor(
        "sentence_transformers",
        sentence_transformers_version=versions.get("sentence-transformers", ""),
        code=None,
        source_model_name=name,
        pipeline_model_type=_architecture(draft / DATA),
    )
    described.model_size_bytes = sum(p.stat().st_size for p in draft.rglob("*") if p.is_file())
    described.save(str(draft / "MLmodel"))


def _write_environment(draft: Path, versions: Mapping[str, str]) -> None:
    """Write what a fresh environment for the model needs."""
    pins = [f"{name}=={versions[name].split('+')[0]}" for name in _PINNED if name in versions]
    python = platform.python_version()
    write = {
        "requirements.txt": "\n".join(pins) + "\n",
        "conda.yaml": yaml.safe_dump(
            {
                "name": "mlflow-env",
                "channels": ["conda-forge"],
                "dependencies": [f"python={python}", "pip", {"pip": pins}],
            },
            sort_keys=False,
        ),
        "python_env.yaml": yaml.safe_dump(
            {
                "python": python,
                "build_dependencies": ["pip", "setuptools", "wheel"],
                "dependencies": ["-r requirements.txt"],
            },
            sort_keys=False,
        ),
    }
    for name, text in write.items():
        (draft / name).write_text(text, encoding="utf-8")


def dimension(folder: Path) -> int:
    """Return the width of a saved encoder's vectors, -1 where its files do not say."""
    width = -1
    modules = _json(folder / "modules.json")
    for module in modules if isinstance(modules, list) else []:
        config = _json(folder / module.get("path", "") / "config.json")
        for key in ("out_features", "embedding_dimension", "word_embedding_dimension"):
            if isinstance(config, dict) and isinstance(config.get(key), int):
                width = config[key]
                break
    return width


def _architecture(folder: Path) -> str:
    config = _json(folder / "config.json")
    names = config.get("architectures") if isinstance(config, dict) else None
    return str(names[0]) if names else ""


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
