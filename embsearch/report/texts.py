"""The texts that a model has seen: how long they are in its own tokens, and in which scripts."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

SHARE = 0.01  # of the letters, below which a script is not named


class Lengths(NamedTuple):
    """Lengths in tokens.

    ``limit`` is where the model cuts, ``cut`` the share of texts that it cuts.
    """

    median: int
    most: int  # 95 in 100 texts are no longer
    longest: int
    limit: int
    cut: float


def lengths(texts: Sequence[str], model: Path) -> Lengths | None:
    """Return lengths by the tokenizer of a saved model; None where its files do not have one that
    can be read without the model.
    """
    from tokenizers import Tokenizer

    try:
        limit = int(
            json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))[
                "model_max_length"
            ]
        )
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    except Exception:  # the library raises nothing narrower
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    counts = np.array([len(one.ids) for one in tokenizer.encode_batch_fast(list(texts))])
    median, most = np.quantile(counts, [0.5, 0.95], method="higher")
    return Lengths(int(median), int(most), int(counts.max()), limit, float(np.mean(counts > limit)))


def scripts(texts: Iterable[str]) -> dict[str, float]:
    """Return the share of the letters that each script has, the most frequent first: ``{"Latin":
    0.98, "CJK": 0.02}``.
    """
    letters = Counter("".join(texts))
    found: Counter[str] = Counter()
    for letter, count in letters.items():
        if letter.isalpha():
            found[unicodedata.name(letter, "UNKNOWN").split()[0]] += count
    every = max(sum(found.values()), 1)
    shares = {name: count / every for name, count in found.most_common() if count / every >= SHARE}
    return {name if name == "CJK" else name.capitalize(): share for name, share in shares.items()}
