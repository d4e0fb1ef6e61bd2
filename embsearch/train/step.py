"""One optimizer step's loss and gradients: each distinct text encoded once, in chunks.

Equal to the plain three-column forward (dropout off) up to rounding: tested. Chunks whose
activations do not fit beside those before them (memory_budget.py) have their gradients cached (Gao
et al. 2021, GradCache): a pass without graph for the embeddings, the loss's gradient with respect
to them, then chunk by chunk a pass with graph from the same random state. Running out of memory
halves the chunk and repeats the step; it changes neither the step's mathematics nor its random
draws.

Where several processes train together (group.py), each encodes its share of the texts; all compute
the same loss of all vectors, send its gradient back through their own texts, and add up the
gradients of the parameters.
Shapes: D distinct texts, B those of one process, E the width of the embedding, N processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from embsearch.config.schema import TrainConfig
from embsearch.data.batch import Batch, onto
from embsearch.errors import OutOfMemory
from embsearch.model.device import Compute, is_out_of_memory
from embsearch.model.tower import Inputs, Tower
from embsearch.train.group import ALONE, Alone, Group
from embsearch.train.memory_budget import MemoryBudget, Plan

T = TypeVar("T")
Loss = Callable[[Tensor, Batch], Tensor]
# What one process tells the others of its part: it fits, goes on in smaller chunks, cannot.
FITS, SMALLER, STUCK = range(3)


@dataclass
class Encoded:
    """Texts after the forward pass, chunk by chunk.

    ``states``: the random state that a chunk began with where its gradients are cached; then its
    vectors have no graph.
    """

    plan: Plan
    parts: list[Tensor]
    states: list[Tensor | None]

    def detached(self) -> Tensor:
        """Return (B, E) vectors in the batch's order, without graph."""
        return _reorder(torch.cat([part.detach() for part in self.parts]), self.plan)


