"""The event log after a crash: whole but for what was torn, refused where more than the end is hurt."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from embsearch.errors import StudyError
from embsearch.track.events import EventLog, read_events

WORDS = {"first": "one", "second": "zwei, 二", "third": 3}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "trials" / "t0000" / "events.jsonl"
    writer = EventLog(path)
    for kind, word in WORDS.items():
        writer.append(kind, word=word)
    return path


def kinds(path: Path) -> list[tuple[int, str]]:
    return [(e["seq"], e["kind"]) for e in read_events(path)]


def last_line(path: Path) -> int:
    """The byte where the last line begins."""
    return path.read_bytes()[:-1].rindex(b"\n") + 1


def test_a_last_line_cut_at_any_byte_is_dropped_and_nothing_else(log: Path) -> None:
    data = log.read_bytes()
    for cut in range(last_line(log), len(data)):
        log.write_bytes(data[:cut])
        assert kinds(log) == [(0, "first"), (1, "second")]
        EventLog(log).append("fourth")
        assert kinds(log) == [(0, "first"), (1, "second"), (2, "fourth")]


@pytest.mark.parametrize(
    "tail", [b"\0" * 300, b"\xff\xfe{\n", b"{}\n", b"7\n", b"[1, 2]", b'{"seq": 3}\n{"time": 1}\n']
)
def test_what_a_power_cut_leaves_behind_the_last_event_is_cut_off(log: Path, tail: bytes) -> None:
    log.write_bytes(log.read_bytes() + tail)
    assert len(kinds(log)) == 3
    EventLog(log).append("fourth")
    assert kinds(log)[2:] == [(2, "third"), (3, "fourth")]
    assert tail not in log.read_bytes()


def test_an_empty_log_begins_anew(log: Path) -> None:
    log.write_bytes(b"")
    assert kinds(log) == []
    EventLog(log).append("first")
    assert kinds(log) == [(0, "first")]


@pytest.mark.parametrize("line", [1, 2])
def test_damage_before_the_end_is_refused_with_its_line_and_touches_nothing(log: Path, line: int) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(b'"kind"', b'"k\0nd"')
    log.write_bytes(b"".join(lines))
    for use in (lambda: read_events(log), lambda: EventLog(log).append("fourth")):
        with pytest.raises(StudyError, match=f"events.jsonl, line {line}: not an event, and whole ones follow"):
            use()
    assert log.read_bytes() == b"".join(lines)


def test_a_disk_that_fills_up_in_the_middle_of_an_event_leaves_the_log_whole(log: Path) -> None:
    before = log.read_bytes()
    writer = EventLog(log)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            writer.append("fourth", word="x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(log)
    assert log.read_bytes() == before
    writer.append("fourth")
    assert kinds(log)[-1] == (3, "fourth")
