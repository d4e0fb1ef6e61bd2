"""Texts without padding: end to end in one sequence, each attending only to itself.

The texts of a chunk stand in the order of their length, so those of one length lie side by
side, and attention over such a run is one dense call on a view: no padding, no mask, no copy.
Everything else in a transformer works token by token and never sees a border. It goes through
transformers' own attention interface, so the model's code stays as it is; BERT's layers are
computed by hand (bert.py).

On a GPU a call per distinct length would wait for launches; there torch's flash kernel for texts of
different lengths takes all of a chunk at once, in 16 bits, or a kernel for short texts where most are (short.py).
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as dropout_of
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from embsearch.model import attention as attend
from embsearch.model import bert
from embsearch.model import dropout as cheap
from embsearch.model.device import reason

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NAME = "embsearch_packed"
OTHERS = "without padding it gives other vectors"
SAME = 0.999  # cosine of one text's vectors in bf16; one that saw its neighbours has 0.9
PROBE = (160, 9, 9, 3)  # lengths; 160 is beyond the windows of local attention (ModernBERT: 128) and beyond LONG
SHORT, LONG, FEW = 32, 128, 0.125  # tokens, tokens, share of texts: mostly_short


@dataclass(frozen=True)
class Packing:
    """Where texts lie in a packed chunk: ``runs`` are (texts, tokens a text) of one length; ``flash``: attention is
    by a GPU's kernels."""

    runs: tuple[tuple[int, int], ...]
    borders: Tensor  # (texts + 1,) cumulative lengths, int32
    positions: Tensor  # (1, tokens), from 0 in every text
    longest: int  # tokens of a text, at most
    below: Tensor | None = None  # (tokens, D) that enter the lowest layer that learns, where they are known
    flash: bool = False
    short: bool = False  # as ``mostly_short`` says
    _places: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def places(self, heads: int) -> tuple[Tensor, Tensor]:
        """For hand-written attention: the order of its rows, and the way back."""
        if heads not in self._places:
            there = attend.order(self.runs, heads)
            self._places[heads] = there, attend.inverse(there)
        return self._places[heads]

    @staticmethod
    def of(lengths: np.ndarray) -> Packing:
        """``lengths`` of the texts in their order, equal ones side by side."""
        starts = np.flatnonzero(np.diff(lengths, prepend=-1))
        counts = np.diff(np.append(starts, len(lengths)))
        borders = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.concatenate([np.arange(n) for n in lengths])
        runs = tuple((int(count), int(lengths[start])) for start, count in zip(starts, counts, strict=True))
        tensors = torch.from_numpy(borders.astype(np.int32)), torch.from_numpy(positions)[None]
        return Packing(runs, *tensors, longest=int(lengths.max()))


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    packing: Packing | None = None, scaling: float | None = None, dropout: float = 0.0, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Block-diagonal attention of (1, heads, tokens, width); padded input goes to transformers' sdpa."""
    if packing is None:
        padded: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return padded
    if more.get("sliding_window"):
        raise Windowed("attention that looks only near by")
    if key.shape[1] != query.shape[1]:  # grouped heads
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    causal = bool(getattr(module, "is_causal", False))
    if packing.flash:
        return _flash(query, key, value, packing, scale, dropout, causal)[None], None
    if module.training and packing.longest <= attend.WRITTEN_OUT:
        dtype = attend.dtype_of(query)
        rows = (t.squeeze(0).transpose(0, 1).to(dtype) for t in (query, key, value))  # rotated ones may be fp32
        with torch.autocast("cpu", enabled=False):
            found: Tensor = attend.Attention.apply(  # type: ignore[no-untyped-call]
                *rows, packing.runs, packing.places(query.shape[1]), scale, dropout, causal
            )
        return found[None], None
    sizes = [count * length for count, length in packing.runs]
    queries, keys, values = (torch.split(t.squeeze(0), sizes, dim=1) for t in (query, key, value))
    mixed = []
    for run, q, k, v in zip(packing.runs, queries, keys, values, strict=True):
        plain = module.training and run[1] <= attend.PLAIN
        q, k, v = (t.view(len(t), *run, -1) for t in (q, k, v))
        mixed.append(_dense(q, k, v, scale, dropout, causal and run[1] > 1, plain).flatten(1, 2))
    return torch.cat(mixed, dim=1).transpose(0, 1)[None], None


class Windowed(RuntimeError):
    """A layer looks only near by, which packed attention does not know of: such a model is padded."""


