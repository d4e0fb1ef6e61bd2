"""Learning curves of real fine-tunes, the same configurations on every data set: what searches are played on.

    python benchmarks/record_curves.py DATA --set en_pricerunner      # goes on where it stopped; --configs 66
    python benchmarks/record_curves.py --table                        # what embsearch ships of them

DATA is a folder with a folder a set: judgements.csv, or triplets_{train,valid,test}.csv. Writes
benchmarks/data/curves/SET.json after every run. --table writes embsearch/hpo/recorded.json: the mean of each
configuration's last validation AUC, in logits, from which searches begin on other data.

A run is the product's own trial at a quarter of a study's size: two layers (the first and the last) of MiniLM-L6,
3,600 texts, batches of 8, 16 and 32 where the study has 14,400 texts and batches of 32, 64 and 128: as many steps as
there. Files name the study's batch sizes. Validation metrics are measured at 0.1, 0.3, 0.6 and 1 of the texts, test
metrics at the last two of these.
The configurations are the default, the known-good one, and random draws of the ranges below; the first seven are run
with three seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from embsearch import trial as product
from embsearch.config.load import compose
from embsearch.config.schema import Config, ModelConfig
from embsearch.data.load import prepare_dataset
from embsearch.errors import Diverged
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.tasks.catalogue import task_of
from embsearch.train import checkpoint
from embsearch.worker import Worker

OUT = Path(__file__).parent / "data" / "curves"
TABLE = Path(__file__).parents[1] / "embsearch" / "hpo" / "recorded.json"
SCALE = 4  # a study has so many times the texts and the batch size
TEXTS, AT = 14400 // SCALE, [0.1, 0.3, 0.6, 1.0]
VALID_ROWS, TEST_ROWS = 600, 900
LAYERS = (0, 5)
LENGTH = {"en_epqa": 32}  # tokens a text; others 24
KNOWN = [
    {"objective.name": "triplet", "objective.margin": 0.3, "train.lr": 1e-4, "train.batch_size": 64,
     "train.l2": 0.01, "train.warmup": 0.1, "train.schedule": "linear", "model.freeze_layers": 0},
    {"objective.name": "infonce", "objective.temperature": 0.05, "objective.symmetric": False, "train.lr": 2e-4,
     "train.batch_size": 64, "train.l2": 0.01, "train.warmup": 0.1, "train.schedule": "linear",
     "model.freeze_layers": 0},
]  # fmt: skip
REPEATED = 7  # configurations that are run with three seeds


def draw(dice: np.random.Generator) -> dict[str, Any]:
    """Draw a configuration. The upper end of ``objective.margin`` and of ``train.warmup`` are the default space's."""

    def log(low: float, high: float) -> float:
        return float(f"{math.exp(dice.uniform(math.log(low), math.log(high))):.4g}")

    name = str(dice.choice(["infonce", "triplet"]))
    found: dict[str, Any] = {
        "objective.name": name,
        "train.lr": log(1e-5, 1e-3),
        "train.batch_size": int(dice.choice([32, 64, 128])),
        "train.l2": log(1e-4, 1e-1),
        "train.warmup": round(float(dice.uniform(0, 0.3)), 3),
        "train.schedule": str(dice.choice(["linear", "cosine"])),
        "model.freeze_layers": int(dice.integers(0, 2)),
    }
    if name == "infonce":
        found["objective.temperature"] = log(0.01, 0.1)
        found["objective.symmetric"] = bool(dice.integers(0, 2))
    else:
        found["objective.margin"] = round(float(dice.uniform(0.05, 0.5)), 3)
    return found


def plan(configs: int) -> list[tuple[int, int]]:
    """Return (number of the configuration, seed) of every run: the first seed of all, then the others."""
    return [(n, 0) for n in range(configs)] + [(n, s) for s in (1, 2) for n in range(REPEATED)]


SPACE = {
    "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "train.batch_size": {"low": 32, "high": 128, "log": True},
    "train.l2": {"low": 1e-4, "high": 1e-1, "log": True},
    "train.warmup": {"low": 0.0, "high": 0.3},
    "train.schedule": {"choices": ["linear", "cosine"]},
    "model.freeze_layers": {"low": 0, "high": 1},
    "objective.name": {"choices": ["infonce", "triplet"]},
    "objective.temperature": {"low": 0.01, "high": 0.1, "log": True, "when": {"objective.name": "infonce"}},
    "objective.symmetric": {"choices": [False, True], "when": {"objective.name": "infonce"}},
    "objective.margin": {"low": 0.05, "high": 0.5, "when": {"objective.name": "triplet"}},
}  # fmt: skip


def write_table() -> None:
    """Write what embsearch ships of the curves: configurations that came to an end on every set."""
    curves = {path.stem: json.loads(path.read_text()) for path in sorted(OUT.glob("*.json"))}
    ended = {name: ends(curve["runs"]) for name, curve in curves.items()}
    common = sorted(set.intersection(*map(set, ended.values())))
    table = {
        "space": SPACE,
        "configurations": [next(iter(curves.values()))["configs"][number] for number in common],
        "values": {name: [round(v[n], 4) for n in common] for name, v in ended.items()},
    }
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


def ends(runs: list[dict[str, Any]]) -> dict[int, float]:
    """Return by configuration the mean of its last validation AUC in logits."""
    found: dict[int, list[float]] = {}
    for run in runs:
        if not run["failure"]:
            auc = run["val"][-1]["auc"]
            found.setdefault(run["config"], []).append(math.log(auc / (1 - auc)))
    return {number: statistics.fmean(values) for number, values in found.items()}


