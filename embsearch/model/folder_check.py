"""The checks of a model folder: before a study begins, and of every model that a trial saves.

An encoder here is what its folder says, and can read the texts.

A folder says more than its weights do: modules, lengths, prompts, a width. Whatever of it were lost
on the way here, the vectors of some texts would not be those of ``SentenceTransformer(folder)``.
Shapes: B texts, E the width of the vectors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from embsearch.config.schema import ModelConfig
from embsearch.data.dataset import Ids, TaskData, queries_of, roles_of
from embsearch.data.tokenise import Tokens, prompted, tokenise
from embsearch.errors import ModelError, Unfaithful
from embsearch.model import pretrained
from embsearch.model.device import Compute
from embsearch.model.embed import embed
from embsearch.model.prompts import prompts_of
from embsearch.model.readers import Reader, readers
from embsearch.model.tower import Inputs, Tower

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Part = tuple[Reader, Tokens, Ids]  # a reader, the tokens of the texts that it reads, and their ids
TEXTS = 32  # that are compared, of every length
READ = 1_000_000  # tokens that are counted
UNKNOWN = 0.5  # of the tokens; guess: texts of another script are beyond it, typing errors are not
ALIKE = 1e-5  # a component of vectors of length 1 that differs by less between all texts
# Of a component of vectors of length 1: rounding in fp32, and in 16 bits (a cosine of 0.999).
NEAR, NEAR_IN_16_BITS = 1e-4, 0.05


def check(
    tower: Tower,
    model: SentenceTransformer,
    parts: Sequence[Part],
    config: ModelConfig,
    data: TaskData,
    inputs: Inputs,
    compute: Compute,
) -> Iterator[str]:
    """Yield what is unknown and what is cut of the texts, and what promotion will say of the
    encoder's own code.

    Raises ModelError where ``tower``, the untuned ``model``, cannot tell the texts apart, or its
    vectors are not those of sentence-transformers.
    """
    for reader, tokens, _ in parts:
        yield from unknown_words(reader, tokens)
    texts = prompted(data, prompts_of(model, roles_of(data)[0]))
    sample = Sample.of(model, parts, data)
    check_vectors(tower, model, config, sample, inputs, compute)
    for reader, tokens, ids in parts:
        yield from cut_texts(reader, [texts[i] for i in ids.tolist()], tokens)
    if config.trust_remote_code and runs_own_code(model):
        yield (
            "model.trust_remote_code=true: the encoder runs code of its own folder, which every "
            "model of this study carries along; 'embsearch promote' will refuse them"
        )


@dataclass(frozen=True)
class Sample:
    """A few texts of every length, behind their prompts, some of each reader."""

    ids: Ids
    texts: Sequence[str]
    queries: np.ndarray  # (B,) true of queries
    rows: Sequence[Ids]  # their tokens

    @staticmethod
    def of(model: SentenceTransformer, parts: Sequence[Part], data: TaskData) -> Sample:
        """Return TEXTS of ``data``, of which each reader has a part."""
        taken: list[np.ndarray] = []
        rows: list[Ids] = []
        for _, tokens, ids in parts:
            order = np.argsort(tokens.lengths, kind="stable")
            spread = np.linspace(0, len(order) - 1, max(1, TEXTS // len(parts)))
            take = order[np.unique(spread.astype(int))]
            taken.append(ids[take])
            rows += [tokens.row(i) for i in take]
        ids = np.concatenate(taken)
        names, role_N = roles_of(data)
        prompts = prompts_of(model, names)
        texts = [prompts[role_N[i]] + data.texts[i] for i in ids.tolist()]
        return Sample(ids, texts, queries_of(data)[ids], rows)

    def vectors_of(self, model: SentenceTransformer) -> np.ndarray:
        """Return (B, E) of length 1 as ``model`` makes them of queries and documents."""
        found: dict[int, np.ndarray] = {}
        for role, here in (("query", self.queries), ("document", ~self.queries)):
            take = np.flatnonzero(here)
            if len(take):
                texts = [self.texts[i] for i in take.tolist()]
                made = model.encode(
                    texts, prompt="", task=role, batch_size=1, show_progress_bar=False
                )
                found |= dict(zip(take.tolist(), made, strict=True))
        return _unit(np.stack([found[i] for i in range(len(self.texts))]))


def unknown_words(reader: Reader, tokens: Tokens) -> Iterator[str]:
    """Yield a line where the tokenizer does not know most of what the texts are made of."""
    read = np.asarray(tokens.ids[:READ])
    read = read[~np.isin(read, [i for i in reader.special if i != reader.unknown])]
    share = float((read == reader.unknown).mean()) if len(read) else 0.0
    if share > UNKNOWN:
        yield (
            f"{share:.0%} of the tokens of these texts are unknown to the encoder's tokenizer "
            f"({reader.unknown_word}): it can hardly tell them apart; give its folder the "
            "tokenizer that its weights were trained with, or take an encoder for this language"
        )


def check_vectors(
    tower: Tower,
    model: SentenceTransformer,
    config: ModelConfig,
    sample: Sample,
    inputs: Inputs,
    compute: Compute,
) -> None:
    """Raise ModelError where vectors are not finite, all the same, or not those that
    sentence-transformers makes of the folder.

    The settings that ask for other vectors than the folder's are left out: with a pooling or a
    projection nothing is compared. Computed in fp32 on a CPU, and as ``compute`` says on a GPU.
    """
    ours_BE, compute = _ours(tower, sample, inputs, compute)
    name = f"model.path={config.path}"
    if not np.isfinite(ours_BE).all():
        raise ModelError(f"{name}: its vectors are not finite; the weights are damaged")
    if len(sample.ids) > 1 and np.ptp(ours_BE, axis=0).max() < ALIKE:
        raise ModelError(
            f"{name}: every text gets the same vector, it cannot tell texts apart; expected "
            "trained weights and the tokenizer that they were trained with"
        )
    if config.pooling != "keep" or config.projection is not None:
        return
    reference = pretrained.read(config).to(compute.device)
    for own, other in zip(readers(model), readers(reference), strict=True):
        other.set_length(own.length)
    with compute.context():
        theirs_BE = sample.vectors_of(reference)
    if not (by := _apart(ours_BE, theirs_BE, compute)):
        return
    raise ModelError(
        f"{name}: vectors here are not those of SentenceTransformer.encode for the same folder, "
        f"they differ by {by}: {_differs(model, reference, sample)}. A study of this "
        "encoder would tune another model than the one that is saved; take another encoder, or "
        "report this one"
    )


def check_saved(
    tower: Tower,
    model: SentenceTransformer,
    folder: Path,
    sample: Sample,
    inputs: Inputs,
    compute: Compute,
) -> None:
    """Raise Unfaithful where ``folder``, to which ``tower`` and its ``model`` were saved, gives
    sentence-transformers other vectors.
    """
    ours_BE, compute = _ours(tower, sample, inputs, compute)
    with torch.random.fork_rng([]):  # building layers draws
        saved = pretrained.load(folder, "cpu", runs_own_code(model))
    if by := _apart(ours_BE, sample.vectors_of(saved), compute):
        raise Unfaithful(
            f"{folder}: SentenceTransformer.encode gives other vectors of this saved model than "
            f"the trained one has, they differ by {by}: {_differs(model, saved, sample)}. It is "
            "not kept; take another encoder, or report this one"
        )


def _ours(
    tower: Tower, sample: Sample, inputs: Inputs, compute: Compute
) -> tuple[np.ndarray, Compute]:
    """Return (B, E) of length 1, and what they were computed with: fp32 on a CPU."""
    if compute.device.type == "cpu":
        compute = replace(compute, autocast=None)
    # other tokens to the cache of frozen layers, which would keep states of this precision
    others = replace(inputs)  # type: ignore[type-var]  # inputs of texts are records
    return _unit(embed(tower, others, sample.ids, compute)), compute


def _apart(ours_BE: np.ndarray, theirs_BE: np.ndarray, compute: Compute) -> str:
    """Return by how much vectors differ, in words; empty where they are the same."""
    if ours_BE.shape != theirs_BE.shape:
        return f"their width, {ours_BE.shape[1]} and {theirs_BE.shape[1]}"
    far = np.abs(ours_BE - theirs_BE).max()
    near = NEAR if compute.autocast is None else NEAR_IN_16_BITS
    return "" if far <= near else f"up to {far:.2g} a component"


def _differs(model: SentenceTransformer, reference: SentenceTransformer, sample: Sample) -> str:
    """Return where an encoder and the folder it is from part, as far as it can be told."""
    ours, theirs = ([type(module).__name__ for module in m] for m in (model, reference))
    ours, theirs = ([m for m in names if m != "Normalize"] for names in (ours, theirs))
    if ours != theirs:
        return f"its modules are {', '.join(theirs)}, here {', '.join(ours)}"
    if model.truncate_dim != reference.truncate_dim:
        return f"truncate_dim is {reference.truncate_dim}, here {model.truncate_dim}"
    for text, query, row in zip(sample.texts, sample.queries, sample.rows, strict=True):
        features = reference.preprocess([text], task="query" if query else "document")
        if features["input_ids"].flatten().tolist() != list(row):
            return f"it reads other tokens of {text[:40]!r}"
        passed = {"input_ids", "attention_mask", "offsets", "modality", "task"}
        others = sorted(features.keys() - passed)
    words = f" (or of {', '.join(others)}, which is not passed on here)" if others else ""
    base = reference.transformers_model or reference[0]
    return f"{type(base).__name__} makes other states of the same tokens{words}"


def cut_texts(reader: Reader, texts: Sequence[str], tokens: Tokens) -> Iterator[str]:
    """Yield a line where texts have more tokens than are read of them."""
    limit = reader.length
    if limit is None:
        return
    full = np.flatnonzero(tokens.lengths >= limit).tolist()
    longer = (
        tokenise([texts[i] for i in full], reader.tokenizer, limit + 1).lengths if full else full
    )
    count = np.count_nonzero(np.asarray(longer) > limit)
    if not count:
        return
    more = "the encoder has no more positions"
    if limit < reader.most:
        more = "model.max_length=N reads more"
        more += f", up to {reader.most}" if reader.most < sys.maxsize else ""
    yield f"{count} of {len(texts)} texts are cut at {limit} tokens; {more}"


def runs_own_code(model: nn.Module) -> bool:
    """Return true where a module's class came with the weights."""
    return any(type(m).__module__.startswith("transformers_modules.") for m in model.modules())


def _unit(vectors_BE: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors_BE, axis=1, keepdims=True)
    found: np.ndarray = vectors_BE / np.maximum(lengths, 1e-12)
    return found
