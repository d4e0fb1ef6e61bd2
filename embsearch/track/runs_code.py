"""What of a model's files could run code when they are loaded. Nothing of such a model is read any further."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

# torch, pickle and numpy's object arrays run what the file says (CVE-2024-37052 and its kin)
RUNS_CODE = (
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".h5", ".keras", ".npy", ".npz", ".py",
)  # fmt: skip
MODULES = "sentence_transformers."  # whose classes modules.json may name


def runs_code(folder: Path, files: Iterable[str]) -> list[str]:
    """A fault for every such file of a model, named by its path in ``folder``, and for modules of others."""
    faults = [
        f"{folder / name}: a file that can run code when it is loaded; expected weights as safetensors; save the "
        "model again with sentence-transformers 3 or newer"
        for name in files
        if Path(name).suffix.lower() in RUNS_CODE
    ]
    return faults + _foreign_modules(folder / "modules.json")


def _foreign_modules(path: Path) -> list[str]:
    try:
        kinds = [str(module["type"]) for module in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{path}: cannot be read ({error}); expected sentence-transformers' list of modules"]
    return [
        f"{path}: module {kind} is not one of sentence-transformers' own; its code is not run here"
        for kind in kinds
        if not kind.startswith(MODULES)
    ]
