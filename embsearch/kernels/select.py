"""The one door to the kernels: which one an encoder gets, and why.

Candidates are tried in order, the fastest first. Each must suit the encoder's exact modules, and
give the vectors of the plain path for a few random texts. The parameters are perturbed for that: an
adapter that is zero at first would not show (docs/decisions/0032-one-door-to-the-kernels.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from embsearch.kernels import bert, flash
from embsearch.kernels.attention_interface import switch_to_packed
from embsearch.kernels.cuda_graphs import FlashKernel
from embsearch.kernels.dropout import use_byte_dropout
from embsearch.kernels.exact_types import home_of, not_plain
from embsearch.kernels.graph_recording import SAME
from embsearch.kernels.unpadded import UnpaddedKernel
from embsearch.model.device import Compute, reason
from embsearch.model.encoder import Encoder
from embsearch.model.kernel import Kernel
from embsearch.model.tower import Tower

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

OTHERS = "without padding it gives other vectors"
# Tokens of the texts of a trial; 160 is beyond the windows of local attention (ModernBERT: 128) and
# beyond packing.LONG.
LENGTHS = (160, 9, 9, 3)
NEAR = 1e-5  # of a component of a vector, in fp32
NOISE = 0.02  # added to parameters, as a deviation: that of BERT's own first weights


def select(encoder: Tower, compute: Compute) -> str:
    """Give ``encoder`` the fastest kernel that gives its own vectors, and return which and why.

    Without one it stays on the plain path, with padded texts, and is as it was. An encoder that has
    a kernel keeps it. Kernels are for text encoders alone.
    """
    if not isinstance(encoder, Encoder):
        return "plain path: kernels encode texts of one route alone"
    if encoder.packs and encoder.kernel is None:
        return "texts without padding: a text is the mean of its tokens' vectors"
    cuda = compute.device.type == "cuda"
    if cuda and compute.autocast is None:
        return "texts padded: the flash kernel computes in 16 bits only"
    return choose_kernel(encoder, by_flash=cuda)


def choose_kernel(encoder: Encoder, by_flash: bool = False) -> str:
    """Choose among the kernels of GPUs (``by_flash``) or of CPUs, as ``select`` does."""
    model: Any = encoder.model
    if encoder.kernel is None:
        why_not = _unsuited(model)
        candidates = _on_gpu(model) if by_flash else _on_cpu(model)
        for kernel, is_same in candidates if not why_not else ():
            why_not = _tried(model, is_same, by_flash)
            if not why_not:
                encoder.kernel = kernel
                break
        if encoder.kernel is None:
            return f"texts padded: {why_not}"
        if not by_flash:
            use_byte_dropout(model.transformers_model)
    by = f", by {flash.describe(model.transformers_model)}" if by_flash else ""
    return f"texts without padding{by}"


def _unsuited(model: SentenceTransformer) -> str:
    """Return why no kernel can stand in for ``model``, whatever its vectors are."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    base = model.transformers_model
    assert base is not None, "pretrained.build checked that this is a text transformer"
    if not any(isinstance(m, Pooling) for m in model):
        return "its pooler reads the first token of a sequence"
    if not getattr(base, "is_backend_compatible", lambda: False)():
        return "its attention is its own"
    return not_plain(base, home_of(base)) or not_plain(model, home_of(base))


Trial = Callable[[list[np.ndarray], Tensor], str]  # texts and their plain vectors -> why not


def _on_cpu(model: SentenceTransformer) -> Iterator[tuple[Kernel, Trial]]:
    base: Any = model.transformers_model
    if not bert.unsuited(base):
        by_hand = UnpaddedKernel(model, bert.BertStack(base.encoder))
        yield by_hand, lambda rows, plain_BE: _other_vectors(by_hand, rows, plain_BE)
    by_layers = UnpaddedKernel(model, None)
    yield by_layers, lambda rows, plain_BE: _other_vectors(by_layers, rows, plain_BE)


def _on_gpu(model: SentenceTransformer) -> Iterator[tuple[Kernel, Trial]]:
    kernel = FlashKernel(model)

    def trial(rows: list[np.ndarray], plain_BE: Tensor) -> str:
        """Try all texts together and the short ones alone, which another kernel may take."""
        return _try_flash(kernel, model, rows, plain_BE) or _try_flash(
            kernel, model, rows[1:], plain_BE[1:]
        )

    yield kernel, trial


