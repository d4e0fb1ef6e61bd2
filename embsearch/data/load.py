"""A study's data, from files to arrays: read, columns, validate, split, derive, ids.

Made once: the cache folder is named by the content of the files and by the data config.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from embsearch import checksums, disk
from embsearch.codec import JsonObject
from embsearch.config.catalogue import OWN_FORMATS
from embsearch.config.schema import DataConfig
from embsearch.data.class_data import ClassData
from embsearch.data.classes import faults_of_classes, known_classes, make_classes
from embsearch.data.columns import Columns, choose_columns, renamed
from embsearch.data.corpus import joined
from embsearch.data.dataset import Dataset
from embsearch.data.derive import derive_triplets, shown_titles
from embsearch.data.faults import Fault, as_csv, count_kinds
from embsearch.data.ids import make_dataset
from embsearch.data.read import Table, read
from embsearch.data.sampled import with_sampled
from embsearch.data.scored import faults as faults_of_scores
from embsearch.data.scored import normalised, training_rows
from embsearch.data.source_files import SPLITS, Source, find_files
from embsearch.data.split import assign_splits
from embsearch.data.summary import summarise
from embsearch.data.usable import faults_of_titles, rankable_keys, refuse_useless
from embsearch.data.validate import Checked, validate
from embsearch.errors import DataError

_VERSION = 3  # raise it when equal files would give other arrays


def load_dataset(config: DataConfig, cache: Path) -> Dataset:
    """Return the data that ``config`` names, from ``cache`` where the same files were read before.

    Dropped rows lie beside the arrays in ``dropped.csv``. Raises ConfigError where no data are
    named and DataError with every fault found; then nothing has been written.
    """
    return Dataset.load(prepare_dataset(config, cache))


def prepare_dataset(config: DataConfig, cache: Path) -> Path:
    """Return the folder in ``cache`` that holds the data, made now where it is not there yet."""
    return _prepared(config, cache)[1]


def decided_format(config: DataConfig, cache: Path) -> DataConfig:
    """Return the config with the format of its rows, where that has a task of its own.

    The data are prepared by that. Raises as ``load_dataset`` does.
    """
    return _prepared(config, cache)[0] if config.format == "auto" else config


def _prepared(config: DataConfig, cache: Path) -> tuple[DataConfig, Path]:
    """Return the config with the format that was decided, and the folder of the data.

    What was decided lies beside the data, so that nobody reads the files again for it.
    """
    sources, notes = find_files(config, cache)
    key = _cache_key(sources, config)
    decided = cache / f"{key}.format"
    if decided.exists():
        config = replace(config, format=decided.read_text())  # type: ignore[arg-type]
        key = _cache_key(sources, config)
    if checksums.keep_if_whole(cache / key):
        return config, cache / key
    dataset, dropped = build_dataset(config, sources, notes)
    kind = dataset.report["format"]
    if config.format == "auto" and kind in OWN_FORMATS:
        config = replace(config, format=kind)
        key = _cache_key(sources, config)
    _keep(dataset, dropped, cache / key)
    if config.format != "auto" and decided.stem != key:
        with disk.whole(decided) as draft:
            draft.write_text(kind)
    return config, cache / key


def build_dataset(
    config: DataConfig, sources: Sequence[Source], notes: Sequence[str] = ()
) -> tuple[Dataset | ClassData, list[Fault]]:
    """Return the dataset of the files, and the rows that were left out of it."""
    tables, columns = _read_all(sources, config)
    kind = columns[0].format
    rows = pd.concat(
        [renamed(t, c) for t, c in zip(tables, columns, strict=True)], ignore_index=True
    )
    unread = [fault for table in tables for fault in table.faults]
    timed = config.split.by == "time"
    checked = validate(rows, kind, unread, config.on_bad_row, timed)
    if kind == "classes":
        return _of_classes(config, tables, columns, checked, notes)
    frame, good, said = checked.frame, config.positive_grade, JsonObject()
    if kind == "scored":
        frame, said["scores"] = normalised(frame)
        good = said["scores"]["mean"]

    shown = _shown(frame, kind, config)
    able = rankable_keys(shown, good)
    frame, leaked, how = assign_splits(frame, able, config.split, config.on_bad_row)
    dropped = [*checked.dropped, *leaked]

    shown = _shown(frame, kind, config)
    shown["split"] = shown["key"].map(dict(zip(frame["key"], frame["split"], strict=True)))
    train = frame[frame["split"] == "train"]
    if kind == "scored":
        triplets, faults = training_rows(train), faults_of_scores(shown, good)
    else:
        shown, said["sampled"] = with_sampled(shown, good, config.split.seed)
        triplets = train if kind == "triplets" else derive_triplets(train, config.derive, good)
        faults = faults_of_titles(triplets, shown, config)
    refuse_useless(faults, dropped)

    pairs = int((triplets["negative"] == "").sum())
    report = {
        **_reading(config, tables, columns, checked, dropped, notes),
        **summarise(shown, able, good),
        "split": how,
        "triplets": len(triplets) - pairs,
        "pairs": pairs,
        **{name: facts for name, facts in said.items() if facts},
    }
    return make_dataset(triplets, shown, good, report), dropped


def _of_classes(
    config: DataConfig,
    tables: Sequence[Table],
    columns: Sequence[Columns],
    checked: Checked,
    notes: Sequence[str],
) -> tuple[ClassData, list[Fault]]:
    """Return the data of texts with a class, and the rows that were left out."""
    frame, leaked, how = assign_splits(checked.frame, set(), config.split, config.on_bad_row)
    frame, unknown = known_classes(frame, config)
    dropped = [*checked.dropped, *leaked, *unknown]
    refuse_useless(faults_of_classes(frame), dropped)
    report = _reading(config, tables, columns, checked, dropped, notes)
    return make_classes(frame, {**report, "split": how}), dropped


def _read_all(sources: Sequence[Source], config: DataConfig) -> tuple[list[Table], list[Columns]]:
    """Return every file with its columns; the faults of all files together."""
    tables: list[Table] = []
    columns: list[Columns] = []
    faults: list[str] = []
    for source in sources:
        try:
            tables.append(read(source, config.encoding))
        except DataError as error:
            faults += error.faults
    if faults and sources[0].part != "rows":
        raise DataError(faults)
    tables = tables if faults else joined(sources, tables)
    for table in tables:
        try:
            columns.append(choose_columns(table, config.format, config.columns))
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError(faults)
    if len({c.format for c in columns}) > 1:
        named = ", ".join(f"{t.name} is {c.format}" for t, c in zip(tables, columns, strict=True))
        raise DataError(
            f"the files are of different formats ({named}); expected one; set data.format"
        )
    return tables, columns


def _shown(frame: pd.DataFrame, kind: str, config: DataConfig) -> pd.DataFrame:
    return shown_titles(frame, config.positive_grade) if kind == "triplets" else frame.copy()


def _reading(
    config: DataConfig,
    tables: Sequence[Table],
    columns: Sequence[Columns],
    checked: Checked,
    dropped: Sequence[Fault],
    notes: Sequence[str],
) -> JsonObject:
    released = [name for name, header in config.columns.items() if header is None]
    return {
        "format": columns[0].format,
        "files": [
            {
                "file": t.name,
                "split": t.split,
                "rows": len(t.frame) + len(t.faults),
                "sha256": t.sha256,
                "encoding": t.encoding,
                "columns": c.described(),
                "unused": list(c.unused),
            }
            for t, c in zip(tables, columns, strict=True)
        ],
        "notes": [
            *notes,
            *(f"data.columns.{name}=null: nothing is read as {name}" for name in released),
        ],
        "rows": sum(len(t.frame) + len(t.faults) for t in tables),
        "dropped": count_kinds(dropped),
        "duplicates": checked.duplicates,
        "contradictions": len(checked.contradictions),
        "contradiction_examples": list(checked.contradictions[:3]),
    }


def _cache_key(sources: Sequence[Source], config: DataConfig) -> str:
    """Return the name of the cache folder.

    Folder names do not count: the same files elsewhere are the same data.
    """
    settings = {k: v for k, v in asdict(config).items() if k not in ("path", "sets", *SPLITS)}
    settings["columns"] = dict(config.columns)
    digest = hashlib.sha256(json.dumps([_VERSION, settings], sort_keys=True).encode())
    for source in sources:
        content = hashlib.sha256(source.path.read_bytes()).hexdigest()
        digest.update(json.dumps([source.path.name, source.split, content]).encode())
    return digest.hexdigest()[:32]


def _keep(dataset: Dataset | ClassData, dropped: Sequence[Fault], folder: Path) -> None:
    """Write the dataset and dropped.csv under ``folder``, both or neither."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with disk.draft_of(folder) as draft:
        try:
            if dropped:
                dataset.report["dropped_to"] = str(folder / "dropped.csv")
            dataset.save(draft / "data")
            if dropped:
                (draft / "data" / "dropped.csv").write_text(as_csv(dropped), encoding="utf-8")
            if not folder.exists():
                disk.put(draft / "data", folder)
        except OSError:
            if not folder.exists():  # else another process was first, with the same content
                raise
