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
from collections.abc import Iterator
from pathlib import Path

from embsearch.codec import JsonObject

# torch, pickle and numpy's object arrays run what the file says (CVE-2024-37052 and its kin)
PICKLES = (".pkl", ".pickle", ".joblib", ".dill")
WEIGHTS = (".bin", ".pt", ".pth", ".ckpt")
OTHERS = (".h5", ".keras", ".npy", ".npz")  # that nobody reads of a base encoder
CODE = (".py", ".pyc", ".so")
MODULES = "modules.json"
ADAPTER = "adapter"  # the folder in a saved model that holds its LoRA alone; nothing here loads it
TEXTS = ("tokenizer.json", "vocab.json")  # of words, which name no class
# Where configs name classes, and which may be named.
NAMES = ("type", "types", "structure", "activation_function", "tokenizer_class")
OWN = re.compile(r"(?:sentence_transformers|torch\.nn)(\.[a-z]\w*)*\.[A-Z]\w*")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
REMEDY = (
    "can run code when it is loaded; expected weights as safetensors; save the model again with "
    "sentence-transformers 3 or newer"
)
TRUST = "model.trust_remote_code=true runs it, where you have read it"
RUNS = f"a file that can run code when it is loaded; take it out, or {TRUST}"
FOREIGN = f"is not one of sentence-transformers' own; take another model, or {TRUST}"


def files_in(folder: Path) -> dict[str, Path]:
    """Return every file by its path inside ``folder``, in order."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            found[name] = path
    return found


def faults_of_saved(folder: Path, trusted: bool = False) -> list[str]:
    """List every reason why a saved model is not read."""
    found = list(_faults(folder, trusted))
    if not (folder / MODULES).is_file():
        found.append(f"{folder / MODULES}: is missing; expected sentence-transformers' list")
    for path in files_in(folder).values():
        suffix = path.suffix.lower()
        if suffix in PICKLES + WEIGHTS + OTHERS:
            found.append(f"{path}: a file that {REMEDY}")
        if suffix in CODE and not trusted:
            found.append(f"{path}: {RUNS}")
    return found


def faults_of_base(folder: Path, trusted: bool = False) -> list[str]:
    """List every reason why a base encoder is not read, its adapter's base included."""
    found = list(_faults(folder, trusted))
    for path in files_in(folder).values():
        suffix = path.suffix.lower()
        # another program's: openvino_model.bin beside its .xml
        other = path.with_suffix(".xml").is_file()
        if suffix in PICKLES or (suffix in WEIGHTS and not (other or _stand_aside(path))):
            found.append(f"{path}: a pickle, which {REMEDY}")
    if not trusted:
        for path in _named_code(folder):
            found.append(f"{path}: {RUNS}")
    below = _read(folder / "adapter_config.json").get("base_model_name_or_path")
    base = Path(str(below or folder))
    if base.is_dir() and not base.samefile(folder):
        found += faults_of_base(base, trusted)
    return found


def _stand_aside(pickle: Path) -> bool:
    """Return true where safetensors are read in a pickle's place."""
    kind = "adapter_model" if pickle.stem == "adapter_model" else "model"
    index = pickle.with_name(f"{kind}.safetensors.index.json")
    return pickle.with_name(f"{kind}.safetensors").is_file() or index.is_file()


def _faults(folder: Path, trusted: bool) -> Iterator[str]:
    """Yield what holds for both kinds."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.is_dir():
            yield f"{path}: a link to a folder; expected the folder itself, as cp -rL copies it"
        elif path.is_symlink() and not path.exists():
            yield f"{path}: a link to nothing; copy the file that it pointed at"
        elif not path.is_file() and not path.is_dir():
            yield f"{path}: neither a file nor a folder; take it out"
        elif path.name.endswith(".safetensors.index.json"):
            yield from _shards(path)
        elif path.name == MODULES:
            yield from _modules(path, trusted)
        elif path.suffix == ".json" and path.name not in TEXTS and not trusted:
            yield from _classes(path, _read(path))


def _named_code(folder: Path) -> list[Path]:
    """Return the code files that an ``auto_map`` of a config names, as modeling.Model."""
    found = set()
    for path in folder.glob("*.json"):
        named = str(_read(path).get("auto_map"))
        for module in re.findall(r"(\w+)\.\w+", named):
            found.add(folder / f"{module}.py")
    return sorted(path for path in found if path.is_file())


def _shards(path: Path) -> Iterator[str]:
    shards = _read(path).get("weight_map")
    if not isinstance(shards, dict):
        return
    names = set(map(str, shards.values()))
    for shard in sorted(names):
        if not _inside(shard) or not shard.endswith(".safetensors"):
            yield f"{path}: names {shard}; expected safetensors files of this folder"


def _modules(path: Path, trusted: bool) -> Iterator[str]:
    """Yield the classes and folders that a list of modules may not name."""
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        places = [str(module.get("path", "")) for module in modules]
    except Exception as error:  # of whatever shape it is
        why = f"{type(error).__name__}: {str(error)[:80]}"
        yield f"{path}: cannot be read ({why}); expected sentence-transformers' list of modules"
        return
    for place in places:
        if not _inside(place):
            yield f"{path}: module at {place}; expected a folder of this model"
    if not trusted:
        yield from _classes(path, modules)


def _classes(path: Path, config: object) -> Iterator[str]:
    """Yield the classes of a config that are not sentence-transformers' own."""
    named = set(_named(config, False))
    for name in sorted(named):
        if not OWN.fullmatch(name):
            yield f"{path}: class {name} {FOREIGN}"


def _named(node: object, here: bool) -> Iterator[str]:
    """Yield what stands for a class."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _named(value, here or key in NAMES)
    elif isinstance(node, list):
        for value in node:
            yield from _named(value, here)
    elif here and isinstance(node, str) and _CLASS.fullmatch(node):
        yield node


def _inside(place: str) -> bool:
    return not place.startswith("/") and ".." not in place.split("/")


def _read(path: Path) -> JsonObject:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
