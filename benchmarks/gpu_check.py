"""The cost of a training step on this GPU, its exactness, and the number of trials that can share it.

    python benchmarks/gpu_check.py            # at most 8 minutes; needs torch and transformers, nothing to download
    python benchmarks/gpu_check.py --small    # does it run: a tiny encoder, half a minute, on a CPU too

Random weights of MiniLM-L6's and BERT-base's shape, generated texts with the lengths of product search (quartiles
12, 16, 21 tokens), triplets whose queries recur as clicks do, every triplet active. Ours is the product's own step
(train/step.py): on a GPU texts without padding, recorded as CUDA graphs; beside it the same without either. Theirs is
written here as sentence-transformers 6.2's trainer does it: the three columns padded to the longest text and encoded
in one forward pass under autocast, AdamW fused, gradients clipped; with --compiled also compiled, as its option
torch_compile does. They take turns; a ratio is the median of the ratios of one round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from embsearch.config.schema import TrainConfig
from embsearch.data.batch import Batch
from embsearch.data.tokenise import Tokens
from embsearch.kernels import attention_interface
from embsearch.kernels.cuda_graphs import FlashKernel
from embsearch.kernels.graph_recording import SAME
from embsearch.kernels.packing import Packing
from embsearch.model.device import Compute, choose
from embsearch.model.embed import embed
from embsearch.model.encoder import Encoder
from embsearch.objectives.triplet import Triplet
from embsearch.train.optimizer import adamw, clip
from embsearch.train.step import Stepper

MARGIN = 2.0  # no triplet ever leads by it
SHAPES = {
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
    },
    "MiniLM-L6": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "BERT-base": {},
}


class Texts:
    """Generated triplets: a query has 3 titles on either side of it, so it recurs in the batch."""

    def __init__(self, size: int, rows: int = 4096) -> None:
        draw = np.random.default_rng(0)
        count = rows + rows // 3
        lengths = np.clip(np.round(draw.lognormal(np.log(16), 0.42, count)), 4, 79).astype(np.int64)
        self.tokens = Tokens(
            draw.integers(1000, 30_000, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])
        )
        self.query, self.size = np.arange(rows) // 3, size
        self.positive = rows // 3 + np.arange(rows)
        self.negative = rows // 3 + draw.permutation(rows)
        self.draw = draw

    def batch(self) -> tuple[Batch, np.ndarray]:
        """Return a batch, and its (3, B) text ids."""
        rows = np.sort(
            self.draw.permutation(len(self.query) // self.size)[0] * self.size
            + np.arange(self.size)
        )
        columns = np.stack([self.query[rows], self.positive[rows], self.negative[rows]])
        text_D = np.unique(columns)
        local = torch.from_numpy(np.searchsorted(text_D, columns))
        titles = torch.unique(local[1:])
        known = torch.zeros(self.size, len(titles), dtype=torch.bool)
        return Batch(
            text_D, local[0], local[1], local[2], torch.ones(self.size), titles, known
        ), columns


class Transformer(nn.Module):
    """A BERT with random weights and mean pooling, as Encoder expects a SentenceTransformer to be, and the first
    module of one: its class has that one's name."""

    max_seq_length = 128
    truncate_dim = None

    def __init__(self, shape: str, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        more = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        self.transformers_model = BertModel(
            BertConfig(**SHAPES[shape], **more), add_pooling_layer=False
        )
        self.tokenizer = argparse.Namespace(
            pad_token_id=0,
            all_special_ids=[0],
            unk_token_id=None,
            unk_token=None,
            num_special_tokens_to_add=lambda: 2,
        )

    def __getitem__(self, number: int) -> Transformer:
        return self  # kernels ask the first module for its auto_model

    @property
    def auto_model(self) -> nn.Module:
        return self.transformers_model

    def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
        if "packing" in features:
            return {"sentence_embedding": self.packed(**features)}
        hidden_BTE = self.transformers_model(**features).last_hidden_state
        mask_BT1 = features["attention_mask"][..., None].to(hidden_BTE.dtype)
        return {"sentence_embedding": (hidden_BTE * mask_BT1).sum(1) / mask_BT1.sum(1)}

    def packed(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        packing: Packing,
        cu_seq_lens_q: Tensor,
        seq_idx: Tensor,
    ) -> Tensor:
        found = self.transformers_model(
            input_ids=input_ids, position_ids=position_ids, packing=packing
        )
        hidden_TE, lengths_B = found.last_hidden_state[0].float(), cu_seq_lens_q.diff()
        sums_BE = hidden_TE.new_zeros(len(lengths_B), hidden_TE.shape[1]).index_add(
            0, seq_idx[0], hidden_TE
        )
        return sums_BE / lengths_B[:, None]


class Ours:
    def __init__(self, shape: str, compute: Compute, dropout: float = 0.1, **train: Any) -> None:
        self.encoder = Encoder(Transformer(shape, dropout)).to(compute.device).train()  # type: ignore[arg-type]
        self.config, self.compute = TrainConfig(**train), compute
        self.optimizer: torch.optim.AdamW | None = None

    def gradients(self, texts: Texts, batch: Batch, columns: np.ndarray) -> Tensor:
        return Stepper(self.encoder, texts.tokens, Triplet(MARGIN), self.compute, self.config)(
            batch
        )

    def step(self, texts: Texts, batch: Batch, columns: np.ndarray) -> None:
        self.optimizer = self.optimizer or adamw(self.encoder, self.config)
        loss = self.gradients(texts, batch, columns)
        norm = clip(self.encoder, 1.0)
        torch.stack([loss, norm]).tolist()  # both sides look at them in every step
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Packed(Ours):
    """Steps of texts without padding, ``recorded`` once a size has recurred."""

    def __init__(
        self, shape: str, compute: Compute, dropout: float = 0.1, recorded: bool = True
    ) -> None:
        super().__init__(shape, compute, dropout)
        attention_interface.register()
        base: Any = self.encoder.model.transformers_model
        base.set_attn_implementation(attention_interface.NAME)
        self.graphs = self.encoder.kernel = FlashKernel(self.encoder.model)
        self.graphs.why_not = "" if recorded else "not to be"


class Theirs(Ours):
    def __init__(
        self, shape: str, compute: Compute, dropout: float = 0.1, compiled: bool = False
    ) -> None:
        super().__init__(shape, compute, dropout)
        self.encode = torch.compile(self.encoder) if compiled else self.encoder

    def gradients(self, texts: Texts, batch: Batch, columns: np.ndarray) -> Tensor:
        ids, mask = (torch.from_numpy(a) for a in texts.tokens.padded(columns.ravel(), 0))
        device = self.compute.device
        if device.type == "cuda":
            ids, mask = (t.pin_memory().to(device, non_blocking=True) for t in (ids, mask))
        with self.compute.context():
            vectors = self.encode(ids, mask)
            anchor, positive, negative = nn.functional.normalize(vectors.float(), dim=-1).chunk(3)
            loss = (
                (MARGIN - (anchor * positive).sum(-1) + (anchor * negative).sum(-1)).relu().mean()
            )
        loss.backward()
        return loss.detach()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def peak_flops(device: torch.device, size: int) -> float:
    """Measure floating-point operations a second of bf16 matrix products, the best of 10."""
    one, two = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    one @ two
    return 2 * size**3 / min(timed(lambda: one @ two, device) for _ in range(10))


def work_of(shape: str, lengths: np.ndarray) -> float:
    """Count operations of a step over the real tokens of distinct texts: forward, and twice that backward."""
    config = BertConfig(**SHAPES[shape])
    d, f = config.hidden_size, config.intermediate_size
    linear, attention = (
        lengths.sum() * (8 * d * d + 4 * d * f),
        (4 * d * lengths.astype(float) ** 2).sum(),
    )
    return float(3 * config.num_hidden_layers * (linear + attention))


def exactness(shape: str, device: torch.device) -> dict[str, float]:
    """Measure the relative distance of loss and gradients to the plain padded forward, in fp32, dropout off."""
    compute = Compute(device, None, "fp32")
    texts = Texts(32)
    batch, columns = texts.batch()

    def found(side: Ours) -> tuple[float, Tensor]:
        loss = side.gradients(texts, batch, columns)
        return loss.item(), torch.cat(
            [p.grad.flatten() for p in side.encoder.parameters() if p.grad is not None]
        )

    loss, gradient = found(Theirs(shape, compute, dropout=0.0))
    ways: dict[str, dict[str, Any]] = {
        "one chunk": {}, "small chunks": {"chunk_tokens": 256, "cache_gradients": "never"},
        "cached gradients": {"chunk_tokens": 256, "cache_gradients": "always"},
    }  # fmt: skip
    distances = {}
    for name, train in ways.items():
        own_loss, own = found(Ours(shape, compute, dropout=0.0, **train))
        distances[name] = max(
            abs(own_loss - loss) / loss, float((own - gradient).norm() / gradient.norm())
        )
    return distances


def agreement(shape: str, compute: Compute) -> str | float:
    """Return 1 less the worst cosine of vectors without padding and with it, in bf16 (rounding: about 1e-4); or why
    texts are padded here."""
    texts = Texts(32)
    ids = texts.batch()[0].text_D
    try:
        one, two = (
            torch.from_numpy(embed(side(shape, compute, 0.0).encoder, texts.tokens, ids, compute))
            for side in (Ours, Packed)
        )
    except Exception as error:
        return (
            f"padded: the flash kernel: {type(error).__name__}: {str(error).splitlines()[0][:90]}"
        )
    distance = 1 - float(torch.cosine_similarity(one, two).min())
    return (
        distance
        if distance < 1 - SAME
        else f"padded: the flash kernel gives other vectors: {distance:.2g}"
    )


def steps(
    shape: str, size: int, compute: Compute, rounds: int, peak: float, packs: bool, compiled: bool
) -> Any:
    """Measure medians of a step's milliseconds by side, and of ratios to the whole step of ours."""
    texts, device = Texts(size), compute.device
    sides: dict[str, Ours] = {"theirs": Theirs(shape, compute)}
    if compiled:
        sides["theirs, compiled"] = Theirs(shape, compute, compiled=True)
    sides["ours, padded"] = Ours(shape, compute)
    if packs:
        sides["ours, not recorded"] = Packed(shape, compute, recorded=False)
        sides["ours"] = Packed(shape, compute)
    best = list(sides)[-1]
    laps: dict[str, list[float]] = {name: [] for name in sides}
    held, work, warm = dict.fromkeys(sides, 0.0), [], 20 if packs else 2
    for number in range(rounds + warm):
        batch, columns = texts.batch()
        for name, side in sides.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
            lap = timed(partial(side.step, texts, batch, columns), device)
            if device.type == "cuda":
                held[name] = max(
                    held[name], (torch.cuda.max_memory_allocated(device) - before) / 2**20
                )
            if number >= warm:
                laps[name].append(lap)
        if number >= warm:
            work.append(work_of(shape, texts.tokens.lengths[batch.text_D]))
    found: dict[str, Any] = {
        f"{name}, ms": 1000 * statistics.median(lap) for name, lap in laps.items()
    }
    for name, lap in laps.items():
        if name != best:
            found[f"{name} / {best}"] = statistics.median(
                a / b for a, b in zip(lap, laps[best], strict=True)
            )
    found["share of peak"] = (
        statistics.median(w / t for w, t in zip(work, laps[best], strict=True)) / peak
    )
    found |= (
        {f"{name}, MiB of a step": held[name] for name in sides} if device.type == "cuda" else {}
    )
    if packs:
        graphs = sides["ours"].graphs  # type: ignore[attr-defined]
        found["sizes recorded"] = (
            len(graphs.sizes) if not graphs.why_not else f"none: {graphs.why_not}"
        )
    return found


def trials_at_once(count: int, shape: str, seconds: float, device: str) -> float:
    """Measure the steps a second of several processes together."""
    command = [
        sys.executable,
        __file__,
        "--trial",
        shape,
        "--seconds",
        str(seconds),
        "--device",
        device,
    ]
    threads = str(max(1, (os.cpu_count() or 1) // count))
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                         env=os.environ | {"OMP_NUM_THREADS": threads})
        for _ in range(count)
    ]  # fmt: skip
    for process in running:  # all have their weights before the first starts to count
        assert process.stdout is not None
        process.stdout.readline()
    ended = [process.communicate("go\n")[0] for process in running]
    return sum(float(text) for text in ended) / seconds


def one_trial(shape: str, seconds: float, compute: Compute) -> None:
    texts = Texts(32)
    side = Packed(shape, compute) if compute.device.type == "cuda" else Ours(shape, compute)
    for _ in range(20 if compute.device.type == "cuda" else 3):
        side.step(texts, *texts.batch())
    print("ready", flush=True)
    sys.stdin.readline()
    end, done = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        side.step(texts, *texts.batch())
        done += 1
    print(done)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a tiny encoder, few steps")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", help="also write what was found, as JSON")
    parser.add_argument(
        "--compiled", action="store_true", help="also theirs compiled, a minute more for each size"
    )
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=10.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    compute = choose(args.device, "auto")
    if compute.autocast is None:
        compute = Compute(compute.device, torch.bfloat16, f"bf16 all the same; {compute.why}")
    device = compute.device
    if args.trial:
        one_trial(args.trial, args.seconds, compute)
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    began = time.monotonic()
    peak = peak_flops(device, 512 if args.small else 8192 if device.type == "cuda" else 2048)
    found: dict[str, Any] = {}

    def say(name: str, value: Any) -> None:
        found[name] = value
        for part, number in (value if isinstance(value, dict) else {"": value}).items():
            words = number if isinstance(number, str) else f"{number:.4g}"
            print(f"{f'{name}: {part}'.rstrip(': '):<72}{words}", flush=True)
        if args.out:
            with open(args.out, "w") as file:
                json.dump(found, file, indent=1)

    say("torch", torch.__version__)
    say("device", compute.why)
    say("bf16 peak, TFLOPS", peak / 1e12)
    if device.type == "cuda":
        say("memory, GiB", torch.cuda.get_device_properties(device).total_memory / 2**30)
    shapes = {"tiny": (8,)} if args.small else {"MiniLM-L6": (32, 128, 512), "BERT-base": (32, 128)}
    for shape, sizes in shapes.items():
        say(f"{shape}, distance to the plain forward in fp32", exactness(shape, device))
        apart = agreement(shape, compute)
        say(f"{shape}, 1 - cosine without and with padding", apart)
        for size in sizes:
            made = steps(
                shape,
                size,
                compute,
                3 if args.small else 20,
                peak,
                not isinstance(apart, str),
                args.compiled,
            )
            say(f"{shape}, batch {size}", made)
    shape = next(iter(shapes))
    for count in (1, 2) if args.small else (1, 2, 4, 8):
        rate = trials_at_once(count, shape, 1.0 if args.small else 6.0, str(device))
        say(f"{shape}, batch 32, {count} trials at once: steps a second", rate)
    say("seconds", time.monotonic() - began)


if __name__ == "__main__":
    main()
