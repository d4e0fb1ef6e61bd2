"""The event log after a crash: whole but for what was torn, refused where more than the end is hurt."""

from __future__ import annotations

import hashlib
import re
import resource
from pathlib import Path

import pytest
from helpers import append, event

from embsearch.errors import StudyError
from embsearch.history.events import Unknown, encode
from embsearch.history.log import EventLog, LogTail, read_events

EVENTS = (
    event("opened", name="one"),
    event("baseline", metrics={"zwei, 二": 2.0}),
    event("told", trial=3, state="complete"),
)
FOURTH = event("promoted", refused="four")
KINDS = [(0, "opened"), (1, "baseline"), (2, "told")]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "trials" / "t0000" / "events.jsonl"
    writer = EventLog(path)
    for one in EVENTS:
        writer.append(one)
    return path


def kinds(path: Path) -> list[tuple[int, str]]:
    return [(one.seq, one.kind) for one in read_events(path)]


def last_line(path: Path) -> int:
    """The byte where the last line begins."""
    return path.read_bytes()[:-1].rindex(b"\n") + 1


def test_a_last_line_cut_at_any_byte_is_dropped_and_nothing_else(log: Path) -> None:
    data = log.read_bytes()
    for cut in range(last_line(log), len(data)):
        log.write_bytes(data[:cut])
        assert kinds(log) == KINDS[:2]
        EventLog(log).append(FOURTH)
        assert kinds(log) == [*KINDS[:2], (2, "promoted")]


@pytest.mark.parametrize(
    "tail", [b"\0" * 300, b"\xff\xfe{\n", b"{}\n", b"7\n", b"[1, 2]", b'{"seq": 3}\n{"time": 1}\n']
)
def test_what_a_power_cut_leaves_behind_the_last_event_is_cut_off(log: Path, tail: bytes) -> None:
    log.write_bytes(log.read_bytes() + tail)
    assert len(kinds(log)) == 3
    EventLog(log).append(FOURTH)
    assert kinds(log) == [*KINDS, (3, "promoted")]
    assert tail not in log.read_bytes()


def test_an_empty_log_begins_anew(log: Path) -> None:
    log.write_bytes(b"")
    assert kinds(log) == []
    EventLog(log).append(EVENTS[0])
    assert kinds(log) == [(0, "opened")]


def without_links(path: Path) -> None:
    """Make a log of it as older versions wrote them."""
    path.write_bytes(re.sub(rb', "link": "[0-9a-f]{16}"', b"", path.read_bytes()))


def read_on(tail: LogTail) -> None:
    """What stands before a damaged line comes first, then nothing more."""
    while tail.read():
        pass


def refused(path: Path, line: int, why: str) -> None:
    """Reading and appending refuse the log, which stays as it is."""
    before = path.read_bytes()
    for use in (
        lambda: read_events(path),
        lambda: read_on(LogTail(path)),
        lambda: EventLog(path).append(FOURTH),
    ):
        with pytest.raises(StudyError, match=f"events.jsonl, line {line}: {why}"):
            use()
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", [1, 2])
def test_damage_before_the_end_is_refused_with_its_line_and_touches_nothing(
    log: Path, line: int
) -> None:
    without_links(log)
    lines = log.read_bytes().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(b'"kind"', b'"k\0nd"')
    log.write_bytes(b"".join(lines))
    refused(log, line, "not an event, and whole ones follow")


@pytest.mark.parametrize("line", [1, 2, 3])
def test_any_byte_that_is_another_is_refused_with_its_line(log: Path, line: int) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    for at in range(0, len(lines[line - 1]) - 4, 3):
        changed = bytearray(lines[line - 1])
        changed[at] ^= 1
        log.write_bytes(b"".join([*lines[: line - 1], bytes(changed), *lines[line:]]))
        try:
            found = read_events(log)
        except StudyError as error:
            number = int(str(error).partition(", line ")[2].partition(":")[0])
            assert number in (line, line + 1)  # one without a link could be of an older version
        else:  # the last one can look as if it was torn
            assert line == 3
            assert len(found) == 2
    assert at > 60


@pytest.mark.parametrize("links", [True, False], ids=["links", "older version"])
@pytest.mark.parametrize(
    ("how", "order", "line"),
    [("doubled", [0, 1, 1, 2], 3), ("taken out", [0, 2], 2), ("swapped", [1, 0, 2], 1)],
)
def test_lines_that_were_moved_are_refused(
    log: Path, how: str, order: list[int], line: int, links: bool
) -> None:
    if not links:
        without_links(log)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[number] for number in order))
    refused(log, line, "its seq is ., expected .: lines are missing, doubled or out of order")


def test_a_log_of_an_older_version_goes_on_with_links_and_never_without_again(log: Path) -> None:
    without_links(log)
    writer = EventLog(log)
    writer.append(FOURTH)
    assert [bool(one.link) for one in read_events(log)] == [False, False, False, True]
    log.write_bytes(log.read_bytes() + b'{"seq": 4, "time": 1, "kind": "told", "trial": 1}\n')
    refused(log, 5, "it has no link, and the line before it has one")


def test_a_line_nested_beyond_reason_is_no_event(log: Path) -> None:
    log.write_bytes(log.read_bytes() + b'{"seq": 3, "time": ' + b"[" * 100_000 + b"\n")
    assert kinds(log) == KINDS


def test_a_disk_that_fills_up_in_the_middle_of_an_event_leaves_the_log_whole(log: Path) -> None:
    before = log.read_bytes()
    writer = EventLog(log)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            append(writer, "promoted", refused="x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(log)
    assert log.read_bytes() == before
    writer.append(FOURTH)
    assert kinds(log)[-1] == (3, "promoted")


def test_an_event_comes_back_as_it_was_written_with_its_place(log: Path) -> None:
    found = read_events(log)
    assert [encode(one.at(-1, 0, None)) for one in found] == [encode(one) for one in EVENTS]
    assert all(len(one.link) == 16 for one in found)
    assert all(one.time > 0 for one in found)


def test_a_kind_that_a_later_version_wrote_is_passed_over(log: Path) -> None:
    later = b'{"seq": 3, "time": 1, "kind": "invented", "words": 3'
    before = read_events(log)[-1].link.encode()
    link = hashlib.sha256(before + later + b"}").hexdigest()[:16].encode()
    later += b', "link": "' + link + b'"}\n'
    log.write_bytes(log.read_bytes() + later)
    assert isinstance(read_events(log)[3], Unknown)
    EventLog(log).append(FOURTH)
    assert later in log.read_bytes()
    assert [one.seq for one in read_events(log)] == [0, 1, 2, 3, 4]


def test_a_tail_reads_each_event_once_and_a_torn_one_when_it_is_whole(log: Path) -> None:
    tail = LogTail(log)
    assert [one.kind for one in tail.read()] == ["opened", "baseline", "told"]
    with log.open("ab") as file:
        file.write(b'{"seq": 3, "time": 5, "ki')
    assert tail.read() == []
    EventLog(log).append(FOURTH)
    assert [one.kind for one in tail.read()] == ["promoted"]
    assert tail.read() == []
