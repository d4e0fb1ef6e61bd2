"""The generated pages are what the script makes, every setting and error class is described, and the messages of
the troubleshooting page are those of the code."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from embsearch import errors
from embsearch.config.settings import settings

ROOT = Path(__file__).parents[2]
REFERENCE, GUIDE = ROOT / "docs" / "reference", ROOT / "docs" / "guide"
ERRORS = {
    name: cls
    for name, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.EmbsearchError)
}


def load_script():
    spec = importlib.util.spec_from_file_location(
        "make_reference", ROOT / "docs" / "make_reference.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_reference = load_script()


@pytest.mark.parametrize("name", make_reference.PAGES)
def test_a_generated_page_is_what_the_script_makes(name):
    kept, made = (REFERENCE / name).read_text(encoding="utf-8"), make_reference.PAGES[name]()
    differ = [line for line in made.splitlines() if line not in kept.splitlines()]
    assert kept == made, (
        f"docs/reference/{name} is out of date, run 'make reference'. New there: {differ[:5]}"
    )


def test_every_setting_says_what_it_means():
    missing = [path for path, one in settings().items() if not one.setting.about]
    assert not missing, (
        f"say what these mean, with their unit, beside the field: {', '.join(missing)}"
    )


def test_every_error_class_is_in_the_reference_with_its_exit_code():
    text = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    rows = {name: int(code) for name, code in re.findall(r"^\| `(\w+)` \| (\d+) \|", text, re.M)}
    assert rows == {name: cls.exit_code for name, cls in ERRORS.items()}


def test_the_tree_of_error_classes_is_drawn_as_it_is():
    def tree(cls, depth=0):
        yield f"{'  ' * depth}{cls.__name__}"
        for child in ERRORS.values():
            if child.__bases__ == (cls,):
                yield from tree(child, depth + 1)

    drawn = re.search(
        r"^```text\n(.*?)^```", (REFERENCE / "errors.md").read_text(encoding="utf-8"), re.S | re.M
    )[1]
    assert sorted(drawn.splitlines()) == sorted(tree(errors.EmbsearchError))


def test_every_message_of_the_troubleshooting_page_is_one_of_the_code():
    templates = "\n".join(
        t for file in sorted((ROOT / "embsearch").rglob("*.py")) for t in texts_in(file)
    )
    text = (GUIDE / "troubleshooting.md").read_text(encoding="utf-8")
    shown = [cell for cell in re.findall(r"^\| (`[^|]+) \|", text, re.M) if "(Hydra)" not in cell]
    parts = [
        part.strip()
        for cell in shown
        for code in re.findall(r"`([^`]+)`", cell)
        for part in code.split("…")
    ]
    assert len(shown) > 50
    assert [part for part in parts if part and part not in templates] == []


def texts_in(file: Path):
    """Every text of a module, what is formatted into it standing as …; adjacent literals are one."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
