"""Files by which processes talk that share a folder only."""

from __future__ import annotations

import subprocess
import sys

import pytest

from embsearch.launch.slurm.mailbox import Letters, append, get, put


@pytest.fixture
def box(tmp_path):
    path = tmp_path / "box.jsonl"
    path.touch()
    return path


def test_what_was_put_last_is_got(tmp_path):
    put(tmp_path / "note", {"n": 1})
    put(tmp_path / "note", {"n": 2, "word": "灯"})

    assert get(tmp_path / "note") == {"n": 2, "word": "灯"}
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


@pytest.mark.parametrize("content", [None, "", '{"n": 1', "[1]"])
def test_what_cannot_be_read_is_not_there(tmp_path, content):
    if content is not None:
        (tmp_path / "note").write_text(content)

    assert get(tmp_path / "note") is None


def test_letters_are_read_once_and_in_order(box):
    reader = Letters(box)
    append(box, {"n": 1})
    append(box, {"n": 2})
    first = reader.new()
    append(box, {"n": 3})

    assert (first, reader.new(), reader.new()) == ([{"n": 1}, {"n": 2}], [{"n": 3}], [])


def test_a_letter_whose_end_is_not_there_yet_waits_for_it(box):
    reader = Letters(box)
    box.write_bytes('{"n": 1}\n{"word": "灯'.encode()[:-1])  # in the middle of a character
    first = reader.new()
    with box.open("ab") as file:
        file.write("灯".encode()[-1:] + b'"}\n')

    assert (first, reader.new()) == ([{"n": 1}], [{"word": "灯"}])


def test_a_letter_with_a_hole_waits_until_it_is_filled(box):
    reader = Letters(box)
    box.write_bytes(b'{"n": 1}\n{"n"\0\0\0\0\n{"n": 3}\n')
    first = reader.new(), reader.new()
    box.write_bytes(b'{"n": 1}\n{"n": 2}\n{"n": 3}\n')

    assert (first, reader.new()) == (([{"n": 1}], []), [{"n": 2}, {"n": 3}])


def test_there_are_no_letters_where_there_is_no_file_yet(tmp_path):
    reader = Letters(tmp_path / "box")
    before = reader.new()
    (tmp_path / "box").write_text('{"n": 1}\n')

    assert (before, reader.new()) == ([], [{"n": 1}])


def test_nothing_is_written_where_nobody_made_the_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        append(tmp_path / "box", {"n": 1})
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
from embsearch.launch.slurm.mailbox import append
for n in range(2000): append(Path(sys.argv[1]), {"n": n, "text": "x" * (n % 700)})
"""


def test_a_reader_beside_a_writer_gets_every_letter_whole(box):
    reader, found = Letters(box), []
    with subprocess.Popen([sys.executable, "-c", WRITER, str(box)]) as writer:
        while writer.poll() is None:
            found += reader.new()
    found += reader.new()

    assert [(letter["n"], len(letter["text"])) for letter in found] == [
        (n, n % 700) for n in range(2000)
    ]
