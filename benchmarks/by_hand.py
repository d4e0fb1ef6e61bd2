"""Does a search beat what a person does by hand? Studies of real data beside the usual recipe.

    python benchmarks/by_hand.py FOLDER... [--long] [--home DIR] [--workers 2]

A FOLDER holds ``judgements.csv``, or ``triplets_train.csv``, ``_valid`` and ``_test``; its name is the
set's. For each a study of ``make study``'s effort (studies/product_search, but for the data) is run.
By hand: sentence-transformers' MultipleNegativesRankingLoss, scale 20, batch 64 without duplicates,
1e-4, a tenth of warm-up, linear, on the same training rows, for the texts of one trial; with --long
also for those of the whole search, fresh seeds included. All models are measured on the same test
rows: AUC and the paired difference with its 95 % interval, nDCG@10 and recall@10 over the pool.

Every set's figures go into benchmarks/results/by_hand.json when they are there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from embsearch.codec import to_json
from embsearch.config.build import with_values
from embsearch.config.load import compose
from embsearch.config.schema import Config
from embsearch.evaluate.examine import Examined
from embsearch.history.final_table import BEST, DEFAULT, UNTUNED
from embsearch.history.folder import StudyFolder
from embsearch.model import pretrained
from embsearch.report.record import Record
from embsearch.tasks.catalogue import task_of
from embsearch.worker import Worker

RESULTS = Path(__file__).parent / "results" / "by_hand.json"
SHOWN = ("auc", "ndcg_10", "pool_ndcg_10", "pool_recall_10", "recall_1")
LR, BATCH, SCALE, WARMUP = 1e-4, 64, 20.0, 0.1


def words_of(folder: Path, home: Path, workers: int) -> list[str]:
    """Return the study of a set as the command line has it."""
    words = [
        "study=product_search", f"study.name={folder.name}", f"home={home}", f"launcher.workers={workers}",
        "stop.seconds=null", "track=none", "study.folder=null",
    ]  # fmt: skip
    judged = folder / "judgements.csv"
    if judged.exists():
        return [*words, f"data.path={judged}"]
    files = [folder / f"triplets_{split}.csv" for split in ("train", "valid", "test")]
    named = [
        f"data.{name}={file}" for name, file in zip(("train", "valid", "test"), files, strict=True)
    ]
    return [*words, "data=auto", "data.path=null", *named]


def by_hand(config: Config, data: Any, texts: int, out: Path) -> float:
    """Train sentence-transformers' recipe on so many texts; return the seconds it took."""
    from datasets import Dataset as Rows
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers

    model = pretrained.build(config.model)
    order = np.random.default_rng(0).permutation(len(data.train))
    columns = ("anchor", "positive", "negative")
    rows = Rows.from_dict(
        {c: [data.texts[i] for i in getattr(data.train, c)[order]] for c in columns}
    )
    steps = round(texts / len(columns) / BATCH)
    asked = SentenceTransformerTrainingArguments(
        str(out / "run"), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=LR,
        warmup_steps=round(WARMUP * steps), lr_scheduler_type="linear", seed=0, use_cpu=True,
        bf16=config.train.precision != "fp32", save_strategy="no", logging_strategy="no", report_to="none",
        disable_tqdm=True, dataloader_pin_memory=False, batch_sampler=BatchSamplers.NO_DUPLICATES,
    )  # fmt: skip
    began = time.monotonic()
    loss = MultipleNegativesRankingLoss(model, scale=SCALE)
    SentenceTransformerTrainer(model, asked, rows, loss=loss).train()
    model.save(str(out / "model"))
    return time.monotonic() - began


def measured(folder: Path, home: Path, workers: int, long: bool) -> dict[str, Any]:
    """Return the figures of one set."""
    words = words_of(folder, home, workers)
    command = [sys.executable, "-m", "embsearch.cli.main", "search", *words]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    record = Record(StudyFolder(compose(words)))
    config = with_values(record.config, {"home": str(home)})
    task, cache = task_of(config), home / "cache"
    place = task.prepare(config.data, cache)
    data, worker = task.load(place), Worker()
    rows = task.rows(data, "test")

    def test(label: str, model: Path | None) -> tuple[Examined, dict[str, float]]:
        keep = home / f"{folder.name}-{label.replace(' ', '_')}.npz"
        where = None if model is None else str(model)
        found = worker.evaluate(config, str(place), "test", where, full=True, keep=keep)
        return Examined.load(keep), {k: found.metrics[k] for k in SHOWN if k in found.metrics}

    best = record.best
    assert best is not None
    assert record.configuration is not None
    models: dict[str, Path | None] = {
        UNTUNED: None,
        DEFAULT: record.folder.trial(0) / "model",
        BEST: record.folder.trial(best.number) / "model",
    }
    texts = {"by hand": config.train.texts}
    if long:
        texts["by hand, the search's texts"] = record.texts
    took = {"search": seconds}
    for label, count in texts.items():
        out = home / "by_hand" / folder.name / str(count)
        took[label] = by_hand(config, data, count, out)
        models[label] = out / "model"
    found = {label: test(label, model) for label, model in models.items()}
    mine = found[BEST][0].answers
    gains = {
        label: to_json(task.gain(rows, mine, examined.answers, 1000, 0))
        for label, (examined, _) in found.items()
        if label != BEST
    }
    return {
        "models": {label: metrics for label, (_, metrics) in found.items()},
        "best over": gains,
        "winner": best.trial.params,
        "winner is": "a soup" if best.trial.is_soup else "one run",
        "of the given point": record.configuration.trial.given,
        "texts": {"search": record.texts, **texts},
        "seconds": {label: round(value) for label, value in took.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--home", type=Path, default=Path("by_hand_home"))
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for folder in asked.folders:
        found = measured(folder.resolve(), asked.home.resolve(), asked.workers, asked.long)
        results[folder.name] = found
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(folder.name, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
