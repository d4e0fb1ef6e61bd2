"""A whole search beside sentence-transformers' own: time to the same best validation AUC.

    python benchmarks/search.py                            # about half an hour; writes benchmarks/results/search.json
    python benchmarks/search.py --texts 1500 --trials 3    # does it run

Both search the space `small` on studies/product_search's rows with TPE: so many trials of so many texts, measured
at the same shares of them on the same validation rows.

Theirs: ``SentenceTransformerTrainer.hyperparameter_search(backend="optuna")`` in bf16, one process with both
threads, Optuna's median pruner handed over (the page that documents the search turns evaluation off, so that there is
nothing to prune by), evaluation by ``encode``, every run in MLflow; it keeps no model. Ours: ``embsearch
search`` as it comes, everything recorded, every trial's best model kept. Seconds count from the
start of each process, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import table

HERE = Path(__file__).parent
STARTUP = 5  # random trials before TPE models anything, on both sides
Seen = list[tuple[float, int, float]]  # seconds, trial, validation AUC


def words(texts: int, trials: int) -> list[str]:
    return ["study=product_search", "study.defaults=[]", f"train.texts={texts}", f"stop.trials={trials}",
            "stop.seconds=null", f"sampler.startup_trials={STARTUP}", "confirm.top_k=0"]  # fmt: skip


def ours(home: Path, texts: int, trials: int) -> tuple[Seen, float]:
    """Run ``embsearch search`` in a process of its own. Return what its logs say, and its seconds."""
    from embsearch.history.log import read_json as read_events

    command = [
        sys.executable,
        "-m",
        "embsearch.cli.main",
        "search",
        *words(texts, trials),
        f"home={home}",
    ]
    began, started = time.time(), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - started
    seen = []
    for path in sorted(home.glob("studies/*/trials/t*/events.jsonl")):
        number = int(path.parent.name[1:])
        for event in read_events(path):
            if event["kind"] == "measured":
                seen.append((event["time"] / 1000 - began, number, event["metrics"]["val/auc"]))
    return sorted(seen), took


def theirs(home: Path, texts: int, trials: int) -> tuple[Seen, float]:
    """Run their search in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--theirs",
        str(home),
        "--texts",
        str(texts),
        "--trials",
        str(trials),
    ]
    cores = str(len(os.sched_getaffinity(0)))
    environment = os.environ | {
        "OMP_NUM_THREADS": cores,
        "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
    }
    started = time.monotonic()
    subprocess.run(command, check=True, env=environment | {"STARTED": str(time.time())})
    return json.loads((home / "seen.json").read_text()), time.monotonic() - started


