"""What the package imports it declares: nothing is there only because something else brings it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BROUGHT = {"triton": "torch's CUDA builds bring it; without a GPU nothing asks for it"}


def name_of(requirement: str) -> str:
    """The normalised name of a distribution, as PEP 503 has it."""
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def declared() -> set[str]:
    """Every distribution that a user's installation may name: dependencies and extras, not dev."""
    extras = PROJECT["optional-dependencies"]
    lists = [PROJECT["dependencies"], *(extras[name] for name in extras if name != "dev")]
    return {name_of(one) for requirements in lists for one in requirements}


def imported(file: Path) -> Iterator[str]:
    """The top-level modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def undeclared(folder: Path, known: set[str]) -> dict[str, list[str]]:
    """Foreign modules that no declared distribution provides, with the files that import them."""
    owners = packages_distributions()
    ours = {*sys.stdlib_module_names, "embsearch", *BROUGHT}
    found: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("*.py")):
        for module in set(imported(file)) - ours:
            if not {name_of(one) for one in owners.get(module, [module])} & known:
                found.setdefault(module, []).append(str(file.relative_to(folder)))
    return found


def test_every_import_of_the_package_is_declared():
    assert undeclared(ROOT / "embsearch", declared()) == {}


@pytest.mark.parametrize("statement", ["import yaml", "from yaml import safe_load as load"])
def test_an_import_that_is_not_declared_is_found_wherever_it_stands(tmp_path, statement):
    (tmp_path / "one.py").write_text(f"import os\n\n\ndef f():\n    {statement}\n")
    assert undeclared(tmp_path, declared() - {"pyyaml"}) == {"yaml": ["one.py"]}
    assert undeclared(tmp_path, declared()) == {}


def test_the_versions_of_the_tests_are_written_down_for_every_dependency():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {name_of(line) for line in lines if "==" in line and not line.startswith("#")}
    assert declared() - pinned == set()
