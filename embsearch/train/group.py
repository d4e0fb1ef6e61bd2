"""The processes that train one trial together, as the trial and its steps see them.

Every process runs the same trial on the same data, seeds and batches, and takes the same optimizer steps. In a step
each encodes its share of the texts; vectors and gradients are exchanged (train/step.py). The first one leads: it
alone evaluates, saves and is told to stop; the others learn what came of it (docs/decisions/0026-devices.md).

Shapes: D texts of a batch, E the width of their vectors, N processes.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore, distributed_c10d  # type: ignore[attr-defined]

from embsearch.codec import JsonObject
from embsearch.errors import Lost, TrialError

T = TypeVar("T")

# Nobody waits in vain: helpers end with the leader's pipe, the leader hears when one ends, and a coordinator ends a
# worker that gives no sign of life. An evaluation on the leader may take hours.
TIMEOUT = timedelta(days=30)
SHORT = 256  # bytes: news that fit go out in one message
BUCKET = 2**25  # bytes of gradients that are added up at once


class Alone:
    """One process that trains by itself: nothing to exchange, nothing that costs time."""

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def of_first(self, work: Callable[[], T]) -> T:
        """Return what ``work`` gives in the first process, plain JSON; no other process does it.

        Raises what it raises; in the others TrialError, as they cannot go on either.
        """
        return work()

    def reseed(self, seed: int, step: int) -> None:
        """Make what is drawn in step ``step`` (dropout) a function of seed, step and process."""

    def check(self, step: int, model: nn.Module) -> None:
        """Raise RuntimeError where the processes have not the same weights at the same step."""


ALONE = Alone()


class Group(Alone):
    """``size`` processes that found each other in ``store``; NCCL where ``device`` is a GPU, gloo otherwise.

    Every method is to be called by all of them in the same order. Raises Lost where one is gone.
    """

    def __init__(self, store: TCPStore, rank: int, size: int, device: str) -> None:
        self.rank, self.size, self.device = rank, size, device
        self.lost: Callable[[str], Exception] = lambda why: Lost(
            f"the other processes of this trial are gone: {why}"
        )
        for name in (
            "GLOO_SOCKET_IFNAME",
            "NCCL_SOCKET_IFNAME",
        ):  # all are on this machine: nothing else hears them
            os.environ.setdefault(name, _loopback())
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)

    def of_first(self, work: Callable[[], T]) -> T:
        if not self.leads:
            return self._news()  # type: ignore[no-any-return]
        try:
            found = work()
        except Exception as error:
            self._tell({"raised": f"{type(error).__name__}: {error}"})
            raise
        self._tell({"found": found})
        return found

    def _tell(self, news: JsonObject) -> None:
        words = json.dumps(news).encode()
        self._broadcast(
            torch.frombuffer(
                bytearray(len(words).to_bytes(8) + words[:SHORT].ljust(SHORT)), dtype=torch.uint8
            )
        )
        if len(words) > SHORT:
            self._broadcast(torch.frombuffer(bytearray(words[SHORT:]), dtype=torch.uint8))

    def _news(self) -> Any:
        first = torch.empty(8 + SHORT, dtype=torch.uint8)
        self._broadcast(first)
        head = first.numpy().tobytes()
        length = int.from_bytes(head[:8])
        words = head[8 : 8 + length]
        if length > SHORT:
            more = torch.empty(length - SHORT, dtype=torch.uint8)
            self._broadcast(more)
            words += more.numpy().tobytes()
        news = json.loads(words)
        if "raised" in news:
            raise TrialError(f"the process that leads raised {news['raised']}")
        return news["found"]

    def reseed(self, seed: int, step: int) -> None:
        drawn = np.random.SeedSequence([seed, step, self.rank, 2]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(drawn) >> 1)

    def check(self, step: int, model: nn.Module) -> None:
        total = sum(float(p.detach().sum(dtype=torch.float64)) for p in model.parameters())
        said = self.gather([step, total])
        if len({one.tobytes() for one in said}) > 1:
            raise RuntimeError(
                f"the {self.size} processes of this trial have drifted apart: step and sum of weights are "
                f"{said.tolist()}"
            )

    def shares(self, lengths_D: np.ndarray) -> list[np.ndarray]:
        """Return the texts that each process encodes, by position: about as many tokens each. Some
        may have none.
        """
        turn = np.arange(len(lengths_D)) % (2 * self.size)
        owner = np.minimum(
            turn, 2 * self.size - 1 - turn
        )  # there and back again: 0 1 2 2 1 0 0 1 2 ...
        order = np.argsort(-lengths_D, kind="stable")
        return [np.sort(order[owner == rank]) for rank in range(self.size)]

    def gather(self, numbers: Sequence[float]) -> np.ndarray:
        """(N, len(numbers)) what every process says, in float64."""
        own = torch.tensor(numbers, dtype=torch.float64)
        said = [torch.empty_like(own) for _ in range(self.size)]
        self._wait(lambda: dist.all_gather(said, own, async_op=True))
        found: np.ndarray = torch.stack(said).numpy()
        return found

    def vectors(self, own_BE: Tensor, shares: Sequence[np.ndarray]) -> Tensor:
        """(D, E) of all texts from the (B, E) of each process's share; without graph."""
        most = max(len(share) for share in shares)
        padded = own_BE.new_zeros(most, own_BE.shape[1])
        padded[: len(own_BE)] = own_BE.detach()
        parts = [torch.empty_like(padded) for _ in shares]
        self._wait(lambda: dist.all_gather(parts, padded, async_op=True))
        whole_DE = own_BE.new_empty(sum(len(share) for share in shares), own_BE.shape[1])
        for share, part in zip(shares, parts, strict=True):
            whole_DE[torch.from_numpy(share).to(part.device)] = part[: len(share)]
        return whole_DE

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Every parameter's gradient becomes the sum over all processes; one that is None counts as zero."""
        under_way = []
        for bucket in _buckets(parameters):
            flat = torch.cat(
                [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket]
            )
            work = self._begun(partial(dist.all_reduce, flat, async_op=True))
            under_way.append((bucket, flat, work))
        for bucket, flat, work in under_way:
            self._begun(work.wait)
            for parameter, part in zip(
                bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True
            ):
                parameter.grad = part.view_as(parameter)

    def close(self) -> None:
        """Leave; the others' next exchange raises Lost."""
        if not dist.is_initialized():
            return
        if self.device == "cuda":  # a plain goodbye may wait for those that are gone
            distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()

    def _broadcast(self, tensor: Tensor) -> None:
        self._wait(lambda: dist.broadcast(tensor, 0, async_op=True))

    def _wait(self, begin: Callable[[], dist.Work]) -> None:
        self._begun(lambda: begin().wait())

    def _begun(self, exchange: Callable[[], T]) -> T:
        try:
            return exchange()
        except RuntimeError as error:
            raise self.lost(str(error).splitlines()[0]) from error


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """In order, each of one data type and, beyond its first, at most BUCKET bytes."""
    found: list[list[nn.Parameter]] = []
    held = 0
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        if not found or found[-1][0].dtype != parameter.dtype or held + size > BUCKET:
            found.append([])
            held = 0
        found[-1].append(parameter)
        held += size
    return found


def _loopback() -> str:
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
