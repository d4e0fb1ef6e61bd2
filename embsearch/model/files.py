"""The one door of model folders: what lies in them, and nothing that runs code when it is read.

Two kinds come through it. A saved model (a trial's, ``checkpoint=``, a registered one) holds
safetensors alone. A base encoder (``model.path``) may hold pickles beside them, as folders of the
hub do, since safetensors are what is read, and scripts that no config names. Code and classes of a
folder's own need ``model.trust_remote_code``.

A link to a file is that file: names and digests are of what it points at, as in the hub's cache,
whose files all are links. A link to a folder is refused: a digest would have to leave the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

# torch, pickle and numpy's object arrays run what the file says (CVE-2024-37052 and its kin)
PICKLES = (".pkl", ".pickle", ".joblib", ".dill")
WEIGHTS = (".bin", ".pt", ".pth", ".ckpt")
OTHERS = (".h5", ".keras", ".npy", ".npz")  # that nobody reads of a base encoder
CODE = (".py", ".pyc", ".so")
SAFE = {"adapter_model.bin": "adapter_model.safetensors"}  # what is read in a pickle's place
MODULES = "modules.json"
# Where configs name classes, and which may be named.
NAMES = {"type", "types", "activation_function", "tokenizer_class", "structure"}
OWN = re.compile(r"sentence_transformers(\.[a-z]\w*)+\.[A-Z]\w*|torch\.nn(\.[a-z]\w*)*\.[A-Z]\w*")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
REMEDY = (
    "expected weights as safetensors; save the model again with sentence-transformers 3 or newer"
)
TRUST = "model.trust_remote_code=true runs it, where you have read it"


def files_in(folder: Path) -> dict[str, Path]:
    """Return every file by its path inside ``folder``, in order."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}


def faults_of_saved(folder: Path, trusted: bool = False) -> list[str]:
    """List every reason why a saved model is not read."""
    kinds = PICKLES + WEIGHTS + OTHERS
    found = [
        f"{folder / name}: a file that can run code when it is loaded; {REMEDY}"
        for name in files_in(folder)
        if Path(name).suffix.lower() in kinds
    ]
    if not (folder / MODULES).is_file():
        found.append(f"{folder / MODULES}: is missing; expected sentence-transformers' list")
    code = [path for path in folder.rglob("*") if path.suffix.lower() in CODE and not trusted]
    return [*found, *(_runs(path) for path in code), *_faults(folder, trusted)]


def faults_of_base(folder: Path, trusted: bool = False) -> list[str]:
    """List every reason why a base encoder is not read, its adapter's base included."""
    found = [*_pickles_alone(folder), *_faults(folder, trusted)]
    if not trusted:
        found += [_runs(path) for path in _named_code(folder)]
    below = _json(folder / "adapter_config.json").get("base_model_name_or_path")
    base = Path(str(below)).expanduser() if below else folder
    if base.is_dir() and not base.samefile(folder):
        found += faults_of_base(base, trusted)
    return found


def _pickles_alone(folder: Path) -> Iterator[str]:
    """Yield the pickles that would be read, for no safetensors stand in their place."""
    for name, path in files_in(folder).items():
        suffix, place = path.suffix.lower(), path.parent
        safe = SAFE.get(path.name, "model.safetensors")
        stand = any((place / one).is_file() for one in (safe, f"{safe}.index.json"))
        # another program's: openvino_model.bin beside its .xml
        other = path.with_suffix(".xml").is_file()
        if suffix in PICKLES or (suffix in WEIGHTS and not stand and not other):
            yield f"{folder / name}: a pickle, which can run code when it is loaded; {REMEDY}"


def _faults(folder: Path, trusted: bool) -> Iterator[str]:
    """Yield what holds for both kinds."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.is_dir():
            yield f"{path}: a link to a folder; expected the folder itself, as cp -rL copies it"
        elif path.is_symlink() and not path.exists():
            yield f"{path}: a link to nothing; copy the file that it pointed at"
        elif not path.is_file() and not path.is_dir():
            yield f"{path}: neither a file nor a folder; take it out"
        elif path.name.endswith(".index.json"):
            yield from _shards(path)
        elif path.suffix == ".json" and path.name not in ("tokenizer.json", "vocab.json"):
            yield from _classes(path, trusted)


def _runs(path: Path) -> str:
    return f"{path}: can run code when the model is loaded; take it out, or {TRUST}"


def _named_code(folder: Path) -> Iterator[Path]:
    """Yield the code files that an ``auto_map`` of a config names, as modeling.Model."""
    for path in folder.glob("*.json"):
        named = json.dumps(_json(path).get("auto_map", ""))
        for module in sorted({*re.findall(r"\"([\w.]+)\.\w+\"", named)}):
            if (file := folder / f"{module.replace('.', '/')}.py").is_file():
                yield file


def _shards(path: Path) -> Iterator[str]:
    shards = _json(path).get("weight_map") or {}
    for shard in sorted({str(one) for one in getattr(shards, "values", list)()}):
        if path.name.endswith(".safetensors.index.json") and not _inside(shard, ".safetensors"):
            yield f"{path}: names {shard}; expected safetensors files of this folder"


def _classes(path: Path, trusted: bool) -> Iterator[str]:
    """Yield the classes and folders of a config that are not sentence-transformers' own."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if path.name == MODULES:
            yield f"{path}: cannot be read ({type(error).__name__}: {str(error)[:80]}); restore it"
        return
    for module in found if path.name == MODULES and isinstance(found, list) else []:
        place = str(module.get("path") or "") if isinstance(module, Mapping) else "?"
        if not _inside(place, ""):
            yield f"{path}: module at {place}; expected a folder of this model"
    if path.name == MODULES and not isinstance(found, list):
        yield f"{path}: expected sentence-transformers' list of modules"
    for name in [] if trusted else sorted({*_named(found, False)}):
        if not OWN.fullmatch(name):
            yield (
                f"{path}: class {name} is not one of sentence-transformers' own; its code is not "
                f"run here. Take another model, or {TRUST}"
            )


def _named(node: object, here: bool) -> Iterator[str]:
    """Yield what stands for a class."""
    if isinstance(node, str):
        if here and _CLASS.fullmatch(node):
            yield node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _named(value, here or key in NAMES)
    elif isinstance(node, list):
        for value in node:
            yield from _named(value, here)


def _inside(place: str, suffix: str) -> bool:
    path = PurePosixPath(place)
    return not path.is_absolute() and ".." not in path.parts and place.endswith(suffix)


def _json(path: Path) -> Mapping[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