def _tried(model: SentenceTransformer, trial: Trial, in_bf16: bool) -> str:
    """Return why a kernel will not do; empty where it will.

    The model's attention takes packed texts afterwards if it will; else all is as it was.
    """
    was = model.training
    undo: Callable[[], None] = lambda: None  # noqa: E731
    model.eval()
    try:
        precision = _bf16(next(model.parameters()).device) if in_bf16 else nullcontext()
        with perturbed(model), torch.inference_mode(), precision:
            rows = _random_texts(model)
            plain_BE = _padded(model, rows)
            undo = switch_to_packed(model[0])
            why_not = trial(rows, plain_BE)
    except Exception as error:  # whatever a strange model trips over: it can be trained padded
        why_not = reason(error)
    finally:
        model.train(was)
    if why_not:
        undo()
    return why_not


@contextmanager
def perturbed(model: nn.Module) -> Iterator[None]:
    """Add noise to every parameter for a while, but to those of tables, which may be large.

    Afterwards the parameters are as they were, to the bit: they are exchanged, not computed back.
    """
    tables = {id(m.weight) for m in model.modules() if type(m) is nn.Embedding}
    parameters = [p for p in model.parameters() if id(p) not in tables]
    held = [p.data for p in parameters]
    draw = torch.Generator().manual_seed(0)
    noise = NOISE * torch.randn(65_537, generator=draw)  # a prime, so that no two rows are alike
    try:
        for p in parameters:
            copies = -(-p.numel() // len(noise))
            p.data = p.data + noise.repeat(copies)[: p.numel()].view(p.shape).to(p)
        yield
    finally:
        for p, data in zip(parameters, held, strict=True):
            p.data = data


def _padded(model: SentenceTransformer, rows: list[np.ndarray]) -> Tensor:
    """Return the vectors of the plain path, in fp32."""
    lengths = np.array([len(row) for row in rows])
    padded = np.full((len(rows), lengths[0]), model.tokenizer.pad_token_id or 0, dtype=np.int64)
    mask = np.arange(lengths[0]) < lengths[:, None]
    padded[mask] = np.concatenate(rows)
    device = next(model.parameters()).device
    ids_BT, mask_BT = torch.from_numpy(padded).to(device), torch.from_numpy(mask).long().to(device)
    given = {"input_ids": ids_BT, "attention_mask": mask_BT}
    plain_BE: Tensor = model(given)["sentence_embedding"].float()
    return plain_BE


def _other_vectors(kernel: Kernel, rows: list[np.ndarray], plain_BE: Tensor) -> str:
    packed_BE = kernel.encode(np.concatenate(rows), np.array([len(row) for row in rows]))
    return "" if torch.allclose(plain_BE, packed_BE.float(), atol=NEAR) else OTHERS


def _bf16(device: torch.device) -> torch.autocast:
    """Return a context that keeps no weights cast without gradients for a pass with them."""
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def _try_flash(
    kernel: FlashKernel, model: SentenceTransformer, rows: list[np.ndarray], plain_BE: Tensor
) -> str:
    """Return why a GPU's kernels will not do for texts whose padded vectors are ``plain_BE``.

    Raises what their backward pass raises, which takes fewer shapes than their forward pass.
    """
    ids, lengths = np.concatenate(rows), np.array([len(row) for row in rows])
    if not (torch.cosine_similarity(plain_BE, kernel.encode(ids, lengths).float()) > SAME).all():
        return OTHERS
    device = plain_BE.device
    devices = [device] if device.type == "cuda" else []
    learning = [p for p in model.parameters() if p.requires_grad]
    draws = torch.random.fork_rng(devices)
    with torch.inference_mode(False), torch.enable_grad(), _bf16(device), draws:
        model.train()
        if learning:
            vectors_BE = kernel.encode(ids, lengths).float()
            torch.autograd.grad(vectors_BE.sum(), learning, allow_unused=True)
    model.eval()
    return ""


def _random_texts(model: SentenceTransformer) -> list[np.ndarray]:
    """Return random texts, longest first, without special tokens.

    Some models count positions from padding.
    """
    table: Any = model[0].auto_model.get_input_embeddings()  # type: ignore[operator, union-attr]
    known = np.setdiff1d(np.arange(len(table.weight)), model.tokenizer.all_special_ids)
    draw = np.random.default_rng(0)
    lengths = np.minimum(LENGTHS, model.max_seq_length or LENGTHS[0])
    return [draw.choice(known, size=n) for n in lengths]