class Stepper:
    """Computes gradients of batches."""

    def __init__(
        self,
        encoder: Tower,
        tokens: Inputs,
        objective: Loss,
        compute: Compute,
        config: TrainConfig,
        group: Alone = ALONE,
    ) -> None:
        self.encoder, self.tokens, self.objective = encoder, tokens, objective
        self.compute, self.group = compute, group
        self.budget = MemoryBudget(encoder, compute, config)
        self._why_stuck = ""

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of ``batch``; leave its gradients in the encoder's parameters.

        The loss lies on the device, which may still be at work on it. Raises OutOfMemory when a
        chunk of one text does not fit, Lost when another process of the group is gone.
        """
        states = _random_states(self.compute.device)
        while True:
            if isinstance(self.group, Group):
                loss = self._together(self.group, batch)
            else:
                loss, _ = self._try(batch, partial(self._gradients, batch))
            if loss is not None:
                return loss.detach()
            # outside the handler, so that no traceback keeps the failed step's tensors
            self.budget.release()
            _set_random_states(self.compute.device, states)

    def own(self, batch: Batch) -> Batch:
        """Return ``batch`` with those of its texts that this process encodes."""
        if not isinstance(self.group, Group):
            return batch
        share = self.group.shares(self.tokens.lengths[batch.text_D])[self.group.rank]
        return replace(batch, text_D=batch.text_D[share])

    def plan(self, batch: Batch) -> Plan:
        """Return the chunks that the texts of ``batch`` are encoded in."""
        return self.budget.plan(self.tokens.lengths[batch.text_D])

    def _gradients(self, batch: Batch) -> Tensor:
        encoded = self._forward(batch)
        plan = encoded.plan
        self.budget.make_room(plan.keeps_all)
        if plan.keeps_all:
            embeddings_DE = _reorder(torch.cat(encoded.parts), plan)
        else:
            embeddings_DE = encoded.detached().requires_grad_()
        loss = self._loss(embeddings_DE, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        if not plan.keeps_all:
            assert embeddings_DE.grad is not None
            self._backward(batch, encoded, embeddings_DE.grad)
        return loss

    def _forward(self, batch: Batch) -> Encoded:
        plan = self.plan(batch)
        encoded = Encoded(plan, [], [])
        with self.compute.context():  # one for all, which casts the weights once
            for number, take in enumerate(plan.chunks):
                keep = number < plan.kept
                state = None if keep else _random_states(self.compute.device)[-1]
                encoded.states.append(state)
                with torch.set_grad_enabled(keep):
                    part = self._encode(batch, take, plan, keep and plan.alone)
                encoded.parts.append(part)
        return encoded

    def _backward(self, batch: Batch, encoded: Encoded, gradient_DE: Tensor) -> None:
        """Send the gradient of the embeddings back, chunk by chunk."""
        device = self.compute.device
        after = _random_states(device)
        for take, state in zip(encoded.plan.chunks, encoded.states, strict=True):
            part = encoded.parts.pop(0)  # nobody else holds the chunk's graph
            if state is not None:
                _set_random_states(device, [state])
                with self.compute.context():
                    part = self._encode(batch, take, encoded.plan)
            gradient = gradient_DE[onto(part.device, torch.from_numpy(take))].to(part.dtype)
            part.backward(gradient)  # type: ignore[no-untyped-call]
        _set_random_states(device, after)

    def _together(self, group: Group, batch: Batch) -> Tensor | None:
        """Return the loss, with the group's gradients.

        None where the step must be repeated, because one of the processes goes on in smaller
        chunks. All learn how each got on before they exchange anything, so that none waits.
        """
        shares = group.shares(self.tokens.lengths[batch.text_D])
        mine = replace(batch, text_D=batch.text_D[shares[group.rank]])
        encoded, how = self._try_for_all(mine, partial(self._forward_share, mine))
        width = encoded.parts[0].shape[1] if encoded and encoded.parts else 0
        said = group.gather([how, width])
        if not self._all_fit(said[:, 0]):
            return None
        assert encoded is not None
        own_BE = torch.empty(0, int(said[:, 1].max()), device=self.compute.device)
        if encoded.parts:
            own_BE = encoded.detached().float()
        embeddings_DE = group.vectors(own_BE, shares).requires_grad_()
        share = onto(embeddings_DE.device, torch.from_numpy(shares[group.rank]))

        def work() -> float:
            self.budget.make_room(all_kept=False)
            loss = self._loss(embeddings_DE, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            assert embeddings_DE.grad is not None
            self._backward(mine, encoded, embeddings_DE.grad[share])
            return loss.item()

        loss, how = self._try_for_all(mine, work)
        learn = [p for p in self.encoder.parameters() if p.requires_grad]
        said = group.gather([how, loss or 0.0, *(p.grad is not None for p in learn)])
        if not self._all_fit(said[:, 0]):
            return None
        has_P = said[:, 2:].max(axis=0)
        group.add_gradients([p for p, has in zip(learn, has_P, strict=True) if has])
        return torch.tensor(float(said[0, 1]), device=self.compute.device)

    def _forward_share(self, mine: Batch) -> Encoded:
        if not len(mine.text_D):  # fewer texts than processes
            return Encoded(Plan([], 0, 0), [], [])
        return self._forward(mine)

    def _try(self, batch: Batch, work: Callable[[], T]) -> tuple[T | None, int]:
        """Return what ``work`` gives, and FITS; None and SMALLER where memory did not suffice.

        Raises OutOfMemory where it cannot.
        """
        try:
            return work(), FITS
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            longest = int(self.tokens.lengths[batch.text_D].max())
            self.budget.halve(longest, error)
            return None, SMALLER

    def _try_for_all(self, mine: Batch, work: Callable[[], T]) -> tuple[T | None, int]:
        """Return the same, with STUCK for OutOfMemory, which the others must learn of first."""
        try:
            return self._try(mine, work)
        except OutOfMemory as error:
            self._why_stuck = str(error)
            return None, STUCK

    def _all_fit(self, said_N: np.ndarray) -> bool:
        """Return true where every process has done its part.

        Raises OutOfMemory where one cannot.
        """
        if STUCK in said_N:
            stuck = int((said_N == STUCK).argmax())
            why = self._why_stuck if stuck == self.group.rank else "its log says more"
            raise OutOfMemory(f"device {stuck} of {self.group.size}: {why}")
        return not said_N.any()

    def _encode(self, batch: Batch, take: np.ndarray, plan: Plan, alone: bool = False) -> Tensor:
        return self.encoder.encode(self.tokens, batch.text_D[take], alone, plan.shared)

    def _loss(self, embeddings_DE: Tensor, batch: Batch) -> Tensor:
        return self.objective(embeddings_DE.float(), batch.to(embeddings_DE.device))


def _reorder(parts_DE: Tensor, plan: Plan) -> Tensor:
    """Return embeddings in the batch's order from embeddings in the plan's."""
    back = np.argsort(np.concatenate(plan.chunks), kind="stable")
    return parts_DE[onto(parts_DE.device, torch.from_numpy(back))]


def _random_states(device: torch.device) -> list[Tensor]:
    """Return the random states of a step: the CPU's and, at the end, the device's."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set_random_states(device: torch.device, states: list[Tensor]) -> None:
    """Set the states that ``_random_states`` gave, or the device's alone."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[-1], device)
    if device.type != "cuda" or len(states) > 1:
        torch.set_rng_state(states[0])
