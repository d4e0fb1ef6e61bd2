"""The check before a study begins: an encoder here is what its folder says, and can read the texts.

A folder says more than its weights do: modules, lengths, prompts, a width. Whatever of it were lost
on the way here, the vectors of some texts would not be those of ``SentenceTransformer(folder)``.
Shapes: B texts, E the width of the vectors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from embsearch.config.schema import ModelConfig
from embsearch.data.dataset import TaskData
from embsearch.data.tokenise import Tokens, prompted, tokenise
from embsearch.errors import ModelError
from embsearch.model import pretrained
from embsearch.model.device import Compute
from embsearch.model.embed import embed
from embsearch.model.positions import positions
from embsearch.model.prompts import prompt_of
from embsearch.model.tower import Tower

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXTS = 32  # that are compared, of every length
READ = 1_000_000  # tokens that are counted
UNKNOWN = 0.5  # of the tokens; guess: texts of another script are beyond it, typing errors are not
ALIKE = 1e-5  # a component of vectors of length 1 that differs by less between all texts
# Of a component of vectors of length 1: rounding in fp32, and in 16 bits (a cosine of 0.999).
NEAR, NEAR_IN_16_BITS = 1e-4, 0.05


def check(
    tower: Tower,
    model: SentenceTransformer,
    config: ModelConfig,
    data: TaskData,
    tokens: Tokens,
    compute: Compute,
) -> Iterator[str]:
    """Yield what is unknown and what is cut of the texts, and what promotion will say of the
    encoder's own code.

    Raises ModelError where ``tower``, the untuned ``model``, cannot tell the texts apart, or its
    vectors are not those of sentence-transformers.
    """
    yield from unknown_words(model, tokens)
    texts = prompted(data, (prompt_of(model, "query"), prompt_of(model, "document")))
    check_vectors(tower, model, config, texts, tokens, compute)
    yield from cut_texts(model, texts, tokens)
    if config.trust_remote_code and runs_own_code(model):
        yield (
            "model.trust_remote_code=true: the encoder runs code of its own folder, which every "
            "model of this study carries along; 'embsearch promote' will refuse them"
        )


def unknown_words(model: SentenceTransformer, tokens: Tokens) -> Iterator[str]:
    """Yield a line where the tokenizer does not know most of what the texts are made of."""
    tokenizer = model.tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    read = np.asarray(tokens.ids[:READ])
    read = read[~np.isin(read, list(special))]
    share = float((read == tokenizer.unk_token_id).mean()) if len(read) else 0.0
    if share > UNKNOWN:
        yield (
            f"{share:.0%} of the tokens of these texts are unknown to the encoder's tokenizer "
            f"({tokenizer.unk_token}): it can hardly tell them apart; give its folder the tokenizer "
            "that its weights were trained with, or take an encoder for this language"
        )


def check_vectors(
    tower: Tower,
    model: SentenceTransformer,
    config: ModelConfig,
    texts: Sequence[str],
    tokens: Tokens,
    compute: Compute,
) -> None:
    """Raise ModelError where vectors are not finite, all the same, or not those that
    sentence-transformers makes of the folder.

    The settings that ask for other vectors than the folder's are left out: with a pooling or a
    projection nothing is compared. Computed in fp32 on a CPU, and as ``compute`` says on a GPU.
    """
    if compute.device.type == "cpu":
        compute = replace(compute, autocast=None)
    order = np.argsort(tokens.lengths, kind="stable")
    ids = order[np.unique(np.linspace(0, len(order) - 1, TEXTS).astype(int))]
    # other tokens to the cache of frozen layers, which would keep states of this precision
    ours_BE = embed(tower, Tokens(tokens.ids, tokens.offsets), ids, compute)
    name = f"model.path={config.path}"
    if not np.isfinite(ours_BE).all():
        raise ModelError(f"{name}: its vectors are not finite; the weights are damaged")
    ours_BE = _unit(ours_BE)
    if len(ids) > 1 and np.ptp(ours_BE, axis=0).max() < ALIKE:
        raise ModelError(
            f"{name}: every text gets the same vector, it cannot tell texts apart; expected trained "
            "weights and the tokenizer that they were trained with"
        )
    if config.pooling != "keep" or config.projection is not None:
        return
    reference = pretrained.read(config).to(compute.device)
    reference.max_seq_length = model.max_seq_length
    read = [texts[i] for i in ids]  # their prompts stand before them
    with compute.context():
        theirs_BE = reference.encode(read, prompt="", batch_size=1, show_progress_bar=False)
    theirs_BE = _unit(np.asarray(theirs_BE))
    near = NEAR if compute.autocast is None else NEAR_IN_16_BITS
    if ours_BE.shape == theirs_BE.shape and (far := np.abs(ours_BE - theirs_BE).max()) <= near:
        return
    by = "their width" if ours_BE.shape != theirs_BE.shape else f"up to {far:.2g} a component"
    raise ModelError(
        f"{name}: vectors here are not those of SentenceTransformer.encode for the same folder, they "
        f"differ by {by}: {_differs(model, reference, read, tokens, ids)}. A study of this "
        "encoder would tune another model than the one that is saved; take another encoder, or "
        "report this one"
    )


def _differs(
    model: SentenceTransformer,
    reference: SentenceTransformer,
    texts: list[str],
    tokens: Tokens,
    ids: np.ndarray,
) -> str:
    """Return where an encoder and the folder it is from part, as far as it can be told."""
    ours, theirs = ([type(module).__name__ for module in m] for m in (model, reference))
    ours, theirs = ([m for m in names if m != "Normalize"] for names in (ours, theirs))
    if ours != theirs:
        return f"its modules are {', '.join(theirs)}, here {', '.join(ours)}"
    if model.truncate_dim != reference.truncate_dim:
        return f"truncate_dim is {reference.truncate_dim}, here {model.truncate_dim}"
    for text, i in zip(texts, ids, strict=True):
        features = reference.preprocess([text])
        if features["input_ids"].flatten().tolist() != tokens.row(i).tolist():
            return f"it reads other tokens of {text[:40]!r}"
        others = sorted(features.keys() - {"input_ids", "attention_mask", "modality"})
    words = f" (or of {', '.join(others)}, which is not passed on here)" if others else ""
    return f"{type(reference.transformers_model).__name__} makes other states of the same tokens{words}"


def cut_texts(model: SentenceTransformer, texts: Sequence[str], tokens: Tokens) -> Iterator[str]:
    """Yield a line where texts have more tokens than are read of them."""
    limit = model.max_seq_length or pretrained.LONGEST
    full = np.flatnonzero(tokens.lengths >= limit).tolist()
    longer = (
        tokenise([texts[i] for i in full], model.tokenizer, limit + 1).lengths if full else full
    )
    count = np.count_nonzero(np.asarray(longer) > limit)
    if not count:
        return
    assert model.transformers_model is not None, "pretrained.build checked that"
    most = positions(model.transformers_model)[1]
    more = "the encoder has no more positions"
    if limit < most:
        more = "model.max_length=N reads more"
        more += f", up to {most}" if most < sys.maxsize else ""
    yield f"{count} of {len(texts)} texts are cut at {limit} tokens; {more}"


def runs_own_code(model: nn.Module) -> bool:
    """Return true where a module's class came with the weights."""
    return any(type(m).__module__.startswith("transformers_modules.") for m in model.modules())


def _unit(vectors_BE: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors_BE, axis=1, keepdims=True)
    found: np.ndarray = vectors_BE / np.maximum(lengths, 1e-12)
    return found