def _flash(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float, dropout: float, causal: bool
) -> Tensor:
    """(tokens, heads, width) by torch's kernel, which takes 16 bits alone."""
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    q, k, v = (t.squeeze(0).transpose(0, 1).to(dtype).contiguous() for t in (query, key, value))
    if packing.short and v.shape == q.shape and not no_short(q.shape[-1], causal, q.device):
        from embsearch.model import short

        return short.attention(q, k, v, packing.borders, scale, dropout, causal)
    return varlen(q, k, v, packing.borders, packing.longest, scale, dropout, causal)


def kernels(base: nn.Module) -> str:
    """What a packed model's attention is computed by on a GPU."""
    config: Any = base.config
    heads = getattr(config, "num_attention_heads", 0)
    width = getattr(config, "head_dim", None) or (getattr(config, "hidden_size", 0) // heads if heads else 0)
    causal = any(getattr(module, "is_causal", False) for module in base.modules())
    why_not = no_short(width, causal, next(base.parameters()).device)
    return "the flash kernel" + (f" alone: {why_not}" if why_not else ", short ones by one for them")


def mostly_short(lengths: np.ndarray) -> bool:
    """Whether the kernel of short texts is faster than flash for texts of such ``lengths``. On an H100 one of up to
    SHORT tokens takes it about a quarter of flash's time, one of up to LONG four times; none may be longer."""
    return bool(lengths.max() <= LONG and (lengths > SHORT).mean() <= FEW)


@cache
def no_short(width: int, causal: bool, device: torch.device) -> str:
    """Why short texts go through the flash kernel too; empty where they do not. ``width``: of a head. Decided once in
    a process, by trying."""
    if device.type != "cuda":
        return "it is for GPUs"
    try:
        from embsearch.model import short

        if width not in short.WIDTHS:
            return f"heads are {width} wide"
        plain = torch.autocast(device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), plain, torch.random.fork_rng([device]):
            short.check(width, causal, device)
    except Exception as error:  # no Triton, no compiler, too little shared memory
        return reason(error)
    return ""


def varlen(
    q: Tensor, k: Tensor, v: Tensor, borders: Tensor, longest: int, scale: float, dropout: float, causal: bool
) -> Tensor:
    """The kernel behind torch.nn.attention.varlen.varlen_attn, which leaves no choice of dropout: (tokens, heads,
    width) of texts that lie between ``borders``, none of more than ``longest`` tokens."""
    around = borders, borders, longest, longest
    mixed, *_ = torch.ops.aten._flash_attention_forward(q, k, v, *around, dropout, causal, False, scale=scale)
    return cast(Tensor, mixed)


def _dense(q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float, causal: bool, plain: bool) -> Tensor:
    """Attention of (heads, texts, tokens, width)."""
    if not plain:
        return scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale, is_causal=causal)
    scores = (q @ k.transpose(-1, -2)) * scale
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return dropout_of(scores.softmax(-1), dropout) @ v


def _mask(*args: Any, attention_mask: Tensor | None = None, **more: Any) -> Tensor | None:
    """No mask for packed texts; transformers' own for padded ones."""
    if attention_mask is None:
        return None
    made: Tensor | None = sdpa_mask(*args, attention_mask=attention_mask, **more)  # type: ignore[misc]
    return made


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, _mask)


def features(
    model: SentenceTransformer,
    rows: np.ndarray,
    lengths: np.ndarray,
    below: Tensor | None = None,
) -> dict[str, Any]:
    """The model's input: ``rows`` are the token rows of all texts end to end."""
    base: Any = model[0]
    device, packing = next(base.parameters()).device, replace(Packing.of(lengths), below=below)
    first, _ = positions(base.auto_model)
    return {
        "input_ids": torch.from_numpy(rows)[None].to(device),
        "position_ids": (packing.positions + first).to(device),
        "packing": packing,
        "cu_seq_lens_q": packing.borders.to(device),
    }


def flat(chunk: Tensor, tokens: int, longest: int, short: bool, first: int) -> dict[str, Any]:
    """The model's input for a GPU's kernels, from what lies there: nothing is asked back. ``chunk`` (int32) has the
    ids of ``tokens`` tokens and after them the borders of their texts; ``first`` is a text's first position."""
    ids_T, borders = chunk[:tokens], chunk[tokens:]
    at_T = torch.arange(len(ids_T), device=ids_T.device, dtype=torch.int32)
    text_T = torch.searchsorted(borders[1:], at_T, right=True)
    positions_1T = (at_T - borders[text_T] + first)[None].long()
    return {
        "input_ids": ids_T[None],
        "position_ids": positions_1T,
        "packing": Packing((), borders, positions_1T, longest, flash=True, short=short),
        "cu_seq_lens_q": borders,
        "seq_idx": text_T[None],
    }


def joined(ids: np.ndarray, lengths: np.ndarray) -> Tensor:
    """``flat``'s chunk."""
    return torch.from_numpy(np.concatenate([ids, [0], np.cumsum(lengths)]).astype(np.int32))


