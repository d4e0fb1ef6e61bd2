"""A tower turns items into vectors.

The text encoder is the first one.

An item is what a task names by id: a text today; an image, or a text with a prompt. ``prepare``
makes inputs of all items of a study once, ``encode`` makes vectors of some of them, again and
again. The trial, its steps and the evaluations know a tower by this class alone. Shapes: N items of
a study, B items of a chunk, E the width of the vectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from embsearch.config.schema import ModelConfig
from embsearch.data.dataset import Ids, TaskData
from embsearch.data.tokenise import Tokenizer
from embsearch.model.device import Compute
from embsearch.model.kernel import Kernel


class Inputs(Protocol):
    """Every item of a study as its tower reads it, by id."""

    @property
    def lengths(self) -> np.ndarray:
        """(N,) the cost of each item: tokens of a text, patches of an image. At least 1."""


class Tower(nn.Module, ABC):
    """A model of items.

    Its parameters are what a trial trains; those that need no gradient are frozen.

    ``prepare``, ``encode`` and ``save`` make a tower, of which its kind builds and loads one. The
    other methods have a plain answer here that a tower may better.
    """

    kernel: Kernel | None = None  # a faster way to encode, if kernels/select.py found one

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of a tower whose items are texts; augmentation needs it."""
        return None

    @property
    def packs(self) -> bool:
        """True where chunks are encoded without padding."""
        return self.kernel is not None

    @property
    def left_out(self) -> int:
        """The number of parameters that ``restrict`` left out."""
        return 0

    @property
    def hidden_size(self) -> int:
        """The width of the layers; 0: not known."""
        return 0

    @abstractmethod
    def prepare(self, data: TaskData, cache: Path) -> Inputs:
        """Return all items of ``data`` as inputs, kept in ``cache`` for the next worker."""

    @abstractmethod
    def encode(self, inputs: Any, ids: Ids, alone: bool = False, shared: object = None) -> Tensor:
        """Return (B, E) vectors of the items ``ids``, on the tower's device, with autograd.

        ``alone``: the only chunk of a training step; its vectors may be overwritten by the next
        step. ``shared``: what the chunks of a step share (``Kernel.share_weights``).
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the tower to ``folder``, whole or not at all. Raises OSError."""

    def check(
        self, config: ModelConfig, data: TaskData, inputs: Inputs, compute: Compute
    ) -> Iterator[str]:
        """Yield a line for each thing that people should know before a study of ``data`` begins.

        Raises ModelError where the untuned tower cannot serve them. Nothing is changed.
        """
        yield from ()

    def check_saved(self, folder: Path, data: TaskData, inputs: Inputs, compute: Compute) -> None:
        """Raise Unfaithful where the tower that ``folder`` holds gives other vectors than this one.

        Nothing is changed, and no random number drawn.
        """

    def restrict(self, inputs: Any) -> None:
        """Leave out weights that none of ``inputs`` can reach, until the tower is saved."""

    def remember(self, inputs: Any) -> None:
        """Keep what frozen layers make of ``inputs``."""

    def hold_frozen_in_bf16(self) -> None:
        """Hold frozen weights in half the memory where autocast to bf16 would see no difference."""

    def activation_bytes(self, lengths: np.ndarray, held: int) -> float:
        """Return the bytes in 16 bits that a step keeps of items of such costs, ``held`` units with
        padding.

        0: not known, so that all chunks keep their activations.
        """
        return 0.0

    def gradient(self) -> Tensor | None:
        """Return all gradients end to end in one tensor; None where they lie apart."""
        return None

    def release_unused(self) -> None:
        """Give back memory that nothing lies in."""

    def release(self) -> None:
        """Give back the memory that is kept between steps."""


class TowerKind(Protocol):
    """The way to towers of one kind of items; a class of towers may be one itself."""

    def build(self, config: ModelConfig, seed: int) -> Tower:
        """Return the tower at its base weights, on the CPU; new layers are drawn from ``seed``.

        Raises ModelError where weights are missing or do not have what the config asks for.
        """

    def load(self, folder: str | Path, device: str, trust_remote_code: bool = False) -> Tower:
        """Return the tower that ``save`` wrote. Raises ModelError.

        ``trust_remote_code``: code that lies beside its weights may run.
        """
