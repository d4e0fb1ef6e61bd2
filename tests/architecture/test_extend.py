"""docs/development.md, done: a copy of the project gets a new setting and a new objective.

Nothing else of it is edited.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "development.md"


class Project:
    """A copy of the files that a contributor edits. What is edited or made is counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.touched: set[str] = set()
        for name in ("embsearch", "conf", "studies", "docs"):
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )

    def insert(self, file: str, before: str, text: str) -> None:
        """Put ``text`` before a line that a file has once."""
        path = self.folder / file
        old = path.read_text(encoding="utf-8")
        assert old.count(before) == 1, f"{file} has not one {before!r}"
        path.write_text(old.replace(before, text + before), encoding="utf-8")
        self.touched.add(file)

    def write(self, file: str, text: str) -> None:
        """Make a new file."""
        path = self.folder / file
        assert not path.exists()
        path.write_text(text, encoding="utf-8")
        self.touched.add(file)

    def read(self, file: str) -> str:
        """The text of a file."""
        return (self.folder / file).read_text(encoding="utf-8")

    def python(self, script: str) -> str:
        """Run a script on the copy; what it printed, errors among it."""
        environment = os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=self.folder, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def shown(section: str) -> list[str]:
    """The blocks of code of a section of the page."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w*\n(.*?)```", text, re.S)


SETTING = """
import runpy
from embsearch.cli.main import main
from embsearch.config.load import compose, diff, identity
from embsearch.errors import ConfigError
from embsearch.hpo.space import parse

assert main(["search", "train.betas=1.5", "train.lr=0"]) == 2
assert main(["search", "train.beats=0.8"]) == 2
assert main(["train", "--help"]) == 0
print(*diff(identity(compose()), identity(compose(["train.betas=0.8"]))))
try:
    parse({"train.betas": {"low": 0.8, "high": 0.9}}, compose())
except ConfigError as error:
    print(error)
runpy.run_path("docs/make_reference.py", run_name="__main__")
"""


def test_a_setting_is_two_files(project: Project) -> None:
    field, line = shown("A setting")[:2]
    project.insert("embsearch/config/schema.py", "    clip_norm: float", field)
    project.insert("conf/train/default.yaml", "clip_norm:", line)

    assert len(project.touched) == 2
    said = project.python(SETTING)
    for expected in (
        "train.betas=1.5: must be at least 0 and below 1; 0.9 is usual",
        "train.lr=0.0: must be above 0",
        "Did you mean 'train.betas'?",
        "  train.betas=0.9 ",
        "train.betas: 0.9 -> 0.8",
        "space.train.betas: must be equal for all trials",
    ):
        assert expected in said
    row = "| `train.betas` | number | `0.9` | decay of AdamW's mean of gradients | fixed |"
    assert row in project.read("docs/reference/config.md")


OBJECTIVE = """
import runpy

import numpy as np
import torch

from embsearch.cli.main import main
from embsearch.config.load import compose
from embsearch.data.batch import Batch
from embsearch.data.dataset import Triplets
from embsearch.errors import ConfigError
from embsearch.objectives.build import build
from embsearch.objectives.preflight import preflight
from embsearch.hpo.space import parse

config = compose(["objective=hinge", "objective.margin=0.4"])
loss, one = build(config.objective), torch.tensor
vectors = torch.nn.Parameter(one([[1.0, 0.0], [0.0, 1.0], [1.0, 0.2]]))
batch = Batch(text_D=np.arange(3), anchor_B=one([0]), positive_B=one([1]), negative_B=one([2]),
              weight_B=one([1.0]), title_C=one([1, 2]), known_BC=one([[True, False]]))
optimizer = torch.optim.AdamW([vectors], lr=0.05)
before = loss(vectors, batch)
before.backward()
optimizer.step()
print(type(loss).__name__, loss.margin, bool(loss(vectors, batch) < before))

parse({"objective.name": {"choices": ["triplet", "hinge"]}}, compose(["objective=triplet"]))
assert main(["search", "objective.name=hing"]) == 2
column = np.array([[0, 2, -1], [1, 3, -1]], dtype=np.int32).T
try:
    preflight(config.objective, Triplets(*column, np.ones(2, dtype=np.float32)), 2)
except ConfigError as error:
    print(error)
runpy.run_path("docs/make_reference.py", run_name="__main__")
"""


def test_an_objective_is_a_file_and_a_line(project: Project) -> None:
    module, line, conf = shown("An objective")[:3]
    project.write("embsearch/objectives/hinge.py", module)
    project.insert("embsearch/config/catalogue.py", '    "bce": Entry(', line)

    assert len(project.touched) == 2
    project.write("conf/objective/hinge.yaml", conf)
    said = project.python(OBJECTIVE)
    for expected in (
        "Hinge 0.4 True",
        "expected one of auto, triplet, contrastive, infonce, hinge, bce, supcon, listwise, "
        "margin_mse, kl, cosent, angle, cosine_mse. Did you mean 'hinge'?",
        "objective.name=hinge: none of the 2 training rows has a negative (worse) title",
    ):
        assert expected in said
    row = "| `objective.name` | `auto`, `triplet`, `contrastive`, `infonce`, `hinge`, `bce`, `supcon`,"
    assert row in project.read("docs/reference/config.md")
