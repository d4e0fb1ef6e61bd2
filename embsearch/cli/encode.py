"""embsearch encode: texts in, vectors out, with the champion or any checkpoint.

embsearch encode study=product_search input=titles.txt output=vectors.npy
cat titles.txt | embsearch encode study=product_search > vectors.jsonl
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from embsearch.cli.models import chosen
from embsearch.config.schema import Config
from embsearch.errors import ConfigError, DataError


def run(config: Config) -> int:
    """One text a line; JSON lines {"text", "vector"}, or an .npy matrix of shape (texts, width)."""
    output = Path(config.output) if config.output else None
    if output is not None and output.suffix not in (".npy", ".jsonl"):
        raise ConfigError(f"output={output}: expected a name ending in .npy or .jsonl")
    texts = read_texts(config.input)
    if config.checkpoint is None and config.trial is None:
        config = replace(config, checkpoint="champion")
    _, folder = chosen(config)
    assert folder is not None

    from embsearch.worker import encode

    vectors = encode(texts, folder, config)
    if output is not None and output.suffix == ".npy":
        import numpy as np

        draft = output.with_name(f".{output.stem}.{os.getpid()}.npy")
        np.save(draft, vectors)
        os.replace(draft, output)
        print(f"{output}: {vectors.shape[0]} vectors of width {vectors.shape[1]}, float32", file=sys.stderr)
        return 0
    lines = [
        json.dumps({"text": t, "vector": [round(float(x), 7) for x in v]}, ensure_ascii=False)
        for t, v in zip(texts, vectors, strict=True)
    ]
    if output is None:
        print("\n".join(lines))
    else:
        draft = output.with_name(f".{output.name}.{os.getpid()}")
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(draft, output)
        print(f"{output}: {len(lines)} vectors", file=sys.stderr)
    return 0


def read_texts(source: str | None) -> list[str]:
    """One text a line from a file or standard input. Raises DataError naming the line."""
    name = source or "standard input"
    try:
        data = Path(source).expanduser().read_bytes() if source else sys.stdin.buffer.read()
    except OSError as error:
        raise DataError(f"input={source}: {error.strerror}; expected a text file, one text a line") from error
    try:
        texts = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name}, line {line}: byte {data[error.start]:#04x} is not UTF-8; convert the file"
        ) from None
    faults = [
        f"{name}, line {i}: empty; expected a text, delete the line" for i, t in enumerate(texts, 1) if not t.strip()
    ]
    if faults or not texts:
        raise DataError(faults[:20] or f"{name}: no texts; expected one a line")
    return texts
