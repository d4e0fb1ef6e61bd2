"""The files that hold the data, and the split of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from embsearch.config.schema import DataConfig
from embsearch.data.remote import fetched, is_address
from embsearch.errors import ConfigError, DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow", ".xlsx", ".json")
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}  # suffix -> pyarrow's name
SPLITS = ("train", "valid", "test")
_WORDS = {"judgements": "judg", "clicks": "click", "triplets": "triplet"}
_SPLIT_WORD = {
    "train": re.compile(r"(?<![a-z])train(ing|set)?(?![a-z])"),
    "valid": re.compile(r"(?<![a-z])(valid(ation)?|dev|val)(set)?(?![a-z])"),
    "test": re.compile(r"(?<![a-z])test(set)?(?![a-z])"),
}


# train-00000-of-00002, part-0, part-00000-<uuid>-c000.snappy: a part of what was written in several
_PART = re.compile(
    r"(?P<whole>.*?)[-_.]?(?:\d+-of-0*(?P<of>\d+)|\d{5,}|(?<=part[-_.])\d+)(?![^\W_])"
)


@dataclass(frozen=True)
class Source:
    """A file to read. ``split`` is None where the rows themselves, or the split rule, decide."""

    path: Path
    split: str | None = None
    part: str = "rows"  # else corpus, queries or qrels, which are joined


def kind_of(path: Path) -> str:
    """Return the suffix that says what a file holds, without that of its compression."""
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return inner.suffix.lower()


def find_files(config: DataConfig, cache: Path) -> tuple[list[Source], list[str]]:
    """Return the files that ``config`` names, each there and of a known kind, and notes on what was
    chosen. Of addresses they are copies in ``cache``.

    Raises ConfigError where no data are named, DataError where the named ones are not there.
    """
    named = {split: getattr(config, split) for split in SPLITS if getattr(config, split)}
    if config.path and named:
        keys = ", ".join(f"data.{split}" for split in named)
        raise ConfigError(
            f"data.path={config.path} and {keys} both name data: give one or the other"
        )
    if config.path:
        path = _existing(config.path, "data.path", cache)
        return _in_folder(path, config.format) if path.is_dir() else ([Source(_readable(path))], [])
    if "train" not in named:
        hint = (
            "as data.train=FILE"
            if named
            else "data.path=FILE (or data.train=FILE), or study=NAME of a study that 'embsearch status' lists"
        )
        raise ConfigError(f"no data to train on: give {hint}")
    faults: list[str] = []
    sources: list[Source] = []
    for split, file in named.items():
        try:
            sources.append(Source(_readable(_existing(file, f"data.{split}", cache)), split))
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError(faults)
    return sources, []


def _existing(file: str, setting: str, cache: Path) -> Path:
    if is_address(file):
        return fetched(file, setting, cache)
    path = Path(file).expanduser()
    if path.exists():
        return path
    folder = path.parent
    if not folder.is_dir():
        raise DataError(
            f"{setting}={file}: there is no folder {folder}; paths start at {Path.cwd()}"
        )
    there = sorted(p.name for p in folder.iterdir() if kind_of(p) in SUFFIXES or p.is_dir())
    near = get_close_matches(path.name, there, n=3, cutoff=0.5) or there[:5]
    listed = f"nearest in {folder}: {', '.join(near)}" if near else f"{folder} holds no data files"
    raise DataError(f"{setting}={file}: no such file; {listed}")


def _readable(path: Path) -> Path:
    if path.is_dir():
        raise DataError(f"{path} is a folder: name a file, or give the folder as data.path")
    if kind_of(path) not in SUFFIXES:
        raise DataError(
            f"{path.name}: unknown file kind '{path.suffix}'; "
            f"expected one of {', '.join(SUFFIXES)}, also with {', '.join(COMPRESSED)}; "
            "save it as UTF-8 CSV or convert it"
        )
    return path


def _in_folder(folder: Path, wanted: str) -> tuple[list[Source], list[str]]:
    """Return judgements, else clicks, else train/valid/test files, else the only file there is.

    Files in parts count as one; of a folder without files those of its folders are taken
    (``datasets.save_to_disk``, a snapshot of a hub).
    """
    if parts := _corpus(folder):
        return parts, [f"{folder.name}: qrels, joined with the texts of the corpus and the queries"]
    files = _data_files(folder)
    if not files:
        return _in_folders(folder), []
    kinds = [wanted] if wanted in _WORDS else list(_WORDS)
    for word in (*(_WORDS[kind] for kind in kinds), ""):
        mine = [p for p in files if word in p.stem.lower()]
        if found := _by_split(mine, folder) or _one(mine):
            return found, _note(found, files, folder)
    raise DataError(
        f"{folder}: cannot tell which file to read among {', '.join(p.name for p in files)}; expected one file, "
        "judgements.csv, or names with train, valid and test; name it with data.path=FILE or data.train=FILE"
    )


def _data_files(folder: Path) -> list[Path]:
    return sorted(
        p
        for p in folder.iterdir()  # a .json beside the data tells about them
        if kind_of(p) in SUFFIXES[:-1] and not p.name.startswith(".") and p.is_file()
    )


def _in_folders(folder: Path) -> list[Source]:
    """Return the files of the folders train, valid and test, or of the folder data."""
    found = []
    for inner in sorted(p for p in folder.iterdir() if p.is_dir()):
        for split, word in _SPLIT_WORD.items():
            if word.fullmatch(inner.name.lower()):
                found += _one(_data_files(inner), split)
    if any(source.split == "train" for source in found):
        return found
    if (folder / "data").is_dir():
        return _in_folder(folder / "data", "auto")[0]
    raise DataError(f"{folder}: no data files in this folder; expected {', '.join(SUFFIXES)}")


def _one(files: list[Path], split: str | None = None) -> list[Source]:
    """Return the only file, or all parts of one; else nothing.

    Raises DataError where parts are missing.
    """
    parts = [_PART.match(p.name.lower()) for p in files]
    wholes = {part["whole"] for part in parts if part}
    if len(wholes) != 1 or not all(parts):
        return [Source(p, split) for p in files] if len(files) == 1 else []
    of = {int(part["of"]) for part in parts if part and part["of"]}
    if of and of != {len(files)}:
        raise DataError(
            f"{files[0].parent}: {len(files)} of {max(of)} parts of {wholes.pop()} are here; "
            "expected all of them; fetch what is missing"
        )
    return [Source(p, split) for p in files]


def _by_split(files: list[Path], folder: Path) -> list[Source]:
    found = []
    for split, word in _SPLIT_WORD.items():
        hits = [p for p in files if word.search(p.stem.lower())]
        parts = _one(hits, split)
        if hits and not parts:
            raise DataError(
                f"{folder}: {', '.join(p.name for p in hits)} could each be the {split} split; "
                f"name one with data.{split}=FILE"
            )
        found += parts
    return found if any(source.split == "train" for source in found) else []


def _note(found: list[Source], files: list[Path], folder: Path) -> list[str]:
    read = [source.path.name for source in found]
    rest = [p.name for p in files if p.name not in read]
    return [f"{folder.name}: read {', '.join(read)}; left {', '.join(rest)}"] if rest else []


def _corpus(folder: Path) -> list[Source]:
    """Return the files of a corpus, queries and qrels; none where one of them is missing."""
    found: list[Source] = []
    files = sorted([*folder.iterdir(), *folder.glob("qrels/*")])
    for part, name in (("corpus", "corpus|collection"), ("queries", "queries"), ("qrels", "qrels")):
        begins = re.compile(rf"({name})\b")
        hits = [
            p for p in files if p.is_file() and begins.match(str(p.relative_to(folder)).lower())
        ]
        if not hits:
            return []
        for path in hits:
            words = (s for s, word in _SPLIT_WORD.items() if word.search(path.name.lower()))
            found.append(Source(path, next(words, None) if part == "qrels" else None, part))
    return found