def cut(folder: Path) -> Path:
    """Save MiniLM-L6 with two of its layers."""
    if not (folder / "modules.json").exists():
        model = pretrained.load(pretrained.find(ModelConfig()))
        base = model[0].auto_model
        base.encoder.layer = torch.nn.ModuleList([base.encoder.layer[n] for n in LAYERS])
        base.config.num_hidden_layers = len(LAYERS)
        pretrained.save(model, folder)
    return folder


class Recorder:
    """Runs configurations on one data set."""

    def __init__(self, data: Path, name: str, work: Path) -> None:
        judged = (data / name / "judgements.csv").exists()
        files = (
            [f"data.path={data / name / 'judgements.csv'}"]
            if judged
            else [
                f"data.{s}={data / name / f'triplets_{s}.csv'}" for s in ("train", "valid", "test")
            ]
        )
        self.words = [
            "device=cpu", f"home={work}", f"study.name={name}", "model=custom", f"model.path={cut(work / 'cut')}",
            f"data={'judgements' if judged else 'triplets'}", *files, "model.dropout=0",
            f"model.max_length={LENGTH.get(name, 24)}", f"train.texts={TEXTS}", f"evaluate.max_rows={VALID_ROWS}",
            f"evaluate.at={AT}".replace(" ", ""),
        ]  # fmt: skip
        config = compose(self.words)
        self.cache = prepare_dataset(config.data, work / "cache")
        self.worker, self.task = Worker(), task_of(config)
        self.data = self.worker.dataset(config, str(self.cache))
        self.compute = choose("cpu", "auto")
        self.valid = self.task.rows(self.data, "valid", VALID_ROWS)
        self.test = self.task.rows(self.data, "test", TEST_ROWS)

    def facts(self) -> dict[str, Any]:
        """Return what the curves were recorded with, and the untuned encoder's metrics."""
        encoder, inputs = self.worker._encoder(
            compose(self.words), self.data, self.cache, self.compute
        )
        config = compose(self.words)
        measure = lambda rows: product.measure(  # noqa: E731
            self.task, encoder, inputs, rows, self.compute, config.evaluate, "no step"
        )
        return {
            "model": f"layers {LAYERS} of all-MiniLM-L6-v2, no dropout", "texts": TEXTS, "scale": SCALE, "at": AT,
            "rows": {"train": len(self.data.train), "valid": len(self.valid), "test": len(self.test)},
            "untuned": {"val": chosen(measure(self.valid)), "test": chosen(measure(self.test))},
            "runs": [],
        }  # fmt: skip

    def config(self, point: dict[str, Any], seed: int) -> Config:
        steps = max(1, TEXTS * SCALE // (3 * point["train.batch_size"]))
        warmup = min(int(point["train.warmup"] * steps), int(AT[0] * steps))
        settings = point | {"train.batch_size": point["train.batch_size"] // SCALE}
        settings = {k: v for k, v in settings.items() if k != "train.warmup"}
        words = [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in settings.items()]
        return compose([*self.words, *words, f"train.seed={seed}", f"train.warmup_steps={warmup}"])

    def run(self, point: dict[str, Any], seed: int) -> dict[str, Any]:
        """Train to the end. Return the metrics at every evaluation, on both splits."""
        config = self.config(point, seed)
        encoder, inputs = self.worker._encoder(config, self.data, self.cache, self.compute)
        found: dict[str, Any] = {"val": [], "test": [], "failure": ""}
        began, folder = time.process_time(), Path(tempfile.mkdtemp())

        def nothing(*args: Any, **more: Any) -> None:
            """Save no model and no checkpoint. A mock would keep what it is called with."""

        try:
            with (
                patch.object(checkpoint, "save", nothing),
                patch.object(pretrained, "put", nothing),
                patch.object(product.Keeper, "save", nothing),
            ):
                for at in product.trial(config, self.data, inputs, encoder, self.compute, folder):
                    found["val"].append(chosen({k[4:]: v for k, v in at.metrics.items()}))
                    if at.rung > 2:
                        measured = product.measure(
                            self.task,
                            encoder,
                            inputs,
                            self.test,
                            self.compute,
                            config.evaluate,
                            "a step",
                        )
                        found["test"].append(chosen(measured))
                        encoder.train()
        except Diverged as error:
            found["failure"] = str(error)
        finally:
            shutil.rmtree(folder)
        return found | {"cpu": round(time.process_time() - began, 1)}


def chosen(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics that are kept, rounded."""
    return {name: round(metrics[name], 5) for name in ("auc", "ndcg_10") if name in metrics}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--set")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--configs", type=int, default=66)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "curves")
    asked = parser.parse_args()
    if asked.table:
        write_table()
        return
    if asked.data is None or asked.set is None:
        parser.error("expected DATA and --set, or --table")
    torch.set_num_threads(1)
    dice = np.random.default_rng(20261129)
    configs = (KNOWN + [draw(dice) for _ in range(asked.configs)])[: asked.configs]
    recorder = Recorder(asked.data, asked.set, asked.work)
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{asked.set}.json"
    found = json.loads(path.read_text()) if path.exists() else recorder.facts()
    there = {(run["config"], run["seed"]) for run in found["runs"]}
    for number, seed in plan(asked.configs):
        if (number, seed) in there:
            continue
        run = {"config": number, "seed": seed} | recorder.run(configs[number], seed)
        found["runs"].append(run)
        found["configs"] = configs
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(found))
        os.replace(draft, path)
        print(number, seed, [m["auc"] for m in run["test"]], run["cpu"], run["failure"], flush=True)


if __name__ == "__main__":
    main()
