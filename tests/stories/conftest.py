"""A home, and one study in it that nothing disturbed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # home.py; pytest's importlib mode adds no folder

from home import Home


@pytest.fixture
def home(tmp_path, tiny_bert, judgements_csv):
    return Home(tmp_path / "home", tiny_bert, judgements_csv)


@pytest.fixture
def played(tmp_path, judgements_csv):
    """A home whose studies are played from curves on a clock of their own: nothing is trained, no encoder is read."""
    return Home(tmp_path / "home", "no-encoder", judgements_csv, "launcher=replay")


@pytest.fixture(scope="session")
def calm(once, tiny_bert, judgements_csv):
    """An undisturbed study of six trials, in a process of its own: one worker, one thread."""

    def fill(folder):
        process = Home(folder / "home", tiny_bert, judgements_csv).start("search")
        out, err = process.communicate()
        assert process.returncode == 0, err
        (folder / "out").write_text(out)

    folder = once("calm", fill)
    home = Home(folder / "home", tiny_bert, judgements_csv)
    home.out = (folder / "out").read_text()
    return home


@pytest.fixture(scope="module")
def calmly_played(tmp_path_factory, judgements_csv):
    """An undisturbed study of six trials that are played."""
    home = Home(
        tmp_path_factory.mktemp("played") / "home", "no-encoder", judgements_csv, "launcher=replay"
    )
    assert home.run("search") == 0
    return home
