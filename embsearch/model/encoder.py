"""The encoder as the training core sees it: token ids in, one vector a text out.

While a study trains, the token table holds only the tokens that occur in its texts: exact, because
token rows get no weight decay and an absent token's row gets no gradient. It is put back on
saving. For MiniLM the table is half of the weights, for multilingual models most.

What the model is given of a chunk is for its reader to say (readers.py): a transformer's texts are
padded to the longest of their chunk. A kernel may stand in for that (``kernel``).
Shapes: B texts, T tokens, E the width of the embedding, D of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from embsearch.data.batch import onto
from embsearch.data.dataset import TaskData, roles_of
from embsearch.data.tokenise import Tokenizer, Tokens, cached, tokenise
from embsearch.errors import ModelError
from embsearch.model import lora, pretrained
from embsearch.model.device import product_dtype
from embsearch.model.folder_check import Part
from embsearch.model.frozen import LIMIT, FrozenLayerCache
from embsearch.model.kernel import Kernel
from embsearch.model.prompts import Role, prompts_of
from embsearch.model.readers import TABLES, reader_of
from embsearch.model.text_tower import TextTower
from embsearch.model.tower import Inputs

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Without cuDNN's, which torch takes first on a Hopper GPU: it makes a plan for every new shape, and
# batches of texts have one each. A step in three buckets took 136 ms by it, and 43 without.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
# Tokens of a text up to which torch's plain attention is faster on a CPU, while training, than its
# kernel.
PLAIN = 256
PROBED = 4  # texts, of every length, whose vectors must outlive the cut of the token table


class Encoder(TextTower):
    """A SentenceTransformer behind ``forward(ids_BT, mask_BT) -> embeddings_BE``."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__(model)
        self.reader = reader_of(model[0])
        self.kernel: Kernel | None = None
        self._rows: np.ndarray | None = None  # token id -> row of the cut table
        self._tokens: Tensor | None = None  # row of the cut table -> token id
        self._full: Tensor | None = None  # the whole table, as it was before the cut
        self._cut: nn.Parameter | None = None  # the rows that are left of it
        self._padding: int | None = None  # token id whose row never learns
        self._known: Tokens | None = None  # the texts whose frozen states are kept
        self._frozen = 0  # lowest layers whose states are kept
        self._caches: dict[torch.dtype, FrozenLayerCache | None] = {}

    def prepare(self, data: TaskData, cache: Path) -> Tokens:
        self.take_roles(data)
        prompts = prompts_of(self.model, roles_of(data)[0])
        return cached(data, self.tokenizer, self.reader.length, cache, prompts)

    def read(self, texts: Sequence[str], roles: Sequence[Role | None]) -> Tokens:
        return tokenise(texts, self.tokenizer, self.reader.length)

    def parts(self, inputs: Inputs) -> Iterator[Part]:
        assert isinstance(inputs, Tokens), "prepare and read make nothing else"
        yield self.reader, inputs, np.arange(len(inputs.lengths), dtype=np.int32)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.reader.tokenizer

    @property
    def packs(self) -> bool:
        """True where chunks are encoded without padding."""
        return self.kernel is not None or not self.reader.pads

    def save(self, folder: Path) -> None:
        """Write the model with its whole token table, in sentence-transformers' format."""
        try:
            pretrained.save(self.uncut(), folder)
        finally:
            self.recut()

    def restrict(self, inputs: Tokens) -> None:
        """Keep only the tokens of ``inputs`` in the token table.

        It stays whole where vectors depend on the number of a token, beyond its row. Raises
        ModelError where a token has no row.
        """
        ids = np.unique(inputs.ids)
        rows = getattr(self.table, "num_embeddings", ids[-1] + 1)
        if ids[-1] >= rows:
            raise ModelError(
                f"the tokenizer gives token {ids[-1]}, and the encoder's token table has {rows} rows: "
                "they are not of one model"
            )
        step = max(1, len(inputs.lengths) // PROBED)
        few = np.argsort(inputs.lengths, kind="stable")[::step][:PROBED]
        was, _ = self.training, self.eval()
        with torch.no_grad():
            whole_BE = self.encode(inputs, few)
            self.cut_table(ids)
            if not torch.allclose(self.encode(inputs, few), whole_BE, atol=1e-6):
                self.uncut()
                self._rows = self._tokens = self._full = self._cut = None
        self.train(was)

    def hold_frozen_in_bf16(self) -> None:
        """Hold frozen weights below adapters in half the memory, where nothing is lost by it."""
        lora.hold_in_bf16(self.model)

    def activation_bytes(self, lengths: np.ndarray, held: int) -> float:
        return self.reader.activation_bytes(lengths, held)

    def forward(self, ids: Tensor, where: Tensor) -> Tensor:
        """Return (B, E) of a transformer's (B, T) ids and mask, or another reader's arrays."""
        given = dict(zip(self.reader.inputs, (ids, where), strict=True))
        embeddings_BE: Tensor = self.model(given)["sentence_embedding"]
        return embeddings_BE

    def encode(
        self, tokens: Tokens, texts: np.ndarray, alone: bool = False, shared: object = None
    ) -> Tensor:
        """Return (B, E) embeddings of one chunk of texts, on the encoder's device.

        ``alone`` and ``shared``: as of ``Kernel.encode``.
        """
        ids_T, lengths_B = self.rows(_joined(tokens, texts)), tokens.lengths[texts]
        if self.kernel is None:
            vectors_BE = self._encode_plain(ids_T, lengths_B)
        else:
            states = self.frozen_states(tokens, texts)
            vectors_BE = self.kernel.encode(ids_T, lengths_B, states, alone, shared)
        width = self.model.truncate_dim  # as sentence-transformers: after the last module
        return vectors_BE if width is None else vectors_BE[:, :width]

    def _encode_plain(self, ids_T: np.ndarray, lengths_B: np.ndarray) -> Tensor:
        pad = int(self.rows(np.array(self.pad)))
        arrays, device = self.reader.arrays(ids_T, lengths_B, pad), self.device
        # pinned and asynchronous on CUDA
        given = [onto(device, torch.from_numpy(array)) for array in arrays]
        plain = device.type == "cpu" and self.training and lengths_B.max() <= PLAIN
        with sdpa_kernel([SDPBackend.MATH] if plain else ATTENTION):
            embeddings_BE: Tensor = self(*given)
        return embeddings_BE

    @property
    def left_out(self) -> int:
        """The number of parameters of the rows that were cut."""
        if self._full is None or self._cut is None:
            return 0
        return self._full.numel() - self._cut.numel()

    @property
    def hidden_size(self) -> int:
        """The width of the reader's layers."""
        return self.reader.hidden_size

    def gradient(self) -> Tensor | None:
        """Return all gradients end to end in one tensor; None where they lie apart."""
        return None if self.kernel is None else self.kernel.gradient()

    def release_unused(self) -> None:
        """Give memory of the kernel back that nothing lies in."""
        if self.kernel is not None:
            self.kernel.release_unused()

    def release(self) -> None:
        """Give back all memory that the kernel keeps between steps."""
        if self.kernel is not None:
            self.kernel.release()

    def train(self, mode: bool = True) -> Encoder:
        """Set the mode of every module that learns.

        What is frozen has no dropout, so that it gives a text the same vectors every time.
        """
        super().train(mode)
        for module in self.model.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
        return self

    def remember(self, tokens: Tokens) -> None:
        """Keep the states of these texts after the frozen layers, where the kernel has them."""
        self._known, self._caches = tokens, {}
        any_text = self.kernel is not None and len(tokens.lengths) > 0
        self._frozen = self.kernel.frozen_layers(tokens.lengths) if self.kernel and any_text else 0

    def frozen_states(self, tokens: Tokens, texts: np.ndarray) -> Tensor | None:
        """Return (T, D) of ``texts``, end to end, after the frozen layers; None: not kept."""
        if tokens is not self._known or not self._frozen:
            return None
        dtype = product_dtype(next(self.parameters()))
        if dtype not in self._caches:
            self._caches[dtype] = self._new_cache(tokens, dtype)
        cache = self._caches[dtype]
        return None if cache is None else cache(texts)

    def _new_cache(self, tokens: Tokens, dtype: torch.dtype) -> FrozenLayerCache | None:
        size = int(tokens.offsets[-1]) * self.hidden_size * dtype.itemsize
        return None if size > LIMIT else FrozenLayerCache(tokens, partial(self._compute, tokens))

    @torch.no_grad()
    def _compute(self, tokens: Tokens, texts: np.ndarray) -> Tensor:
        assert self.kernel is not None, "remember found frozen layers"
        ids = self.rows(_joined(tokens, texts))
        return self.kernel.frozen_states(ids, tokens.lengths[texts], self._frozen)

    @property
    def pad(self) -> int:
        """Return the token id that fills short rows."""
        return self.reader.pad

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def cut_table(self, tokens: np.ndarray) -> None:
        """Keep only the rows of ``tokens`` (ids) in the token table; other ids must not come."""
        table = self.table
        if not isinstance(table, TABLES) or self._rows is not None:
            return
        special = [i for i in self.reader.special if i < table.num_embeddings]
        more = np.asarray([*special, self.pad, table.padding_idx or 0], dtype=np.int64)
        kept = np.unique(np.concatenate([np.asarray(tokens), more]))
        if self.pad < len(kept):  # RoBERTa counts positions from the padding id: it stays the same
            kept = np.insert(kept[kept != self.pad], self.pad, self.pad)
        rows = np.full(table.num_embeddings, -1, dtype=np.int64)
        rows[kept] = np.arange(len(kept))
        self._rows, self._tokens, self._padding = rows, torch.from_numpy(kept), table.padding_idx
        self._full = table.weight.detach()  # sole reference from here on
        weight = table.weight.detach()[self._tokens].clone()
        self._cut = nn.Parameter(weight, table.weight.requires_grad)
        self.recut()

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return token ids as rows of the present table."""
        return ids if self._rows is None else self._rows[ids]

    def uncut(self) -> SentenceTransformer:
        """Return the model with its whole token table, sharing every other weight: for saving."""
        if self._full is None or self._tokens is None:
            return self.model
        assert self._cut is not None, "cut_table made it with the others"
        weight = self._full.clone()
        weight[self._tokens] = self._cut.detach().cpu()
        whole = nn.Parameter(weight.to(self._cut.device), self._cut.requires_grad)
        self._set_table(whole, self._padding)
        return self.model

    def recut(self) -> None:
        """Undo ``uncut``: put back the rows that learn."""
        if self._cut is not None and self._rows is not None:
            row = None if self._padding is None else int(self._rows[self._padding])
            self._set_table(self._cut, row)

    def _set_table(self, weight: nn.Parameter, padding: int | None) -> None:
        """Give every module that holds the token table ``weight`` instead.

        The modules stay, and with them what their class does: a factor, as Gemma's, or positions.
        """
        was = self.table.weight
        for table in self.reader.module.modules():
            if isinstance(table, TABLES) and table.weight is was:
                table.weight, table.num_embeddings, table.padding_idx = weight, len(weight), padding

    @property
    def table(self) -> nn.Module:
        """Return the token table as it is now."""
        return self.reader.table


def _joined(tokens: Tokens, texts: np.ndarray) -> np.ndarray:
    return np.concatenate([tokens.row(i) for i in texts]).astype(np.int64, copy=False)