def their_search(home: Path, texts: int, trials: int) -> None:
    import optuna
    import torch
    from datasets import Dataset as Rows
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
    from sentence_transformers.sentence_transformer.losses import (
        MultipleNegativesRankingLoss,
        TripletDistanceMetric,
        TripletLoss,
    )
    from transformers import TrainerCallback

    from embsearch.config.load import compose
    from embsearch.data.dataset import Dataset, steps_of, subset, texts_of
    from embsearch.data.load import prepare_dataset
    from embsearch.evaluate.score import score, similarity
    from embsearch.model import pretrained
    from embsearch.train.optimizer import warmup_steps

    began = float(os.environ["STARTED"])
    config = compose(words(texts, trials))
    data = Dataset.load(prepare_dataset(config.data, home / "cache"))
    train, valid = config.train, subset(data.valid, config.evaluate.max_rows)
    ids = texts_of(valid)
    shown = [data.texts[i] for i in ids]
    columns = ("anchor", "positive", "negative")
    rows = Rows.from_dict({c: [data.texts[i] for i in getattr(data.train, c)] for c in columns})
    seen: Seen = []
    now: dict[str, Any] = {}

    def space(trial: optuna.Trial) -> dict[str, Any]:
        batch = trial.suggest_categorical("batch_size", [32, 64, 128])
        loss = trial.suggest_categorical("loss", ["triplet", "infonce"])
        how = (
            trial.suggest_float("margin", 0.05, 0.5)
            if loss == "triplet"
            else trial.suggest_float("temperature", 0.01, 0.1, log=True)
        )
        steps = steps_of(texts, data.train, batch)
        stops = {max(1, round(steps * share)) for share in config.evaluate.at}
        now.update(trial=trial.number, loss=loss, how=how, stops=stops)
        return {"learning_rate": trial.suggest_float("lr", 3e-5, 5e-4, log=True),
                "per_device_train_batch_size": batch, "max_steps": steps,
                "warmup_steps": warmup_steps(train, steps, min(stops))}  # fmt: skip

    def loss_of(model: Any) -> Any:
        if now.get("loss", "triplet") == "triplet":
            return TripletLoss(model, TripletDistanceMetric.COSINE, now.get("how", 0.3))
        return MultipleNegativesRankingLoss(model, scale=1 / now["how"])

    class Measure(SentenceEvaluator):
        def __call__(self, model: Any, *args: Any, **more: Any) -> dict[str, float]:
            with torch.autocast("cpu", torch.bfloat16):
                vectors = model.encode(shown, show_progress_bar=False)
            auc = score(valid, similarity(valid, ids, vectors))["auc"]
            seen.append((time.time() - began, now["trial"], auc))
            return {"auc": auc}

    class AtShares(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            control.should_evaluate = state.global_step in now["stops"]

    settings = SentenceTransformerTrainingArguments(
        str(home / "out"), max_steps=1, learning_rate=train.lr, weight_decay=train.l2,
        lr_scheduler_type=train.schedule, max_grad_norm=train.clip_norm, bf16=True, use_cpu=True, seed=train.seed,
        save_strategy="no", eval_strategy="no", logging_steps=10, report_to="mlflow", disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        None, settings, rows, loss=loss_of, evaluator=Measure(), callbacks=[AtShares()],
        model_init=lambda trial: pretrained.build(config.model, train.seed),
    )  # fmt: skip
    trainer.hyperparameter_search(
        space, compute_objective=lambda metrics: metrics["eval_auc"], n_trials=trials, direction="maximize",
        sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )  # fmt: skip
    (home / "seen.json").write_text(json.dumps(seen))


def first(seen: Seen, auc: float) -> float | None:
    """Return the seconds until a trial measured at least a value."""
    return next((seconds for seconds, _, value in seen if value >= auc), None)


def compare(texts: int, trials: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        mine, my_seconds = ours(Path(one), texts, trials)
        other, their_seconds = theirs(Path(two), texts, trials)
    goal = max(value for _, _, value in other)
    mine_at, theirs_at = first(mine, goal), first(other, goal)
    return {
        "trials": trials, "texts a trial": texts,
        "ours": {"seconds": my_seconds, "best": max(v for _, _, v in mine), "seconds to their best": mine_at},
        "theirs": {"seconds": their_seconds, "best": goal, "seconds to their best": theirs_at},
        "to their best": None if mine_at is None or theirs_at is None else theirs_at / mine_at,
        "whole search": their_seconds / my_seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--texts", type=int, default=9600)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--theirs", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.theirs:
        return their_search(asked.theirs, asked.texts, asked.trials)
    found = compare(asked.texts, asked.trials)
    names = ("torch", "transformers", "sentence-transformers", "optuna")
    made = {"command": f"python {' '.join(sys.argv)}", "cpus": os.cpu_count(), "python": platform.python_version(),
            **{name: version(name) for name in names}}  # fmt: skip
    if (asked.texts, asked.trials) == (9600, 12):
        (HERE / "results" / "search.json").write_text(
            json.dumps({"made_with": made, **found}, indent=1) + "\n"
        )
        table.main()
    print(json.dumps(found, indent=1))
    return None


if __name__ == "__main__":
    main()
