"""embsearch encode: texts in, vectors out, with the champion or any checkpoint.

embsearch encode study=product_search input=titles.txt output=vectors.npy
cat titles.txt | embsearch encode study=product_search > vectors.jsonl
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from embsearch.cli.files import check_output, write_whole
from embsearch.cli.models import chosen_or_champion
from embsearch.config.options import EncodeOptions
from embsearch.config.schema import Config
from embsearch.errors import DataError, ModelError


def run(config: Config, options: EncodeOptions) -> int:
    """Encode one text a line. Write JSON lines {"text", "vector"}, or an .npy matrix (texts,
    width).
    """
    output = check_output(options.output, ".npy", ".jsonl")
    texts = read_texts(options.input)
    model = chosen_or_champion(config, options)
    if model.folder is None:
        raise ModelError(
            "checkpoint=untuned: encode takes a saved model; name a folder, or one of the registry"
        )

    from embsearch.serve.encoder import TextEncoder
    from embsearch.worker import use_all_cores

    use_all_cores()
    vectors = TextEncoder.open(model.folder, config.device)(
        texts, options.role, options.prompt_name
    ).values
    if output is not None and output.suffix == ".npy":
        import numpy as np

        matrix = io.BytesIO()
        np.save(matrix, vectors)
        write_whole(output, matrix.getvalue())
        print(
            f"{output}: {vectors.shape[0]} vectors of width {vectors.shape[1]}, float32",
            file=sys.stderr,
        )
        return 0
    lines = [
        json.dumps({"text": t, "vector": [round(float(x), 7) for x in v]}, ensure_ascii=False)
        for t, v in zip(texts, vectors, strict=True)
    ]
    if output is None:
        print("\n".join(lines))
    else:
        write_whole(output, ("\n".join(lines) + "\n").encode())
        print(f"{output}: {len(lines)} vectors", file=sys.stderr)
    return 0


def read_texts(source: str | None) -> list[str]:
    """Read one text a line from a file or standard input. Raises DataError naming the line."""
    name = source or "standard input"
    try:
        data = Path(source).expanduser().read_bytes() if source else sys.stdin.buffer.read()
    except OSError as error:
        raise DataError(
            f"input={source}: {error.strerror}; expected a text file, one text a line"
        ) from error
    try:
        texts = [line.removesuffix("\r") for line in data.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name}, line {line}: byte {data[error.start]:#04x} is not UTF-8; convert the file"
        ) from None
    if not texts[-1]:  # what follows the last line's end
        texts.pop()
    faults = [
        f"{name}, line {i}: empty; expected a text, delete the line"
        for i, t in enumerate(texts, 1)
        if not t.strip()
    ]
    if faults or not texts:
        raise DataError(faults[:20] or f"{name}: no texts; expected one a line")
    return texts
