"""Texts to token ids: once for a study and a tokenizer, shared by every trial and worker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from embsearch import checksums, disk
from embsearch.data.dataset import Ids, TaskData, roles_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer as RawTokenizer

IDS, OFFSETS = "ids.npy", "offsets.npy"


@dataclass(frozen=True)
class Tokens:
    """Token ids of every text of a data set, end to end; text i is
    ``ids[offsets[i]:offsets[i+1]]``.
    """

    ids: Ids
    offsets: np.ndarray
    prompts: Sequence[str] = ()  # that the texts of each role begin with

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def row(self, text: int) -> Ids:
        """Return the token ids of one text."""
        return self.ids[self.offsets[text] : self.offsets[text + 1]]

    def padded(self, take: Iterable[int], pad: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (B, T) ids and mask of the texts ``take``, T the longest of them."""
        return pad_rows([self.row(i) for i in take], pad)


def pad_rows(rows: Sequence[Sequence[int] | np.ndarray], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (B, T) ids and mask of rows of token ids, T the longest of them."""
    width = max(map(len, rows))
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


class Tokenizer(Protocol):
    """A tokenizer of transformers, as far as it is called here."""

    def __call__(
        self,
        texts: list[str],
        /,
        *,
        add_special_tokens: bool = True,
        truncation: bool,
        max_length: int | None,
    ) -> Mapping[str, list[list[int]]]:
        """Return the token ids of texts, under ``input_ids``."""


def tokenise(texts: Sequence[str], tokenizer: Tokenizer, max_length: int | None) -> Tokens:
    """Return token ids with the tokenizer's special tokens, cut at ``max_length``."""
    with as_it_was(getattr(tokenizer, "backend_tokenizer", None)):
        encoded = tokenizer(
            list(texts), add_special_tokens=True, truncation=True, max_length=max_length
        )["input_ids"]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(e) for e in encoded], out=offsets[1:])
    return Tokens(
        np.fromiter((i for e in encoded for i in e), dtype=np.int32, count=offsets[-1]), offsets
    )


@contextmanager
def as_it_was(backend: RawTokenizer | None) -> Iterator[None]:
    """Put the settings of a fast tokenizer back; None: there is none.

    It keeps the limit it was called with and saves it with the model: whether the tokens were in
    the cache would then decide the digest of equal models.
    """
    if backend is None:
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    yield
    backend.enable_truncation(**truncation) if truncation else backend.no_truncation()
    backend.enable_padding(**padding) if padding else backend.no_padding()


def cached(
    dataset: TaskData,
    tokenizer: Tokenizer,
    max_length: int | None,
    cache: Path,
    prompts: Sequence[str] = ("", ""),
) -> Tokens:
    """Return ``tokenise`` of all texts of ``dataset``, memory-mapped from ``cache`` when made
    before. ``prompts`` stand before its texts, one for each of its roles.
    """
    made_by = (
        tokenizer.backend_tokenizer.to_str()
        if hasattr(tokenizer, "backend_tokenizer")
        else repr(tokenizer)
    )
    words = (
        f"{dataset.fingerprint} {len(dataset.texts)} {max_length} {json.dumps(prompts)} {made_by}"
    )
    key = hashlib.sha256(words.encode()).hexdigest()[:20]
    folder = cache / key
    if not checksums.keep_if_whole(folder):
        tokens = tokenise(prompted(dataset, prompts), tokenizer, max_length)
        cache.mkdir(parents=True, exist_ok=True)
        with disk.draft_of(folder) as draft:
            np.save(draft / IDS, tokens.ids)
            np.save(draft / OFFSETS, tokens.offsets)
            checksums.put(draft, folder)
    return Tokens(np.load(folder / IDS, mmap_mode="r"), np.load(folder / OFFSETS), prompts)


def prompted(data: TaskData, prompts: Sequence[str]) -> Sequence[str]:
    """Return every text of ``data`` behind the prompt of its role."""
    if not any(prompts):
        return data.texts
    role_N = roles_of(data)[1].tolist()
    return [prompts[role] + text for role, text in zip(role_N, data.texts, strict=True)]
