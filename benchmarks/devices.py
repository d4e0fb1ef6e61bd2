"""The cost of a training step on one device and on several together (train.devices), paired in one run.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/devices.py [--devices 2] [overrides of studies/product_search]

MiniLM-L6, one thread a process, each pinned to a core of its own. Every round computes the same batch alone and
together. Wall seconds are what a user sees, where nothing else runs; CPU seconds are of the busiest process, its
exchange included, and hardly depend on what else runs. "Times" is the median over rounds of alone / together.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed import TCPStore

from embsearch.config.load import compose
from embsearch.data.batch import ClickGraph, batches
from embsearch.data.load import prepare_dataset
from embsearch.model.device import choose
from embsearch.objectives.build import build as build_objective
from embsearch.train.group import ALONE, Group
from embsearch.train.optimizer import adamw
from embsearch.train.step import Stepper
from embsearch.worker import Worker

ROUNDS, WARM = 24, 3
MINUTE = timedelta(minutes=1)


class Side:
    """A model of its own, trained alone or in the group."""

    def __init__(self, config, folder, compute, group):
        worker = Worker()
        self.data, self.group = worker.dataset(config, str(folder)), group
        self.encoder, tokens = worker._encoder(config, self.data, folder, compute)
        self.stepper = Stepper(
            self.encoder.train(),
            tokens,
            build_objective(config.objective),
            compute,
            config.train,
            group,
        )
        self.optimizer = adamw(self.encoder, config.train)

    def step(self, number, batch):
        """Train one step. Return wall and CPU seconds, and the loss."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.group.reseed(0, number)
        loss = self.stepper(batch).item()
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.group.of_first(lambda: False)
        return time.perf_counter() - wall, time.process_time() - cpu, loss


def rounds(config, folder, group):
    """Yield (round, wall alone, CPU alone, wall together, CPU together) of every round, from the leader."""
    compute = choose("cpu", config.train.precision)
    together = Side(config, folder, compute, group)
    alone = Side(config, folder, compute, ALONE) if group.leads else None
    stream = batches(together.data.train, ClickGraph(together.data), config.train.batch_size, 0)
    found, apart = [], 0.0
    for number in range(ROUNDS + WARM):
        batch = next(stream)
        single = alone.step(number, batch) if alone else (0.0, 0.0, 0.0)
        group.gather([0])  # begin at the same time
        wall, cpu, loss = together.step(number, batch)
        cpus = group.gather([cpu])[:, 0]
        if number >= WARM:
            found.append((single[0], single[1], wall, float(cpus.max())))
        if alone:
            apart = max(apart, abs(single[2] - loss))
    learn = [p for p in together.encoder.parameters() if p.requires_grad]
    for parameter in learn:
        parameter.grad = torch.zeros_like(parameter)
    exchange = []
    for _ in range(9):
        group.gather([0])
        begun = time.perf_counter()
        group.add_gradients(learn)
        exchange.append(time.perf_counter() - begun)
    news = []
    for _ in range(200):
        begun = time.perf_counter()
        group.of_first(lambda: False)
        news.append(time.perf_counter() - begun)
    size = sum(p.numel() for p in learn) * 4
    return found, apart, statistics.median(exchange), statistics.median(news), size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args, overrides = parser.parse_known_args()
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    config = compose(["study=product_search", "objective.name=infonce", *overrides])
    if args.rank:
        os.sched_setaffinity(0, {cores[args.rank % len(cores)]})
        store = TCPStore("127.0.0.1", args.port, None, False, MINUTE, wait_for_workers=False)
        rounds(config, Path(args.folder), Group(store, args.rank, args.devices, "cpu"))
        return
    with tempfile.TemporaryDirectory() as cache:
        folder = prepare_dataset(config.data, Path(cache))
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        store = TCPStore(
            "127.0.0.1", port, None, True, MINUTE, False, master_listen_fd=listener.detach()
        )
        others = [
            subprocess.Popen([sys.executable, __file__, "--devices", str(args.devices), "--rank", str(rank), "--port",
                              str(port), "--folder", str(folder), *overrides])
            for rank in range(1, args.devices)
        ]  # fmt: skip
        os.sched_setaffinity(0, {cores[0]})
        found, apart, exchange, news, size = rounds(
            config, folder, Group(store, 0, args.devices, "cpu")
        )
        for other in others:
            other.wait()
    load = os.getloadavg()[0]
    print(f"batch {config.train.batch_size}, {ROUNDS} rounds, {len(cores)} cores, load {load:.1f}")
    print(f"{'':8}{'alone, s':>10}{f'{args.devices} devices':>13}{'times':>8}   middle half")
    row("wall", [(alone, together) for alone, _, together, _ in found])
    row("CPU", [(alone, together) for _, alone, _, together in found])
    print(
        f"{size / 2**20:.0f} MiB of gradients: {1e3 * exchange:.0f} ms; the leader's word: {1e3 * news:.2f} ms"
    )
    print(f"losses differ by at most {apart:.1e} in {ROUNDS + WARM} steps")


def row(name: str, pairs: list[tuple[float, float]]) -> None:
    alone, together = (statistics.median(column) for column in zip(*pairs, strict=True))
    times = sorted(a / b for a, b in pairs)
    low, high = times[len(times) // 4], times[-len(times) // 4]
    print(
        f"{name:8}{alone:10.3f}{together:13.3f}{statistics.median(times):8.2f}   {low:.2f} to {high:.2f}"
    )


if __name__ == "__main__":
    main()
