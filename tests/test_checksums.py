"""Folders with digests: whatever of them is another is noticed, and nothing else."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embsearch import checksums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draft = tmp_path / "draft"
    draft.mkdir()
    (draft / "a.npy").write_bytes(bytes(range(200)))
    (draft / "b name.json").write_text("{}")
    checksums.put(draft, tmp_path / "made")
    return tmp_path / "made"


def test_a_folder_as_it_was_written_is_whole_also_for_sha256sum(folder: Path) -> None:
    assert checksums.damage(folder) == ""
    assert checksums.keep_if_whole(folder)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True)
    assert not checksums.keep_if_whole(folder.parent / "another")


@pytest.mark.parametrize("name", ["a.npy", "b name.json", "SHA256SUMS"])
@pytest.mark.parametrize("how", ["a byte", "cut", "empty", "gone"])
def test_any_file_that_is_another_is_named_and_the_folder_goes(
    folder: Path, name: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / name
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        flipped = data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]
        path.write_bytes({"a byte": flipped, "cut": data[: len(data) // 2], "empty": b""}[how])
    assert checksums.damage(folder)
    assert not checksums.keep_if_whole(folder)
    assert "; it is made again" in capsys.readouterr().err
    assert not folder.exists()


def test_a_file_is_read_once_while_its_size_and_time_stay(folder: Path) -> None:
    assert checksums.damage(folder) == ""
    path = folder / "a.npy"
    stat = path.stat()
    path.write_bytes(bytes(200))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert checksums.damage(folder) == ""  # what a process knows, it does not read again
    path.touch()
    assert checksums.damage(folder) == "a.npy is not as it was written"


def test_processes_that_find_the_same_damage_remove_the_folder_once(folder: Path) -> None:
    (folder / "a.npy").write_bytes(b"")
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda _: checksums.keep_if_whole(folder), range(8)))
    assert not folder.exists()
    assert not list(folder.parent.glob(".made.*[!k]"))  # nothing but the lock


def test_a_folder_that_another_process_made_first_stays(folder: Path) -> None:
    draft = folder.parent / "later"
    draft.mkdir()
    (draft / "a.npy").write_bytes(b"later")
    checksums.put(draft, folder)
    assert checksums.damage(folder) == ""
    assert (folder / "a.npy").read_bytes() != b"later"