def positions(base: nn.Module) -> tuple[int, int]:
    """The number of a text's first position, and how many there are from it on. RoBERTa's kin count
    from the padding id; others from 0, and how far is then for the tokenizer to say."""
    for module in base.modules():
        table, padding = getattr(module, "position_embeddings", None), getattr(module, "padding_idx", None)
        if isinstance(table, nn.Embedding) and isinstance(padding, int):
            return padding + 1, table.num_embeddings - padding - 1
    return 0, sys.maxsize


def prepare(model: SentenceTransformer, flash: bool = False) -> str:
    """Switch the model to packed attention where that gives its own padded vectors; or why it stays padded.

    Decided by trying: a few random texts through both ways. Models whose attention does not go
    through the interface (relative positions), looks only near by, or whose pooler reads the
    first token of the sequence, are left as they were. With ``flash``, a GPU's kernels in bf16: every vector must
    point where the padded one does, of all texts together and of the short ones alone.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer: Any = model[0]
    base: Any = transformer.auto_model
    if not any(isinstance(m, Pooling) for m in model):
        return "its pooler reads the first token of a sequence"
    if not getattr(base, "is_backend_compatible", lambda: False)():
        return "its attention is its own"
    before, known, was = base.config._attn_implementation, transformer.model_forward_params, model.training
    model.eval()
    device = next(base.parameters()).device
    try:
        with torch.inference_mode(), _bf16(device) if flash else nullcontext():
            rows = _probe(model)
            lengths = np.array([len(row) for row in rows])
            padded = np.zeros((len(rows), lengths[0]), dtype=np.int64) + (model.tokenizer.pad_token_id or 0)
            mask = np.arange(lengths[0]) < lengths[:, None]
            padded[mask] = np.concatenate(rows)
            pair = torch.from_numpy(padded).to(device), torch.from_numpy(mask).long().to(device)
            plain_BE = model({"input_ids": pair[0], "attention_mask": pair[1]})["sentence_embedding"].float()
            base.set_attn_implementation(NAME)
            if not flash:
                bert.replace(base)
            if known is not None:
                transformer.model_forward_params = known | {"packing", "position_ids"}
            if flash:
                why_not = _try_flash(model, rows, plain_BE) or _try_flash(model, rows[1:], plain_BE[1:])
            else:
                packed = model(features(model, np.concatenate(rows), lengths))["sentence_embedding"]
                why_not = "" if torch.allclose(plain_BE, packed.float(), atol=1e-5) else OTHERS
    except Exception as error:  # whatever a strange model trips over: it can be trained padded
        why_not = reason(error)
    finally:
        model.train(was)
    if why_not:
        bert.restore(base)
        base.set_attn_implementation(before)
        transformer.model_forward_params = known
    elif not flash:
        cheap.replace(base)
    return why_not


def _bf16(device: torch.device) -> torch.autocast:
    """Keeps no weights that were cast without gradients for a pass with them."""
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def _try_flash(model: SentenceTransformer, rows: list[np.ndarray], plain_BE: Tensor) -> str:
    """Why a GPU's kernels will not do for texts whose padded vectors are ``plain_BE``. Raises what their backward
    pass raises, which takes fewer shapes than their forward pass."""
    lengths = np.array([len(row) for row in rows])
    first, _ = positions(model[0].auto_model)  # type: ignore[arg-type]
    chunk = joined(np.concatenate(rows), lengths).to(plain_BE.device)

    def vectors() -> Tensor:
        given = flat(chunk.clone(), int(lengths.sum()), int(lengths.max()), mostly_short(lengths), first)
        found: Tensor = model(given)["sentence_embedding"].float()
        return found

    if not (torch.cosine_similarity(plain_BE, vectors()) > SAME).all():
        return OTHERS
    devices = [chunk.device] if chunk.is_cuda else []
    learning = [p for p in model.parameters() if p.requires_grad]
    with torch.inference_mode(False), torch.enable_grad(), _bf16(chunk.device), torch.random.fork_rng(devices):
        model.train()
        if learning:
            torch.autograd.grad(vectors().sum(), learning, allow_unused=True)
    model.eval()
    return ""


def _probe(model: SentenceTransformer) -> list[np.ndarray]:
    """Random texts, longest first, without special tokens: some models count positions from padding."""
    table: Any = model[0].auto_model.get_input_embeddings()  # type: ignore[operator, union-attr]
    words = np.setdiff1d(np.arange(len(table.weight)), model.tokenizer.all_special_ids)
    draw = np.random.default_rng(0)
    return [draw.choice(words, size=n) for n in np.minimum(PROBE, model.max_seq_length or PROBE[0])]
