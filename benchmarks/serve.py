"""The server under load, against SentenceTransformer.encode alone on the same texts.

    python benchmarks/serve.py            # a quarter of an hour on two cores; writes benchmarks/results/serve.json

A real ``embsearch serve`` process with the real MiniLM; --clients keep one connection each and ask again as soon as
they are answered; one request in a hundred is malformed and must come back as 400 with a reason. In turns with it,
``encode`` computes the first --share of the same requests one after another in this process, fp32, batch_size = texts
a request, with as many threads, while the server is idle; the vectors of these are compared. The ratio is the median
over turns; ``cpu ratio`` is the same in CPU seconds of encode's process and the server's, which says more where
others use the machine too. ``alone`` is a server with serve.batch=1, each request by itself, asked the same share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from sentence_transformers import SentenceTransformer, __version__

from embsearch.config.load import compose
from embsearch.config.schema import ModelConfig
from embsearch.data.load import load_dataset
from embsearch.model import pretrained

HERE = Path(__file__).parent
MALFORMED = (
    b'{"inputs": ["a", 7]}', b'{"inputs": [', b"[]", b'{"inputs": []}', b'{"inputs": ["a", " "]}', b"\xff\xfe\xfd",
    b'{"input": ["a"]}', b'{"inputs": [{"query": "a"}]}', b'{"inputs": ["\\ud800"]}', b"[" * 100_000,
    b'{"dataframe_split": {"columns": ["query", "title"], "data": [["a"]]}}',
)  # fmt: skip


@dataclass
class Seen:
    """The answers that clients saw in one run."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    bodies: dict[int, bytes] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@contextmanager
