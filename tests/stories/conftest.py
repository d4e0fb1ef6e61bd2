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


@pytest.fixture(scope="session")
def calm(tmp_path_factory, tiny_bert, judgements_csv):
    """An undisturbed study of six trials, in a process of its own: one worker, one thread."""
    home = Home(tmp_path_factory.mktemp("calm") / "home", tiny_bert, judgements_csv)
    process = home.start("search")
    home.out, home.err = process.communicate()
    assert process.returncode == 0, home.err
    return home
