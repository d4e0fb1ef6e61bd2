"""The encoder as the training core sees it: token ids in, one vector a text out.

While a study trains, the token table holds only the tokens that occur in its texts: exact, because
token rows get no weight decay and an absent token's row gets no gradient. It is put back on
saving. For MiniLM the table is half of the weights, for multilingual models most.

Texts are padded to the longest of their chunk. A kernel may stand in for that (``kernel``).
Shapes: B texts, T tokens, E the width of the embedding, D of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from embsearch.config.schema import ModelConfig
from embsearch.data.batch import onto
from embsearch.data.dataset import TaskData
from embsearch.data.tokenise import Tokenizer, Tokens, cached
from embsearch.errors import ModelError
from embsearch.model import folder_check, lora, pretrained
from embsearch.model.device import Compute, product_dtype
from embsearch.model.frozen import LIMIT, FrozenLayerCache
from embsearch.model.kernel import Kernel
from embsearch.model.prompts import prompt_of
from embsearch.model.tower import Inputs, Tower

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Without cuDNN's, which torch takes first on a Hopper GPU: it makes a plan for every new shape, and
# batches of texts have one each. A step in three buckets took 136 ms by it, and 43 without.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
# Tokens of a text up to which torch's plain attention is faster on a CPU, while training, than its
# kernel.
PLAIN = 256
PROBED = 4  # texts, of every length, whose vectors must outlive the cut of the token table


class Encoder(Tower):
    """A SentenceTransformer behind ``forward(ids_BT, mask_BT) -> embeddings_BE``."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model
        self.kernel: Kernel | None = None
        self._rows: np.ndarray | None = None  # token id -> row of the cut table
        self._tokens: Tensor | None = None  # row of the cut table -> token id
        self._full: Tensor | None = None  # the whole table, as it was before the cut
        self._cut: nn.Parameter | None = None  # the rows that are left of it
        self._padding: int | None = None  # token id whose row never learns
        self._known: Tokens | None = None  # the texts whose frozen states are kept
        self._frozen = 0  # lowest layers whose states are kept
        self._caches: dict[torch.dtype, FrozenLayerCache | None] = {}

    @classmethod
    def build(cls, config: ModelConfig, seed: int) -> Encoder:
        return cls(pretrained.build(config, seed))

    @classmethod
    def load(cls, folder: str | Path, device: str, trust_remote_code: bool = False) -> Encoder:
        return cls(pretrained.load(folder, device, trust_remote_code))

    def prepare(self, data: TaskData, cache: Path) -> Tokens:
        length = self.model.max_seq_length or pretrained.LONGEST
        prompts = prompt_of(self.model, "query"), prompt_of(self.model, "document")
        return cached(data, self.tokenizer, length, cache, prompts)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        found: Tokenizer = self.model.tokenizer
        return found

    def save(self, folder: Path) -> None:
        """Write the model with its whole token table, in sentence-transformers' format."""
        try:
            pretrained.save(self.uncut(), folder)
        finally:
            self.recut()

    def check(
        self, config: ModelConfig, data: TaskData, inputs: Inputs, compute: Compute
    ) -> Iterator[str]:
        assert isinstance(inputs, Tokens), "prepare makes nothing else"
        yield from folder_check.check(self, self.model, config, data, inputs, compute)

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
        """Return 34 D + 5 H L bytes a token and layer of width D with H heads.

        Korthikanti et al. 2022, arXiv:2205.05198; L is the mean length of attention's rows.
        """
        base = self.model.transformers_model
        assert base is not None, "pretrained.build checked that this is a text transformer"
        names = ("num_hidden_layers", "hidden_size", "num_attention_heads")
        layers, width, heads = (getattr(base.config, name, 0) for name in names)
        row = float((lengths.astype(float) ** 2).sum() / lengths.sum())
        a_token: float = layers * (34 * width + 5 * heads * row)
        return held * a_token

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        features = {"input_ids": ids_BT, "attention_mask": mask_BT}
        embeddings_BE: Tensor = self.model(features)["sentence_embedding"]
        return embeddings_BE

    def encode(
        self, tokens: Tokens, texts: np.ndarray, alone: bool = False, shared: object = None
    ) -> Tensor:
        """Return (B, E) embeddings of one chunk of texts, on the encoder's device.

        ``alone`` and ``shared``: as of ``Kernel.encode``.
        """
        if self.kernel is None:
            vectors_BE = self._encode_padded(tokens, texts)
        else:
            states = self.frozen_states(tokens, texts)
            ids = self.rows(_joined(tokens, texts))
            vectors_BE = self.kernel.encode(ids, tokens.lengths[texts], states, alone, shared)
        width = self.model.truncate_dim  # as sentence-transformers: after the last module
        return vectors_BE if width is None else vectors_BE[:, :width]

    def _encode_padded(self, tokens: Tokens, texts: np.ndarray) -> Tensor:
        ids, mask = tokens.padded(texts, self.pad)
        device = self.device
        ids_BT = onto(device, torch.from_numpy(self.rows(ids)))  # pinned and asynchronous on CUDA
        mask_BT = onto(device, torch.from_numpy(mask))
        plain = device.type == "cpu" and self.training and ids.shape[1] <= PLAIN
        with sdpa_kernel([SDPBackend.MATH] if plain else ATTENTION):
            embeddings_BE: Tensor = self(ids_BT, mask_BT)
        return embeddings_BE

    @property
    def hidden_size(self) -> int:
        """The width of the transformer's layers."""
        base = self.model.transformers_model
        assert base is not None, "pretrained.build checked that this is a text transformer"
        return int(getattr(base.config, "hidden_size", 0))

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
        size = int(tokens.offsets[-1]) * self._base.config.hidden_size * dtype.itemsize
        return None if size > LIMIT else FrozenLayerCache(tokens, partial(self._compute, tokens))

    @torch.no_grad()
    def _compute(self, tokens: Tokens, texts: np.ndarray) -> Tensor:
        assert self.kernel is not None, "remember found frozen layers"
        ids = self.rows(_joined(tokens, texts))
        return self.kernel.frozen_states(ids, tokens.lengths[texts], self._frozen)

    @property
    def pad(self) -> int:
        """Return the token id that fills short rows; masked, so any will do where there is none."""
        return self.model.tokenizer.pad_token_id or 0

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def cut_table(self, tokens: np.ndarray) -> None:
        """Keep only the rows of ``tokens`` (ids) in the token table; other ids must not come."""
        table = self.table
        if not isinstance(table, nn.Embedding) or self._rows is not None:
            return
        special = self.model.tokenizer.all_special_ids or []
        special = [i for i in special if i < table.num_embeddings]
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
        for table in self._base.modules():
            if isinstance(table, nn.Embedding) and table.weight is was:
                table.weight, table.num_embeddings, table.padding_idx = weight, len(weight), padding

    @property
    def table(self) -> nn.Module:
        """Return the token table as it is now."""
        found: nn.Module = self._base.get_input_embeddings()
        return found

    @property
    def _base(self) -> Any:
        base = self.model.transformers_model
        assert base is not None, "pretrained.build checked that this is a text transformer"
        return base


def _joined(tokens: Tokens, texts: np.ndarray) -> np.ndarray:
    return np.concatenate([tokens.row(i) for i in texts])
