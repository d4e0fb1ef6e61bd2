"""Every command that the documentation shows composes, and every file it points to is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from embsearch.cli.main import main
from embsearch.cli.verbs import VERBS
from embsearch.config.load import compose
from embsearch.hpo.space import parse

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("studies/*/README.md")]
)
VERB = "|".join(sorted((verb.name for verb in VERBS), key=len, reverse=True))


def commands():
    for page in PAGES:
        for block in re.findall(
            r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M
        ):
            for line in block.replace("\\\n", " ").splitlines():
                found = re.search(rf"\bembsearch ({VERB})( .*|$)", line)
                words = found and shlex.split(found[2], comments=True)
                if found and not {"...", "--help", "--info"} & set(words) and "2>" not in line:
                    words = words[: words.index("|")] if "|" in words else words
                    yield pytest.param(
                        page,
                        [*found[1].split(), *words],
                        id=f"{page.name}: {found[0].strip()}"[:90],
                    )


def commands_once():
    """Yield each command once, with the first page that shows it."""
    seen = set()
    for shown in commands():
        words = tuple(shown.values[1])
        if words not in seen:
            seen.add(words)
            yield shown


def searches():
    """Yield the settings of each search and each plan once."""
    seen = set()
    for shown in commands_once():
        verb, *words = shown.values[1]
        if verb in ("search", "plan") and tuple(words) not in seen:
            seen.add(tuple(words))
            yield words


@pytest.fixture
def shown_studies(tmp_path, monkeypatch):
    """A working directory with the studies that pages write down, and those that are shipped."""
    monkeypatch.chdir(tmp_path)
    for study in (ROOT / "studies").iterdir():
        (tmp_path / "studies").mkdir(exist_ok=True)
        (tmp_path / "studies" / study.name).symlink_to(study)
    for page in PAGES:
        for name, text in re.findall(
            r"^```yaml\n(?:# embsearch search study=(\w+)\n)(.*?)^```",
            page.read_text(),
            re.S | re.M,
        ):
            (tmp_path / "studies" / name).mkdir()
            (tmp_path / "studies" / name / "study.yaml").write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "words"), list(commands_once()))
@pytest.mark.usefixtures("shown_studies")
def test_a_command_that_is_shown_composes(page, words, capsys):
    if "--cfg" not in words:
        words = [*words, "--cfg", "job"]
    assert main(words) == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("words", list(searches()), ids=" ".join)
@pytest.mark.usefixtures("shown_studies")
def test_a_search_that_is_shown_has_a_space_without_faults(words):
    if not any(word.startswith("--") for word in words):
        config = compose(words)
        parse(config.space, config)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_no_place_left_to_fill(page):
    """A word in capitals that stands where figures or a sentence were meant to come."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
    left = re.findall(
        r"^\W*[A-Z][A-Z_]{3,}\W*$|: [A-Z][A-Z_]{5,}\.?$|\b(?:TODO|TBD|FIXME|XXX)\b|\b\w+_RESULT\b",
        text,
        re.M,
    )
    assert left == []


def test_every_verb_is_shown_in_the_reference_with_a_command():
    shown = {(p.values[0].name, re.match(VERB, " ".join(p.values[1]))[0]) for p in commands()}
    assert [verb.name for verb in VERBS if ("cli.md", verb.name) not in shown] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_and_no_figure_is_left_open(page):
    text = page.read_text(encoding="utf-8")
    missing = [to for to in re.findall(r"\]\(([^)#:]+)\)", text) if not (page.parent / to).exists()]
    assert not missing
    lost = [
        f"{to}#{place}"
        for to, place in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text)
        if place not in places(page.parent / to if to else page)
    ]
    assert not lost
    assert not re.findall(r"\b(?:TODO|TBD|FIXME|XXX|[A-Z]+_(?:RESULT|HERE|FIGURE)S?)\b", text)


def places(page):
    """What a link into a page may name: its headings, as GitHub writes them."""
    headings = (
        re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M) if page.exists() else []
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
