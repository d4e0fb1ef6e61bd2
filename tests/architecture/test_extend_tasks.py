"""A task with its own metric and a tower of its own, added through the seams alone.

Items are words with one letter that says their class. A model is right where the nearest class centre
is the row's class: accuracy. The tower is a table of letters.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embsearch.config.schema import (
    Config,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    ObjectiveConfig,
    PromoteConfig,
    TrainConfig,
)
from embsearch.data.dataset import Ids, Triplets
from embsearch.errors import ConfigError
from embsearch.evaluate.auc import Vectors
from embsearch.evaluate.bootstrap import mean_gain
from embsearch.evaluate.examine import Examined
from embsearch.evaluate.score import unit_vectors
from embsearch.launch.base import encode
from embsearch.model.device import choose
from embsearch.model.tower import Tower
from embsearch.registry import gates
from embsearch.report.result import result_table, warnings
from embsearch.tasks import catalogue
from embsearch.tasks.base import Answers, Metric, Task
from embsearch.trial import trial
from embsearch.values import PRIMARY, Interval, primary_interval
from embsearch.worker import Worker

CPU = choose("cpu", "fp32")

# file 1 of the task: rows and metric


@dataclass(frozen=True)
class ClassRows:
    item: Ids  # (M,)
    label: Ids  # (M,)

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True)
class ClassData:
    texts: tuple[str, ...]
    train: Triplets
    known: Ids
    fingerprint: str
    valid: ClassRows
    test: ClassRows


class NearestClass(Task[ClassData, ClassRows]):
    name, kind = "classes", "letters"
    primary = Metric("accuracy", "accuracy")

    def prepare(self, config: DataConfig, cache: Path) -> Path:
        folder = cache / "classes"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rows.json").write_text(Path(str(config.path)).read_text())
        return folder

    def load(self, folder: Path) -> ClassData:
        found = json.loads((folder / "rows.json").read_text())
        texts, labels = tuple(text for text, _ in found), np.array([label for _, label in found])
        rows = ClassRows(np.arange(len(texts), dtype=np.int32), labels.astype(np.int32))
        return ClassData(texts, _triplets(labels), np.empty((0, 2), np.int32), "f00", rows, rows)

    def rows(self, data: ClassData, split: str, most: int = 0) -> ClassRows:
        return getattr(data, split)

    def sample(self, rows: ClassRows, groups: int) -> ClassRows:
        return self.select(rows, np.arange(len(rows)) < groups)

    def select(self, rows: ClassRows, kept_M: NDArray[np.bool_]) -> ClassRows:
        return ClassRows(rows.item[kept_M], rows.label[kept_M])

    def items(self, rows: ClassRows) -> Ids:
        return np.unique(rows.item)

    def row_lines(self, data: ClassData, rows: ClassRows) -> Iterator[str]:
        for item, label in zip(rows.item, rows.label, strict=True):
            yield f"{data.texts[item]}\0{label}"

    def answers(self, rows: ClassRows, ids_T: Ids, vectors_TE: Vectors) -> Answers:
        unit_ME = unit_vectors(vectors_TE)[np.searchsorted(ids_T, rows.item)]
        classes = np.unique(rows.label)
        centres = np.stack([unit_ME[rows.label == label].mean(axis=0) for label in classes])
        nearest = classes[(unit_ME @ unit_vectors(centres).T).argmax(axis=1)]
        return (nearest == rows.label).astype(np.float32)

    def metrics(self, rows: ClassRows, answers_M: Answers) -> dict[str, float]:
        return {"accuracy": float(answers_M.mean(dtype=np.float64))}

    def interval(
        self, rows: ClassRows, answers_M: Answers, draws: int, seed: int, level: float = 0.95
    ) -> Interval:
        return mean_gain(answers_M, np.zeros(len(rows)), draws, seed, level)

    def gain(
        self,
        rows: ClassRows,
        mine_M: Answers,
        theirs_M: Answers,
        draws: int,
        seed: int,
        level: float = 0.95,
    ) -> Interval:
        return mean_gain(mine_M, theirs_M, draws, seed, level)


def _triplets(labels: np.ndarray) -> Triplets:
    """For each item one of its own class and one of another."""
    same = [
        next(j for j in range(len(labels)) if labels[j] == own and j != i)
        for i, own in enumerate(labels)
    ]
    other = [next(j for j in range(len(labels)) if labels[j] != own) for own in labels]
    anchor = np.arange(len(labels), dtype=np.int32)
    ones = np.ones(len(labels), dtype=np.float32)
    return Triplets(anchor, np.array(same, np.int32), np.array(other, np.int32), ones)


# file 1 of the tower: letters to vectors


@dataclass(frozen=True)
class Letters:
    ids: tuple[Tensor, ...]

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(one) for one in self.ids])


class LetterTower(Tower):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.table = nn.Embedding(128, width)

    @classmethod
    def build(cls, config: ModelConfig, seed: int) -> LetterTower:
        torch.manual_seed(seed)
        return cls()

    @classmethod
    def load(cls, folder: str | Path, device: str, trust_remote_code: bool = False) -> LetterTower:
        tower = cls()
        tower.load_state_dict(torch.load(Path(folder) / "letters.pt", weights_only=True))
        return tower

    def prepare(self, data: ClassData, cache: Path) -> Letters:
        return Letters(tuple(torch.tensor([ord(c) % 128 for c in text]) for text in data.texts))

    def encode(
        self, inputs: Letters, ids: Ids, alone: bool = False, shared: object = None
    ) -> Tensor:
        return torch.stack([self.table(inputs.ids[i]).mean(0) for i in ids])

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        torch.save(self.state_dict(), folder / "letters.pt")


# files 2 and 3: a line in each catalogue, and the format's name in the config's schema


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.TASKS, "classes", f"{__name__}:NearestClass")
    monkeypatch.setitem(catalogue.FORMATS, "classes", "classes")
    monkeypatch.setitem(catalogue.TOWERS, "letters", f"{__name__}:LetterTower")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    random = np.random.default_rng(0)
    noise = ["".join(random.choice(list("abcdefghij"), 12)) for _ in range(60)]
    rows = [
        (f"{noise[n]}{'xyz'[n % 3]}", n % 3) for n in range(60)
    ]  # the last letter alone says the class
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    data = replace(DataConfig(path=str(tmp_path / "rows.json")), format="classes")
    return Config(
        data=data,
        objective=ObjectiveConfig(name="triplet", margin=0.5),
        train=TrainConfig(
            texts=60 * 3 * 60, batch_size=60, lr=0.1, warmup_steps=0, precision="fp32"
        ),
        evaluate=EvaluateConfig(objective="accuracy", at=(0.1, 1.0), draws=200),
        home=str(tmp_path / "home"),
        device="cpu",
    )


def test_a_task_with_its_own_metric_trains_a_tower_of_its_own_and_is_judged(
    extended, config, tmp_path
):
    task = catalogue.task_of(config)
    cache = task.prepare(config.data, tmp_path / "cache")
    worker = Worker()
    data = worker.dataset(config, str(cache))
    untuned = encode(
        worker.evaluate(config, str(cache), "test", None, full=True, keep=tmp_path / "untuned.npz")
    )
    tower, inputs = worker._encoder(config, data, cache, CPU)
    measured = list(trial(config, data, inputs, tower, CPU, tmp_path / "t"))
    tuned = encode(
        worker.evaluate(
            config,
            str(cache),
            "test",
            str(tmp_path / "t" / "model"),
            full=True,
            keep=tmp_path / "tuned.npz",
        )
    )

    assert [m.rung for m in measured] == [1, 2]
    assert set(measured[-1].metrics) == {"val/accuracy"}
    assert tuned["metrics"]["accuracy"] == max(m.metrics["val/accuracy"] for m in measured)
    assert tuned["metrics"]["accuracy"] > untuned["metrics"]["accuracy"]
    assert primary_interval(tuned).value == tuned["metrics"]["accuracy"]
    assert set(tuned) == {
        "kind",
        "metrics",
        PRIMARY,
        "segments",
        "readings",
        "compute",
        "seconds",
        "encoders",
    }

    rows = task.rows(data, "test")
    before, after = (Examined.load(tmp_path / f"{name}.npz") for name in ("untuned", "tuned"))
    assert task.fits(rows, before)
    found = gates.quality_gates(
        task,
        rows,
        after.similarity,
        [gates.Rival("untuned encoder", before.similarity)],
        PromoteConfig(draws=200, min_auc=0.5),
    )
    assert [(gate.name, gate.passed) for gate in found] == [
        ("gain", True), ("floor", True), ("ranking", True), ("segments", True),
    ]  # fmt: skip
    assert found[1].words.startswith("test accuracy ")
    assert found[0].facts["their_accuracy"] == pytest.approx(untuned["metrics"]["accuracy"])

    table = [
        {
            "label": label,
            "trial": None,
            "validation": None,
            "split": "test",
            "test": one["metrics"],
            PRIMARY: one[PRIMARY],
        }
        for label, one in (("untuned encoder", untuned), ("best trial", tuned))
    ]
    heads = [str(column.header) for column in result_table(table, "accuracy", task).columns]
    assert heads == ["", "valid\naccuracy", "test accuracy\n(95 %)"]
    assert warnings(table, task) == []
    assert warnings(
        table[::-1]
        and [table[1] | {"label": "untuned encoder"}, table[0] | {"label": "best trial"}],
        task,
    ) == ["accuracy did not rise: the untuned encoder is as good"]


def test_augmentation_of_items_that_are_no_texts_is_refused(extended, config, tmp_path):
    config = replace(
        config, train=replace(config.train, augment=replace(config.train.augment, drop=0.5))
    )
    task = catalogue.task_of(config)
    cache = task.prepare(config.data, tmp_path / "cache")
    worker = Worker()
    data = worker.dataset(config, str(cache))
    tower, inputs = worker._encoder(config, data, cache, CPU)
    with pytest.raises(ConfigError, match=r"train\.augment changes texts"):
        next(trial(config, data, inputs, tower, CPU, tmp_path / "t"))


def test_a_format_that_no_task_has_is_refused_with_the_nearest_one(config):
    with pytest.raises(ConfigError, match=r"data\.format=click is not one of .*clicks"):
        catalogue.task_of(replace(config, data=replace(config.data, format="click")))


def test_tasks_load_no_torch():
    lines = [
        "import sys",
        "from embsearch.tasks.catalogue import task_named",
        "task_named('retrieval')",
        "print('torch' in sys.modules)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
