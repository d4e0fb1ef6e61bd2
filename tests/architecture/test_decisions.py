"""Decision pages are short and alike: question, decision, rejected, evidence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[2] / "docs" / "decisions").glob("*.md"))
FIRST = (r"(The q|Q)uestion", r"Deci(sion|ded)")
LINES = 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_decision_page_has_its_sections_and_is_short(page):
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.M)

    assert re.match(r"# \d+\. \S", text)
    assert len(text.splitlines()) <= LINES, "long measurements belong into benchmarks/results"
    assert re.fullmatch(FIRST[0], headings[0])
    assert re.fullmatch(FIRST[1], headings[1])
    assert {"Rejected", "Evidence"} <= set(headings)


def test_decisions_are_numbered_without_gaps():
    numbers = [int(page.name[:4]) for page in PAGES]
    assert numbers == list(range(1, len(PAGES) + 1))
