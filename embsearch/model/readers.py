"""The modules that read texts: how their tokens become what a model is given.

A transformer takes padded token ids and a mask. A static encoder (StaticEmbedding, model2vec) is a
table of token vectors, of which a text gets the mean: it takes ids end to end, without special
tokens, and has no positions. A new kind of first module is a class here and a line in READERS.
Shapes: B texts, T tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from torch import nn

from embsearch.data.tokenise import Tokenizer, as_it_was
from embsearch.errors import ModelError
from embsearch.model.positions import positions

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding, Transformer
    from tokenizers import Tokenizer as RawTokenizer

TABLES = (nn.Embedding, nn.EmbeddingBag)
LONGEST = (
    512  # tokens; bases that carry thousands of positions are capped unless max_length says more
)


class Reader(Protocol):
    """One module that reads texts."""

    module: nn.Module
    inputs: ClassVar[tuple[str, str]]  # sentence-transformers' names of what ``arrays`` gives
    pads: ClassVar[bool]  # false: a chunk needs no padding
    tokenizer: Tokenizer
    special: Sequence[int]  # ids of tokens that stand for no part of a text
    unknown: int | None  # id of the token of what the tokenizer does not know
    unknown_word: str
    pad: int  # id that fills short rows
    most: int  # tokens of a text that it can read
    table: nn.Module  # its token table, one of TABLES where it can be cut
    hidden_size: int  # the width of its layers

    @property
    def length(self) -> int | None:
        """Return how many tokens of a text are read; None: all."""

    def set_length(self, asked: int | None) -> None:
        """Read so many tokens of a text, None: what is usual. Raises ModelError where it cannot."""

    def arrays(self, ids_T: np.ndarray, lengths_B: np.ndarray, pad: int) -> Sequence[np.ndarray]:
        """Return what the module is given of texts whose table rows lie end to end."""

    def activation_bytes(self, lengths_B: np.ndarray, held: int) -> float:
        """Return the bytes of ``Tower.activation_bytes``."""


class TransformerReader:
    """A transformer of transformers."""

    inputs: ClassVar = ("input_ids", "attention_mask")
    pads: ClassVar = True

    def __init__(self, module: Transformer) -> None:
        words, base = module.tokenizer, module.auto_model
        assert words is not None, "reader_of asked"
        self._own, self._config = module, base.config
        self.module: nn.Module = module
        self.tokenizer: Tokenizer = words
        self.special: Sequence[int] = words.all_special_ids or []
        self.unknown: int | None = words.unk_token_id
        self.unknown_word = str(words.unk_token)
        self.pad = words.pad_token_id or 0  # it is masked, so any will do where there is none
        self.most = positions(base)[1]
        self.table: nn.Module = base.get_input_embeddings()
        self.hidden_size = int(getattr(base.config, "hidden_size", 0))
        self._added = words.num_special_tokens_to_add()

    @property
    def length(self) -> int | None:
        return self._own.max_seq_length

    def set_length(self, asked: int | None) -> None:
        """Read ``asked`` tokens of a text; None: what the folder says, at most LONGEST."""
        if asked is None:
            self._own.max_seq_length = min(self.length or LONGEST, self.most, LONGEST)
            return
        if asked > self.most:
            raise ModelError(f"model.max_length={asked}: the encoder has {self.most} positions")
        if asked <= self._added:
            raise ModelError(
                f"model.max_length={asked}: expected at least {self._added + 1}, "
                f"the encoder's {self._added} special tokens and one of the text"
            )
        self._own.max_seq_length = asked

    def arrays(self, ids_T: np.ndarray, lengths_B: np.ndarray, pad: int) -> Sequence[np.ndarray]:
        """Return (B, T) ids and mask."""
        mask = np.arange(lengths_B.max()) < lengths_B[:, None]
        ids = np.full(mask.shape, pad, dtype=np.int64)
        ids[mask] = ids_T
        return ids, mask.astype(np.int64)

    def activation_bytes(self, lengths_B: np.ndarray, held: int) -> float:
        """Return 34 D + 5 H L bytes a token and layer of width D with H heads.

        Korthikanti et al. 2022, arXiv:2205.05198; L is the mean length of attention's rows.
        """
        names = ("num_hidden_layers", "hidden_size", "num_attention_heads")
        layers, width, heads = (getattr(self._config, name, 0) for name in names)
        row = float((lengths_B.astype(float) ** 2).sum() / lengths_B.sum())
        a_token: float = layers * (34 * width + 5 * heads * row)
        return held * a_token


class StaticTokenizer:
    """A tokenizer of the tokenizers package, called as one of transformers is; it adds no special
    tokens.
    """

    def __init__(self, raw: RawTokenizer) -> None:
        self.raw = raw

    def __call__(
        self,
        texts: list[str],
        /,
        *,
        add_special_tokens: bool = False,
        truncation: bool,
        max_length: int | None,
    ) -> Mapping[str, list[list[int]]]:
        """Return the token ids of texts, cut at ``max_length``."""
        with as_it_was(self.raw):
            cut = self.raw.truncation or {}
            if truncation and max_length is not None:
                self.raw.enable_truncation(**{**cut, "max_length": max_length})
            found = self.raw.encode_batch(texts, add_special_tokens=False)
        return {"input_ids": [one.ids for one in found]}

    def __repr__(self) -> str:
        return f"static {self.raw.to_str()}"  # another name than transformers' with the same file


class StaticReader:
    """A StaticEmbedding of sentence-transformers."""

    inputs: ClassVar = ("input_ids", "offsets")
    pads: ClassVar = False
    special: Sequence[int] = ()
    pad = 0
    most = sys.maxsize

    def __init__(self, module: StaticEmbedding) -> None:
        raw = module.tokenizer
        self._raw = raw
        self.module: nn.Module = module
        self.tokenizer: Tokenizer = StaticTokenizer(raw)
        self.table: nn.Module = module.embedding
        self.hidden_size = int(module.embedding_dim)
        word, number = (getattr(raw.model, name, None) for name in ("unk_token", "unk_id"))
        self.unknown_word = str(word)
        self.unknown: int | None = raw.token_to_id(str(word)) if word else number

    @property
    def length(self) -> int | None:
        """Return where its tokenizer.json cuts texts, and SentenceTransformer.encode with it."""
        cut = self._raw.truncation
        return None if cut is None else int(cut["max_length"])

    def set_length(self, asked: int | None) -> None:
        """Read ``asked`` tokens of a text; None: what its tokenizer.json says, all as a rule."""
        if asked is None:
            return
        if asked < 1:
            raise ModelError(f"model.max_length={asked}: expected at least one token of the text")
        cut = self._raw.truncation or {}
        self._raw.enable_truncation(**{**cut, "max_length": asked})

    def arrays(self, ids_T: np.ndarray, lengths_B: np.ndarray, pad: int) -> Sequence[np.ndarray]:
        """Return (T,) ids end to end and (B,) where each text begins."""
        return ids_T.astype(np.int64), np.cumsum(lengths_B) - lengths_B

    def activation_bytes(self, lengths_B: np.ndarray, held: int) -> float:
        """Return the bytes of each text's vector and of each token's id."""
        return 2.0 * len(lengths_B) * self.hidden_size + 8.0 * held


READERS: dict[str, Callable[..., Reader]] = {
    "Transformer": TransformerReader,
    "StaticEmbedding": StaticReader,
}


def reader_of(module: nn.Module) -> Reader:
    """Return the reader of a model's first module, or of a route's. Raises ModelError."""
    for kind in type(module).__mro__:
        if kind.__name__ in READERS and getattr(module, "tokenizer", None) is not None:
            return READERS[kind.__name__](module)
    known = " and ".join(READERS)
    raise ModelError(f"{type(module).__name__} does not read texts here; {known} do")


def readers(model: SentenceTransformer) -> list[Reader]:
    """Return the readers of a model: one, or one a route. Raises ModelError."""
    return [reader_of(module) for module in firsts(model)]


def firsts(model: SentenceTransformer) -> list[nn.Module]:
    """Return the modules that texts come to: the first one, or the first one of every route."""
    routes = getattr(model[0], "sub_modules", None)
    if routes is None:
        return [model[0]]
    distinct = {id(route[0]): route[0] for route in routes.values()}
    return list(distinct.values())
