"""The keys by which two query texts are one query."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

_UNSEEN = {ord(c): None for c in "\u200b\u200c\u200d\u2060\ufeff\u00ad"}


def query_key(text: str) -> str:
    """Return the text's key.

    Equal keys are one query: width, case, blanks and invisible characters do not count.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(folded.translate(_UNSEEN).split())


def query_keys(texts: Iterable[str]) -> list[str]:
    """Return ``query_key`` of every text, each distinct one worked out once."""
    seen: dict[str, str] = {}
    return [
        seen[text] if text in seen else seen.setdefault(text, query_key(text)) for text in texts
    ]


def salted(seed: int, *parts: str) -> int:
    """Return A 64-bit number that depends on the seed and the texts and on nothing else."""
    digest = hashlib.sha256(
        "\0".join((str(seed), *parts)).encode("utf-8", "surrogatepass")
    ).digest()
    return int.from_bytes(digest[:8], "big")
