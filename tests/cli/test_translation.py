"""README.zh-CN.md says what README.md says: the same commands in the same order, the same figures."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PROGRAMS = {"git", "make", "cd", "echo", "cat", "embsearch", "python", "pip", "export", "curl"}
# Digits that belong to a word (bf16, MiniLM-L6) or to a path are no figures.
FIGURE = re.compile(r"(?<![A-Za-z0-9._/-])-?\d+(?:[.,]\d+)*(?![A-Za-z0-9_])")


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of every code block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M)


def commands(text: str) -> list[str]:
    """Command lines without their comments; what stands for something, as <this repository>, may be translated."""
    lines = [
        line
        for language, block in blocks(text)
        if language in ("", "sh", "bash")
        for line in block.splitlines()
    ]
    plain = [
        " ".join(re.sub(r"(^|\s+)#.*", "", re.sub(r"<[^>]*>", "<>", line)).split())
        for line in lines
    ]
    return [line for line in plain if line and Path(line.split()[0]).name in PROGRAMS]


def code(text: str) -> list[str]:
    """Lines of the blocks in a programming language, without comments."""
    lines = [
        line
        for language, block in blocks(text)
        if language not in ("", "sh", "bash")
        for line in block.splitlines()
    ]
    return [re.sub(r"\s*#.*", "", line) for line in lines]


def outputs(text: str) -> str:
    """What commands print, as shown: blocks without a language in which no line is a command."""
    return "\n".join(
        block
        for language, block in blocks(text)
        if not language and not commands(f"```\n{block}```\n")
    )


def tables(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def prose(text: str) -> str:
    """Without code, tables and the addresses of links."""
    text = re.sub(r"^```.*?^```\n", "", text, flags=re.S | re.M)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    return re.sub(r"\]\([^)]*\)|`[^`]*`", "]", text)


def compare(english: list[str], chinese: list[str], what: str) -> None:
    """Fails with what README.zh-CN.md lacks and what it has too much."""
    lacks, extra = Counter(english) - Counter(chinese), Counter(chinese) - Counter(english)
    said = [f"README.zh-CN.md lacks the {what} {text!r} of README.md" for text in lacks.elements()]
    said += [
        f"README.zh-CN.md has the {what} {text!r}, README.md has not" for text in extra.elements()
    ]
    assert not said, "\n".join(said)
    assert chinese == english, f"README.zh-CN.md has each {what} of README.md, but in another order"


def test_the_chinese_readme_shows_the_same_commands_in_the_same_order():
    english, chinese = (
        commands(ENGLISH.read_text(encoding="utf-8")),
        commands(CHINESE.read_text(encoding="utf-8")),
    )
    assert len(english) > 5
    compare(english, chinese, "command")


@pytest.mark.parametrize(("part", "where"), [(outputs, "shown output"), (tables, "tables")])
def test_the_chinese_readme_has_the_same_figures_in_the_same_order(part, where):
    english, chinese = (
        FIGURE.findall(part(file.read_text(encoding="utf-8"))) for file in (ENGLISH, CHINESE)
    )
    assert len(english) > 5
    compare(english, chinese, f"figure (in {where})")


def test_the_figures_of_the_text_are_the_same_too():
    english, chinese = (
        set(FIGURE.findall(prose(file.read_text(encoding="utf-8")))) for file in (ENGLISH, CHINESE)
    )
    compare(sorted(english), sorted(chinese), "figure (in the text)")


def test_what_is_code_and_what_is_printed_is_not_translated():
    for part in (
        code,
        lambda text: [line for line in outputs(text).splitlines() if FIGURE.search(line)],
    ):
        english, chinese = (
            part(ENGLISH.read_text(encoding="utf-8")),
            part(CHINESE.read_text(encoding="utf-8")),
        )
        compare(english, chinese, "line")


def test_each_readme_links_to_the_other_at_its_beginning():
    assert "(README.zh-CN.md)" in "".join(ENGLISH.read_text(encoding="utf-8").splitlines()[:5])
    assert "(README.md)" in "".join(CHINESE.read_text(encoding="utf-8").splitlines()[:5])
