"""The server while others mean harm: what polite clients feel, what memory it takes, what the others are told.

    python benchmarks/abuse.py            # ten minutes on two cores; writes benchmarks/results/abuse.json

A real ``embsearch serve`` process with MiniLM and a key. --clients polite connections ask for --texts texts each,
again as soon as they are answered. In turns they are left alone and share the server with one kind of abuse, which
runs in a process of its own. Bars: p99 at most 2 times that of the turns before and after, memory at most 1.3 times,
every refusal with a reason, and at the end SIGTERM with long requests in flight: each is answered in time.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from serve import questions, serving

from embsearch.config.load import compose
from embsearch.config.schema import ModelConfig
from embsearch.data.load import load_dataset
from embsearch.model import pretrained

HERE = Path(__file__).parent
KEY = "0123456789abcdef"
WITH_KEY = f"authorization: Bearer {KEY}"
JSON = "content-type: application/json"
HOST = "host: 127.0.0.1"
GRACE = 20
BOMBS = ("parquet", "gzip", "json", "csv")

Told = Counter[str]  # status and the beginning of the reason
Abuse = Callable[[int, float, Told], Awaitable[None]]


def request(body: bytes, *head: str, path: str = "/invocations") -> bytes:
    lines = (f"POST {path} HTTP/1.1", *head, f"content-length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, str]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = re.search(r"content-length: (\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return int(head.split()[1]), body.decode(errors="replace")


async def sent_again(port: int, until: float, told: Told, data: bytes, pause: float = 0.05) -> None:
    """Send a request, wait for the answer, rest, and so on; a new connection where it was closed."""
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**25)
            while time.monotonic() < until:
                writer.write(data)
                status, reason = await answer(reader)
                told[f"{status} {reason[:110]}" if status != 200 else "200"] += 1
                await asyncio.sleep(pause)
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            told["closed"] += 1


@cache
def bomb(kind: str) -> bytes:
    """Return a request that would unpack to much more than it is."""
    many = 1_300_000
    if kind == "parquet":
        file = io.BytesIO()
        pq.write_table(pa.table({"text": pa.array(["a"] * 20_000_000)}), file, compression="zstd")
        return request(
            file.getvalue(), HOST, WITH_KEY, "content-type: application/vnd.apache.parquet"
        )
    if kind == "gzip":
        packed = gzip.compress(b'{"inputs": ["' + b"a" * 500_000_000 + b'"]}')
        return request(packed, HOST, WITH_KEY, JSON, "content-encoding: gzip")
    if kind == "csv":
        return request(b"text\n" + b"a\n" * many, HOST, WITH_KEY, "content-type: text/csv")
    return request(b'{"inputs": [' + b"{}," * many + b"{}]}", HOST, WITH_KEY, JSON)


def bombs(kind: str) -> Abuse:
    async def abuse(port: int, until: float, told: Told) -> None:
        await sent_again(port, until, told, bomb(kind), 1.0)

    return abuse


async def slow(port: int, until: float, told: Told) -> None:
    """1,000 connections: silent, in the middle of a header, in the middle of a body, that never read."""
    half = request(b'{"inputs": ["a"]}', HOST, WITH_KEY, JSON)[:-1]
    great = request(json.dumps({"inputs": ["a"] * 1000}).encode(), HOST, WITH_KEY, JSON)

    async def one(number: int) -> None:
        await asyncio.sleep(
            number / 100
        )  # 1,000 in one second are a flood, which time limits repeat
        while time.monotonic() < until:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
                writer.write((b"", half[:40], half, great if number % 40 == 3 else b"")[number % 4])
                if number % 40 == 3:
                    await asyncio.sleep(until - time.monotonic())
                status, reason = await asyncio.wait_for(answer(reader), until - time.monotonic())
                told[f"{status} {reason[:110]}"] += 1
                writer.close()
            except TimeoutError:
                told["open at the end"] += 1
            except (OSError, asyncio.IncompleteReadError):
                told["closed"] += 1

    await asyncio.gather(*map(one, range(1000)))


def long_body(rows: int = 1024) -> bytes:
    title = "wireless noise cancelling headphones of a very good make in black"
    texts = [f"{i} {title}" for i in range(rows)]
    return request(json.dumps({"inputs": texts}).encode(), HOST, WITH_KEY, JSON)


async def long(port: int, until: float, told: Told) -> None:
    """Two clients with as many rows as a request may have, one with as many characters and tokens."""
    words = json.dumps({"inputs": [f"{i} " + "a few words " * 1300 for i in range(240)]}).encode()
    each = (long_body(), long_body(), request(words, HOST, WITH_KEY, JSON))
    await asyncio.gather(*(sent_again(port, until, told, data) for data in each))


async def cancelled(port: int, until: float, told: Told) -> None:
    """Two clients that ask much and go away."""
    data = long_body()

    async def one() -> None:
        while time.monotonic() < until:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            await asyncio.sleep(0.3)
            writer.transport.abort()
            told["gone"] += 1

    await asyncio.gather(one(), one())


async def strangers(port: int, until: float, told: Told) -> None:
    """Wrong hosts, no key, a wrong key, and paths that are none."""
    body = b'{"inputs": ["a"]}'
    each = (
        request(body, "host: evil.example", WITH_KEY, JSON),
        request(body, HOST, JSON),
        request(body, HOST, "authorization: Bearer wrong", JSON),
        request(body, HOST, WITH_KEY, JSON, path="/docs"),
    )
    await asyncio.gather(*(sent_again(port, until, told, data) for data in each))


ABUSES: dict[str, tuple[Abuse, float]] = {
    **{f"{kind} bombs": (bombs(kind), 1.0) for kind in BOMBS},
    "slow clients": (slow, 3.0),  # of --seconds
    "long requests": (long, 1.0),
    "cancelled": (cancelled, 1.0),
    "strangers": (strangers, 1.0),
}


def abuser(name: str, port: int, seconds: float, pipe: Any) -> None:
    told: Told = Counter()
    asyncio.run(ABUSES[name][0](port, time.monotonic() + seconds, told))
    pipe.send(told)


async def polite(port: int, messages: list[bytes], clients: int, seconds: float) -> list[float]:
    """Return the seconds of each answer. Everybody must be answered with 200."""
    until, found, numbers = time.monotonic() + seconds, [], iter(range(10**9))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        while time.monotonic() < until:
            began = time.monotonic()
            writer.write(messages[next(numbers) % len(messages)])
            status, reason = await answer(reader)
            assert status == 200, reason
            found.append(time.monotonic() - began)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


class Memory:
    """The most memory that a process has while the block lasts."""

    def __init__(self, process: psutil.Process) -> None:
        self.process, self.most, self.over = process, 0, threading.Event()

    def __enter__(self) -> Memory:
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.05):
            self.most = max(self.most, self.process.memory_info().rss)


def turns(
    port: int, process: psutil.Process, messages: list[bytes], args: Any
) -> Iterator[dict[str, Any]]:
    """Yield what each abuse did."""
    for kind in BOMBS:
        bomb(kind)  # here, since that takes the processor too

    def calm() -> list[float]:
        return asyncio.run(polite(port, messages, args.clients, args.seconds))

    calm()  # warm
    memory = process.memory_info().rss
    before = calm()
    for name in args.only or ABUSES:
        seconds = args.seconds * ABUSES[name][1]
        here, there = multiprocessing.Pipe()
        other = multiprocessing.Process(target=abuser, args=(name, port, seconds + 1, there))
        with Memory(process) as watched:
            other.start()
            time.sleep(1)
            during = asyncio.run(polite(port, messages, args.clients, seconds))
            told = here.recv()
            other.join()
        after = calm()
        p99 = [float(np.percentile(times, 99)) * 1000 for times in (before + after, during)]
        yield {
            "abuse": name, "undisturbed_p99_ms": round(p99[0], 1), "p99_ms": round(p99[1], 1),
            "ratio": round(p99[1] / p99[0], 2), "memory_mb": round(memory / 1e6),
            "memory_ratio": round(watched.most / memory, 2), "answers": len(during),
            "told": dict(told.most_common(6)),
        }  # fmt: skip
        before = after


async def at_the_end(port: int, process: psutil.Process) -> dict[str, Any]:
    """Send SIGTERM while six long requests are in flight; say what they got, and when."""
    data, told = long_body(400), Counter[int]()

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**25)
        writer.write(data)
        status, _ = await answer(reader)
        told[status] += 1

    waiting = asyncio.gather(*(one() for _ in range(6)))
    await asyncio.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    await waiting
    return {"statuses": dict(told), "seconds": round(time.monotonic() - began, 1), "grace": GRACE}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--texts", type=int, default=8, help="of a polite request")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=ABUSES)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "abuse.json")
    args = parser.parse_args()
    os.environ["ABUSE_KEY"] = KEY
    with tempfile.TemporaryDirectory() as home:
        texts = load_dataset(compose(["study=product_search"]).data, Path(home) / "cache").texts
        bodies = [
            data.partition(b"\r\n\r\n")[2]
            for data, good in questions(texts, 400, args.texts, 0)[1]
            if good
        ]
        messages = [request(body, HOST, WITH_KEY, JSON) for body in bodies]
        words = [
            f"checkpoint={pretrained.find(ModelConfig())}", f"home={home}", "device=cpu",
            "serve.api_key_env=ABUSE_KEY", f"serve.grace={GRACE}",
        ]  # fmt: skip
        found = []
        with serving(words, args.threads) as (port, process):
            for turn in turns(port, process, messages, args):
                found.append(turn)
                print(json.dumps(turn), flush=True)
            end = asyncio.run(at_the_end(port, process))
            process.wait(GRACE + 10)
    args.out.write_text(json.dumps({"turns": found, "sigterm": end}, indent=1) + "\n")
    table = Table("abuse", "p99 undisturbed, ms", "p99, ms", "ratio", "memory", title=str(end))
    for turn in found:
        table.add_row(
            *(
                str(turn[k])
                for k in ("abuse", "undisturbed_p99_ms", "p99_ms", "ratio", "memory_ratio")
            )
        )
    Console().print(table)
    if (
        any(turn["ratio"] > 2 or turn["memory_ratio"] > 1.3 for turn in found)
        or end["seconds"] > GRACE + 2
    ):
        sys.exit("a bar does not hold")


if __name__ == "__main__":
    main()
