"""TensorBoard's embedding projector: the same texts by the untuned encoder and by the best trial."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from embsearch import disk
from embsearch.data.dataset import TaskData, queries_of

MODELS = ("untuned_encoder", "best_trial")  # of the final table


def models(study_folder: Path) -> dict[str, Path]:
    """Return the files that the final test has kept, by model.

    Each holds the arrays ``sample`` (S,) of text ids and ``vectors`` (S, E) in fp16.
    """
    kept = {name: study_folder / "tested" / f"{name}.npz" for name in MODELS}
    return {name: path for name, path in kept.items() if path.exists()}


def write(folder: Path, models: dict[str, Path], data: TaskData) -> None:
    """Write vectors with their texts into a run's folder. Raises OSError or ValueError."""
    from google.protobuf import text_format
    from tensorboard.plugins.projector.metadata import PROJECTOR_FILENAME
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    config = ProjectorConfig()
    asked = queries_of(data)
    for name, path in models.items():
        try:
            with np.load(path) as arrays:
                sample_S, vectors_SE = arrays["sample"], arrays["vectors"]
        except (KeyError, EOFError, BadZipFile) as error:
            raise ValueError(f"{path}: damaged: {error}") from error
        (folder / name).mkdir(parents=True, exist_ok=True)
        np.savetxt(
            folder / name / "tensors.tsv", vectors_SE.astype(np.float32), fmt="%.5g", delimiter="\t"
        )
        labels = ["text\tis"]
        labels += [
            f"{' '.join(data.texts[i].split())}\t{'query' if asked[i] else 'title'}"
            for i in sample_S
        ]
        (folder / name / "metadata.tsv").write_text("\n".join(labels) + "\n", encoding="utf-8")
        shown = config.embeddings.add()
        shown.tensor_name = name.replace("_", " ")
        shown.tensor_path, shown.metadata_path = f"{name}/tensors.tsv", f"{name}/metadata.tsv"
    with disk.whole(folder / PROJECTOR_FILENAME) as draft:
        draft.write_text(text_format.MessageToString(config), encoding="utf-8")