def serving(words: Sequence[str], threads: int) -> Iterator[tuple[int, psutil.Process]]:
    """Start ``embsearch serve`` and yield its port and process; it must end by SIGTERM with exit code 0."""
    command = [
        sys.executable,
        "-m",
        "embsearch.cli.main",
        "serve",
        "serve.port=0",
        f"serve.threads={threads}",
        *words,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    try:
        lines = []
        for line in server.stdout:
            lines.append(line)
            if found := re.search(r"listening on http://[^:]+:(\d+)", line):
                yield int(found[1]), psutil.Process(server.pid)
                break
        else:
            sys.exit("the server did not start: " + "".join(lines))
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(30)
    if code:
        sys.exit(f"the server ended with {code} on SIGTERM")


def message(body: bytes) -> bytes:
    head = ("POST /invocations HTTP/1.1", "host: 127.0.0.1", "content-type: application/json")
    return "\r\n".join((*head, f"content-length: {len(body)}", "", "")).encode() + body


async def ask(port: int, messages: Sequence[tuple[bytes, bool]], clients: int) -> Seen:
    """Send every message once, by ``clients`` connections; the flag says if it is well formed."""
    seen, numbers = Seen(), iter(range(len(messages)))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        for number in numbers:
            data, good = messages[number]
            began = time.perf_counter()
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
            body = await reader.readexactly(length)
            status = int(head.split(b" ", 2)[1])
            seen.latencies.append(time.perf_counter() - began)
            seen.statuses[status] += 1
            if good and status == 200:
                seen.bodies[number] = body
            elif good or status != 400 or len(json.loads(body)["message"]) < 20:
                seen.wrong.append(
                    f"request {number} ({'good' if good else 'malformed'}): {status} {body[:200]!r}"
                )
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seen.seconds = time.perf_counter() - began
    return seen


def questions(
    texts: Sequence[str], count: int, size: int, seed: int
) -> tuple[list[list[str]], list[tuple[bytes, bool]]]:
    """Make ``count`` requests of ``size`` texts, and their messages, every hundredth malformed in its own way."""
    draw = np.random.default_rng(seed)
    asked = [[texts[i] for i in draw.integers(len(texts), size=size)] for _ in range(count)]
    messages = [(message(json.dumps({"inputs": request}).encode()), True) for request in asked]
    for place in range(50, count, 100):
        messages[place] = message(MALFORMED[place // 100 % len(MALFORMED)]), False
    return asked, messages


def compare(seen: Seen, asked: Sequence[list[str]], expected: Sequence[np.ndarray]) -> float:
    """Return the worst relative difference of a vector."""
    worst = 0.0
    for number in sorted(number for number in seen.bodies if number < len(expected)):
        got = np.array(json.loads(seen.bodies[number])["predictions"], dtype=np.float32)
        gap = np.linalg.norm(got - expected[number], axis=1) / np.linalg.norm(
            expected[number], axis=1
        )
        worst = max(worst, float(gap.max()))
    return worst


def encode_all(
    model: SentenceTransformer, asked: Sequence[list[str]], size: int
) -> tuple[float, list[np.ndarray]]:
    began = time.perf_counter()
    found = [model.encode(request, batch_size=size, show_progress_bar=False) for request in asked]
    return time.perf_counter() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "serve.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = Path(pretrained.find(ModelConfig()))
    model = SentenceTransformer(str(folder), device="cpu")
    each = args.requests // args.turns
    some = max(1, round(each * args.share))
    found: dict[str, Any] = {"together": [], "alone": []}
    with tempfile.TemporaryDirectory() as home:
        texts = load_dataset(compose(["study=product_search"]).data, Path(home) / "cache").texts
        words = [f"checkpoint={folder}", f"home={home}", "device=cpu"]
        with serving(words, args.threads) as (port, process), serving([*words, "serve.batch=1"], args.threads) as (
            port_alone, process_alone,
        ):  # fmt: skip
            warm = questions(texts, 100, args.texts, 999)
            for which in (port, port_alone):
                asyncio.run(ask(which, warm[1], args.clients))
            encode_all(model, warm[0][:20], args.texts)
            for turn in range(args.turns):
                asked, messages = questions(texts, each, args.texts, turn)
                used = time.process_time()
                seconds, expected = encode_all(model, asked[:some], args.texts)
                used = (time.process_time() - used) / some
                for name, which, count, server in (
                    ("together", port, each, process), ("alone", port_alone, some, process_alone),
                ):  # fmt: skip
                    before = cpu(server)
                    seen = asyncio.run(ask(which, messages[:count], args.clients))
                    cpu_ratio = used * len(seen.bodies) / (cpu(server) - before)
                    bad = sum(not good for _, good in messages[:count])
                    rate = len(seen.bodies) / seen.seconds
                    found[name].append(
                        {"ratio": rate / (some / seconds), "cpu_ratio": cpu_ratio, "requests_per_second": rate,
                         "latencies": seen.latencies,
                         "statuses": dict(seen.statuses), "malformed": bad, "wrong": seen.wrong,
                         "worst": compare(seen, asked, expected), "encode_requests_per_second": some / seconds}
                    )  # fmt: skip
                print(f"turn {turn}: encode {some / seconds:.0f} requests/s, " + ", ".join(
                    f"{name} {runs[-1]['requests_per_second']:.0f} ({runs[-1]['ratio']:.2f})"
                    for name, runs in found.items()), flush=True)  # fmt: skip
            memory = process.memory_info().rss
    result = {
        "made_with": {"torch": torch.__version__, "sentence-transformers": __version__,
                      "python": platform.python_version(), "cpus": psutil.cpu_count(logical=True),
                      "load": [round(load, 1) for load in os.getloadavg()]},
        "clients": args.clients, "texts": args.texts, "threads": args.threads, "turns": args.turns,
        "rss_mb": round(memory / 1e6),
        **{name: summary(runs) for name, runs in found.items()},
    }  # fmt: skip
    show(result)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    if any(result[name]["wrong"] for name in found):
        sys.exit("answers were wrong")


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    latencies = np.array([seconds for run in runs for seconds in run["latencies"]]) * 1000
    return {
        "requests": len(latencies),
        "malformed": sum(run["malformed"] for run in runs),
        "refused_with_400": sum(run["statuses"].get(400, 0) for run in runs),
        "wrong": [text for run in runs for text in run["wrong"]],
        "worst_relative_difference": max(run["worst"] for run in runs),
        "requests_per_second": round(
            statistics.median(run["requests_per_second"] for run in runs), 1
        ),
        "encode_requests_per_second": round(
            statistics.median(run["encode_requests_per_second"] for run in runs), 1
        ),
        "ratio": round(statistics.median(run["ratio"] for run in runs), 3),
        "ratios": [round(run["ratio"], 3) for run in runs],
        "cpu_ratio": round(statistics.median(run["cpu_ratio"] for run in runs), 3),
        **{f"p{q}_ms": round(float(np.percentile(latencies, q)), 1) for q in (50, 95, 99)},
    }


def show(result: dict[str, Any]) -> None:
    table = Table(
        title=f"{result['clients']} clients, {result['texts']} texts a request, {result['threads']} threads"
    )
    names = ("together", "alone")
    for head in ("", *names):
        table.add_column(head, justify="left" if not head else "right")
    for row in ("requests", "malformed", "refused_with_400", "worst_relative_difference", "requests_per_second",
                "encode_requests_per_second", "ratio", "cpu_ratio", "p50_ms", "p95_ms", "p99_ms"):  # fmt: skip
        values = (result[name][row] for name in names)
        table.add_row(
            row.replace("_", " "),
            *(f"{v:.2g}" if row.startswith("worst") else str(v) for v in values),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
