"""The nearest titles of two encoders for the same texts, side by side."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from embsearch import disk
from embsearch.cli.models import UNTUNED, Chosen, named
from embsearch.config.folders import home_folder
from embsearch.config.schema import Config
from embsearch.model import pretrained
from embsearch.serve.encoder import TextEncoder
from embsearch.serve.index import Index, unit_rows
from embsearch.track.digest import digest, manifest

Found = Sequence[Sequence[str]]
MARK = "✓ "


def other_nearest(
    config: Config, compare: str, index: Index, texts: Sequence[str], k: int
) -> tuple[str, Found]:
    """Return the other encoder's label, and its nearest titles of the same index for each text."""
    if compare == UNTUNED:
        other = Chosen(f"untuned encoder {config.model.path}", None)
        encode = TextEncoder(pretrained.build(config.encoder), config.device)
    else:
        other = named(config, compare)
        assert other.folder is not None
        other.digest()  # nothing that runs code
        encode = TextEncoder.open(other.folder, config.device)
    cache = home_folder(config.home) / "cache" / "vectors"
    vectors = _kept(cache / f"{_key(config, other, index)}.npy", encode, index.titles)
    _, ids = Index(index.titles, vectors, {}).nearest(encode(texts, "query").values, k)
    return other.label, [[index.titles[i] for i in row] for row in ids]


def show(
    texts: Sequence[str],
    ours: Found,
    theirs: Found,
    labels: tuple[str, str],
    right: Mapping[str, Set[str]],
) -> None:
    """Print a row a text; titles that are known to be right for it carry a mark."""
    console = Console(width=max(100, Console().width))
    table = Table(show_lines=True, expand=True)
    table.add_column("text", ratio=2, overflow="fold")
    for label in labels:
        table.add_column(label, ratio=5, no_wrap=True, overflow="ellipsis")
    for text, mine, other in zip(texts, ours, theirs, strict=True):
        table.add_row(Text(text), *(_cell(found, right.get(text)) for found in (mine, other)))
    console.print(table)
    judged = [i for i, text in enumerate(texts) if text in right]
    if judged:
        counts = [sum(found[i][0] in right[texts[i]] for i in judged) for found in (ours, theirs)]
        console.print(
            f"{MARK}right by the study's rows. First title right: {counts[0]} of {len(judged)} by {labels[0]}, "
            f"{counts[1]} by {labels[1]}. Titles without the mark may be right too: not every pair was judged.",
            highlight=False,
        )  # fmt: skip


def _cell(found: Sequence[str], right: Set[str] | None) -> Text:
    lines = []
    for place, title in enumerate(found, 1):
        shown = Text("  " + title)
        if right and title in right:
            shown = Text(MARK + title, "green")
        lines.append(Text(f"{place} ") + shown)
    return Text("\n").join(lines)


def _kept(file: Path, encode: TextEncoder, titles: Sequence[str]) -> np.ndarray:
    """Return the vectors of all titles, made once for a model and these titles."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.stem}.{os.getpid()}.npy")
        np.save(draft, unit_rows(encode(titles, "document").values))
        disk.put(draft, file)
    vectors: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    return vectors


def _key(config: Config, other: Chosen, index: Index) -> str:
    """Return a key that names the model by its files, or by its name on a hub."""
    if other.folder is None:
        place = Path(pretrained.find(config.model))
        built = asdict(config.model)
    else:
        place = other.folder
        built = {}
    files = digest(manifest(place)) if place.is_dir() else str(place)
    text = json.dumps([files, built, "document", list(index.titles)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
