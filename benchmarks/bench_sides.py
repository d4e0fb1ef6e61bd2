"""The sides that benchmarks/bench.py compares: one process each, which works when it is its turn.

    python benchmarks/bench_sides.py '{"does": "ours", ...}'        # started by bench.py, which keeps the turns

A process of its own for every side: allocators, thread pools, imports and peak memory do not mix. A side
writes that it is ready, reads a line, works, and writes what that took: wall and CPU seconds.
``ours`` is embsearch's own trial, ``theirs`` sentence-transformers' own trainer; both train on the same
rows in the same order, with the same learning rates, decay and clipping, and save nothing meanwhile.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embsearch import trial as product
from embsearch.config.load import compose
from embsearch.config.schema import Config
from embsearch.data.batch import Batch, ClickGraph, batches
from embsearch.data.dataset import Dataset, steps_of, stops_of, subset, texts_of
from embsearch.data.tokenise import Tokens, cached
from embsearch.evaluate.score import score, similarity
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.embed import embed
from embsearch.objectives.build import build as build_objective
from embsearch.train.optimizer import adamw, warmup_steps
from embsearch.train.step import Stepper
from embsearch.worker import Worker

Turn = Callable[[], Any]  # waits for the next turn; what was said with it
Done = Callable[..., None]  # says what the turn took, with what else is known


def ours(config: Config, spec: dict[str, Any], turn: Turn, done: Done) -> None:
    """Train steps of a trial as ``embsearch search`` runs it; then measure its validation AUC."""
    product.CHECKPOINT_EVERY = math.inf
    compute, cache = choose("cpu", config.train.precision), Path(spec["cache"])
    worker = Worker()
    data = worker.dataset(config, str(cache))
    encoder, tokens = worker._encoder(config, data, cache, compute)

    def report(step: int, at: int, metrics: dict[str, float]) -> None:
        done(loss=metrics["train/loss"], peak=peak())
        turn()

    with tempfile.TemporaryDirectory() as folder:
        turn()
        measured = next(product.trial(config, data, tokens, encoder, compute, Path(folder), report))
    done(auc=measured.metrics["val/auc"], compute=compute.why)


def theirs(config: Config, spec: dict[str, Any], turn: Turn, done: Done) -> None:
    """Train steps of ``SentenceTransformerTrainer.train``; then measure the validation AUC of ``encode``."""
    from datasets import Dataset as Rows
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import TripletDistanceMetric, TripletLoss
    from torch.utils.data import BatchSampler, SequentialSampler
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        def on_step_begin(self, *args: Any, **more: Any) -> None:
            turn()

        def on_step_end(self, *args: Any, **more: Any) -> None:
            done(peak=peak())

    data, train = Dataset.load(Path(spec["cache"])), config.train
    model = pretrained.build(config.model, train.seed)
    if spec.get("attention"):
        model[0].auto_model.set_attn_implementation(spec["attention"])
    order = np.random.default_rng([train.seed, 0]).permutation(len(data.train))
    columns = ("anchor", "positive", "negative")
    rows = Rows.from_dict(
        {c: [data.texts[i] for i in getattr(data.train, c)[order]] for c in columns}
    )
    steps = steps_of(train.texts, data.train, train.batch_size)
    warmup = warmup_steps(train, steps, stops_of(steps, config.evaluate.at)[0])
    with tempfile.TemporaryDirectory() as folder:
        settings = SentenceTransformerTrainingArguments(
            folder, max_steps=steps,
            per_device_train_batch_size=train.batch_size, learning_rate=train.lr, weight_decay=train.l2,
            warmup_steps=warmup, lr_scheduler_type=train.schedule, max_grad_norm=train.clip_norm,
            bf16=bool(spec.get("bf16")), use_cpu=True, seed=train.seed, save_strategy="no", logging_strategy="no",
            report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
            batch_sampler=lambda rows, batch_size, drop_last, **more: BatchSampler(
                SequentialSampler(rows), batch_size, drop_last),
        )  # fmt: skip
        loss = TripletLoss(model, TripletDistanceMetric.COSINE, config.objective.margin)
        SentenceTransformerTrainer(model, settings, rows, loss=loss, callbacks=[Turns()]).train()
    turn()
    valid = subset(data.valid, config.evaluate.max_rows)
    ids = texts_of(valid)
    vectors = model.encode([data.texts[i] for i in ids], show_progress_bar=False)
    done(auc=score(valid, similarity(valid, ids, vectors))["auc"])


def our_vectors(config: Config, spec: dict[str, Any], turn: Turn, done: Done) -> None:
    """Encode the distinct validation texts, whose tokens the study has."""
    compute, cache = choose("cpu", "bf16" if spec.get("bf16") else "fp32"), Path(spec["cache"])
    worker = Worker()
    data = worker.dataset(config, str(cache))
    encoder, tokens = worker._encoder(config, data, cache, compute)
    ids = texts_of(subset(data.valid, config.evaluate.max_rows))
    while True:
        turn()
        vectors = embed(encoder, tokens, ids, compute)
        done(texts=len(ids), tokens=int(tokens.lengths[ids].sum()), vectors=saved(spec, vectors))


def their_vectors(config: Config, spec: dict[str, Any], turn: Turn, done: Done) -> None:
    """Encode the same texts by ``SentenceTransformer.encode``, which tokenises, with its own defaults."""
    data = Dataset.load(Path(spec["cache"]))
    model = pretrained.build(config.model).eval()
    texts = [data.texts[i] for i in texts_of(subset(data.valid, config.evaluate.max_rows))]
    while True:
        turn()
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(spec.get("bf16"))):
            vectors = model.encode(texts, show_progress_bar=False)
        done(texts=len(texts), vectors=saved(spec, vectors))


def tokenising(config: Config, spec: dict[str, Any], turn: Turn, done: Done) -> None:
    """Tokenise those texts, which we do once a study."""
    data = Dataset.load(Path(spec["cache"]))
    tokenizer = pretrained.build(config.model).tokenizer
    texts = [data.texts[i] for i in texts_of(subset(data.valid, config.evaluate.max_rows))]
    while True:
        turn()
        tokenizer(texts, truncation=True, max_length=256)
        done()


def products(config: Config, spec: dict[str, Any], turn: Turn, done: Done) -> None:
    """Multiply bf16 matrices of the model's own shapes over a batch's tokens: the peak of this machine."""
    wide = pretrained.build(config.model)[0].auto_model.config
    d, f = wide.hidden_size, wide.intermediate_size
    shapes = [(d, d)] * 4 + [(d, f), (f, d)]
    pairs = [
        (torch.randn(spec["tokens"], k).bfloat16(), torch.randn(n, k).bfloat16()) for k, n in shapes
    ]
    work = sum(2 * spec["tokens"] * k * n for k, n in shapes)
    while True:
        turn()
        laps = []
        for _ in range(8):
            start = time.perf_counter()
            for x, w in pairs:
                torch.nn.functional.linear(x, w)
            laps.append(time.perf_counter() - start)
        done(flops=work / sorted(laps)[len(laps) // 2])


def sizes(config: Config, spec: dict[str, Any], turn: Turn, done: Done) -> None:
    """Train on ``batch`` random triplets of ``length`` tokens a text, as each turn says."""
    compute, cache = choose("cpu", config.train.precision), Path(spec["cache"])
    worker = Worker()
    data = worker.dataset(config, str(cache))
    encoder, tokens = worker._encoder(config, data, cache, compute)
    known = np.unique(tokens.ids)
    while True:
        said = turn()
        texts, length = 3 * said["batch"], said["length"]
        made = Tokens(
            np.random.default_rng(0).choice(known, texts * length), np.arange(texts + 1) * length
        )
        stepper = Stepper(
            encoder.train(), made, build_objective(config.objective), compute, config.train
        )
        optimizer = adamw(encoder, config.train)
        laps, split = [], torch.arange(texts).view(3, -1)
        batch = Batch(
            np.arange(texts), *split, torch.ones(said["batch"]), split[1:].flatten(), torch.eye(1)
        )
        for _ in range(said["repeat"]):
            start = time.perf_counter()
            stepper(batch)
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            middle = time.perf_counter()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            laps.append((time.perf_counter() - start, middle - start))
        done(laps=laps, tokens=texts * length)


DOES = {
    f.__name__: f for f in (ours, theirs, our_vectors, their_vectors, tokenising, products, sizes)
}


def work(config: Config, cache: Path, steps: int) -> Iterator[tuple[int, float]]:
    """Yield for each batch the real tokens of its distinct texts and the floating-point operations of a step
    over them. Matrix products and attention, forward and, twice that, backward; nothing for padding, for a text
    that recurs, or for tables."""
    data = Dataset.load(cache)
    model = pretrained.build(config.model)
    shape = model[0].auto_model.config
    d, f, layers = shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers
    tokens = cached(data, model.tokenizer, model.max_seq_length, cache / "tokens")
    drawn = batches(data.train, ClickGraph(data), config.train.batch_size, config.train.seed)
    for _ in range(steps):
        lengths = tokens.lengths[next(drawn).text_D].astype(float)
        linear, attention = lengths.sum() * (8 * d * d + 4 * d * f), (4 * d * lengths**2).sum()
        yield int(lengths.sum()), 3 * layers * (linear + attention)


def config_of(overrides: list[str]) -> Config:
    """Return the config of a trial that is evaluated once, at its end."""
    config = compose(overrides)
    return replace(config, evaluate=replace(config.evaluate, at=(1.0,)))


def saved(spec: dict[str, Any], vectors: np.ndarray) -> str:
    path = Path(spec["cache"]) / f"vectors.{os.getpid()}.npy"
    np.save(path, vectors)
    return str(path)


def peak() -> int:
    """Return the most memory that this process has held, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def busy() -> float:
    """Return the CPU seconds that this machine has spent on all processes; 0 where it does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, interrupts, soft, stolen, *_ = map(
        int, stat.read_text().split("\n")[0].split()[1:]
    )
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def main(spec: dict[str, Any]) -> None:
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes elsewhere
    torch.set_num_threads(spec["threads"])
    torch.set_num_interop_threads(1)
    began = [0.0, 0.0, 0.0]

    def turn() -> Any:
        out.write('{"ready": true}\n')
        line = sys.stdin.readline()
        if not line:
            os._exit(0)  # the driver has enough
        began[:] = time.perf_counter(), time.process_time(), busy()
        return json.loads(line)

    def done(**known: Any) -> None:
        wall, cpu, all_cpu = (
            now - then
            for now, then in zip(
                (time.perf_counter(), time.process_time(), busy()), began, strict=True
            )
        )
        out.write(
            json.dumps({"wall": wall, "cpu": cpu, "others": (all_cpu - cpu) / wall, **known}) + "\n"
        )

    DOES[spec["does"]](config_of(spec["overrides"]), spec, turn, done)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
