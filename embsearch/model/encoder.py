"""The encoder as the training core sees it: token ids in, one vector a text out.

While a study trains, the token table holds only the tokens that occur in its texts: exact,
because token rows get no weight decay and an absent token's row gets no gradient. It is put
back on saving. For MiniLM the table is half of the weights, for multilingual models most.
Shapes: B texts, T tokens, E the width of the embedding.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from embsearch.data.tokenise import Tokens
from embsearch.model import bert, packing
from embsearch.model.attention import WRITTEN_OUT, dtype_of
from embsearch.model.below import LIMIT, Below
from embsearch.model.device import Compute
from embsearch.model.graphs import Graphs

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Encoder(nn.Module):
    """A SentenceTransformer behind ``forward(ids_BT, mask_BT) -> embeddings_BE``."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model
        self._rows: np.ndarray | None = None  # token id -> row of the cut table
        self._tokens: Tensor | None = None  # row of the cut table -> token id
        self._full: Tensor | None = None  # the whole table, as it was before the cut
        self.packs = False
        self.graphs: Graphs | None = None  # on a GPU: packed by its kernel
        self._known: Tokens | None = None
        self._frozen = 0  # lowest layers whose states are kept
        self._below: dict[torch.dtype, Below | None] = {}

    def pack(self, flash: bool = False) -> str:
        """Encode chunks without padding from now on, where that gives this model's own vectors; with ``flash`` by the
        GPU's kernel. What was decided, and why."""
        why_not = "" if self.packs else packing.prepare(self.model, flash)
        self.packs = not why_not
        if why_not:
            return f"texts padded: {why_not}"
        self.graphs = Graphs(self.model) if flash else None
        base = self.model.transformers_model
        assert base is not None, "pretrained.build checked that this is a text transformer"
        return f"texts without padding{', by ' + packing.kernels(base) if flash else ''}"

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        embeddings_BE: Tensor = self.model({"input_ids": ids_BT, "attention_mask": mask_BT})["sentence_embedding"]
        return embeddings_BE

    def packed(
        self, ids: np.ndarray, lengths: np.ndarray, below: Tensor | None = None, alone: bool = False
    ) -> Tensor:
        """(B, E) embeddings of texts whose ids lie end to end, equal ``lengths`` side by side. ``alone``: the only
        chunk of a training step, whose vectors, states and gradients nobody needs once the next one begins."""
        if self.graphs is not None:
            return self.graphs(ids, lengths, alone)
        given = packing.features(self.model, ids, lengths, below)
        embeddings_BE: Tensor = self.model(given)["sentence_embedding"]
        return embeddings_BE

    def gradient(self) -> Tensor | None:
        """All gradients end to end in one tensor, which is what the parameters' are views of; None where they lie
        apart."""
        return None if self.graphs is None else self.graphs.gradient()

    def release(self) -> None:
        """Give back the memory of recorded steps; sizes that recur are recorded anew."""
        if self.graphs is not None:
            self.graphs.release()

    def train(self, mode: bool = True) -> Encoder:
        """As of every module; what is frozen has no dropout, so that it gives a text the same vectors every time."""
        super().train(mode)
        for module in self.modules():
            if not any(p.requires_grad for p in module.parameters()) and any(True for _ in module.parameters()):
                module.eval()
        return self

    def remember(self, tokens: Tokens) -> None:
        """Keep what frozen layers make of these texts."""
        self._known, self._below = tokens, {}
        stack = bert.stack(self.model)
        short = len(tokens.lengths) > 0 and tokens.lengths.max() <= WRITTEN_OUT
        self._frozen = bert.frozen(stack) if stack is not None and short else 0

    def below(self, tokens: Tokens, texts: np.ndarray) -> Tensor | None:
        """What enters the lowest layer that learns, for ``texts`` end to end; None where it is not kept."""
        if tokens is not self._known or not self._frozen:
            return None
        dtype = dtype_of(next(self.parameters()))
        if dtype not in self._below:
            size = int(tokens.offsets[-1]) * bert.stack(self.model).config.hidden_size * dtype.itemsize
            self._below[dtype] = None if size > LIMIT else Below(tokens, partial(self._lower, tokens))
        kept = self._below[dtype]
        return None if kept is None else kept(texts)

    @torch.no_grad()
    def _lower(self, tokens: Tokens, texts: np.ndarray) -> Tensor:
        ids = self.rows(np.concatenate([tokens.row(i) for i in texts]))
        given = packing.features(self.model, ids, tokens.lengths[texts])
        base, stack = self.model.transformers_model, bert.stack(self.model)
        hidden = base.embeddings(input_ids=given["input_ids"], position_ids=given["position_ids"])  # type: ignore
        return stack.lower(hidden[0], given["packing"], self._frozen)  # type: ignore

    @property
    def pad(self) -> int:
        """The token id that fills short rows; masked, so where a tokenizer has none any will do."""
        return self.model.tokenizer.pad_token_id or 0

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def cut_table(self, tokens: np.ndarray) -> None:
        """Keep only the rows of ``tokens`` (ids) in the token table; other ids must not come."""
        table = self.table
        if not isinstance(table, nn.Embedding) or self._rows is not None:
            return
        special = [i for i in (self.model.tokenizer.all_special_ids or []) if i < table.num_embeddings]
        kept = np.unique(np.concatenate([np.asarray(tokens), np.asarray([*special, self.pad], dtype=np.int64)]))
        if self.pad < len(kept):  # RoBERTa counts positions from the padding id: padding keeps its number
            kept = np.insert(kept[kept != self.pad], self.pad, self.pad)
        rows = np.full(table.num_embeddings, -1, dtype=np.int64)
        rows[kept] = np.arange(len(kept))
        self._rows, self._tokens = rows, torch.from_numpy(kept)
        self._full = table.weight.detach()  # nobody else holds it any more
        padding = None if table.padding_idx is None else int(rows[table.padding_idx])
        smaller = nn.Embedding(len(kept), table.embedding_dim, padding_idx=padding)
        smaller.weight = nn.Parameter(table.weight.detach()[self._tokens].clone(), table.weight.requires_grad)
        self.recut(smaller)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Token ids as rows of the present table."""
        return ids if self._rows is None else self._rows[ids]

    def uncut(self) -> SentenceTransformer:
        """The model with its whole token table, sharing every other weight: for saving."""
        if self._full is None or self._tokens is None:
            return self.model
        cut = self.table
        assert isinstance(cut, nn.Embedding)
        whole = nn.Embedding(len(self._full), cut.embedding_dim)
        weight = self._full.clone()
        weight[self._tokens] = cut.weight.detach().cpu()
        whole.weight = nn.Parameter(weight.to(cut.weight.device))
        self.recut(whole)
        return self.model

    def recut(self, cut: nn.Module) -> None:
        """Undo ``uncut``: put back the cut table it was called with."""
        base = self.model.transformers_model
        assert base is not None, "pretrained.build checked that this is a text transformer"
        base.set_input_embeddings(cut)

    @property
    def table(self) -> nn.Module:
        """The token table as it is now."""
        base = self.model.transformers_model
        assert base is not None, "pretrained.build checked that this is a text transformer"
        found: nn.Module = base.get_input_embeddings()
        return found


def pack(encoder: Encoder, compute: Compute) -> str:
    """Encode without padding where this device and precision can. What was decided, and why."""
    if compute.device.type == "cuda" and compute.autocast is None:
        return "texts padded: the flash kernel computes in 16 bits only"
    return encoder.pack(flash=compute.device.type == "cuda")
