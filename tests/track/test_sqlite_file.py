"""A database that is damaged is told from one that is not, and set aside without losing another."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from embsearch.config.schema import Config
from embsearch.errors import StudyError
from embsearch.track.mlflow_store import connect, mend, own_database
from embsearch.track.sqlite_file import damage_of, set_aside


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A database of 2,000 rows with an index."""
    path = tmp_path / "rows.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE one (name TEXT PRIMARY KEY, value REAL)")
        lines = [(f"name {n}", n / 7) for n in range(2000)]
        database.executemany("INSERT INTO one VALUES (?, ?)", lines)
        database.commit()
    return path


def content(path: Path) -> list[object]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT * FROM one ORDER BY name").fetchall()


def test_each_byte_of_the_header_is_damage_or_changes_nothing(rows: Path) -> None:
    whole, wanted, named = rows.read_bytes(), content(rows), 0
    for place in range(100):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        rows.write_bytes(changed)
        try:
            wrong = damage_of(rows)
        except sqlite3.Error as error:
            wrong = str(error)
        named += bool(wrong)
        assert wrong or content(rows) == wanted, place
    assert named > 20


def test_each_page_of_zeros_is_damage(rows: Path) -> None:
    whole = rows.read_bytes()
    for page in range(0, len(whole), 4096):
        rows.write_bytes(whole[:page] + bytes(4096) + whole[page + 4096 :])
        assert damage_of(rows), page


def test_a_damaged_file_never_takes_the_name_of_an_older_one(rows: Path) -> None:
    names = []
    for text in ("first", "second", "third"):
        rows.write_text(text)
        names.append(set_aside(rows))
    assert [name.name for name in names] == [
        "rows.db.damaged",
        "rows.db.damaged1",
        "rows.db.damaged2",
    ]
    assert [name.read_text() for name in names] == ["first", "second", "third"]


def test_what_sqlite_left_of_a_database_that_is_gone_is_not_played_into_the_new_one(
    config: Config, tmp_path: Path
) -> None:
    database = own_database(config)
    assert database is not None
    with closing(sqlite3.connect(database)) as writer:  # its WAL is not in the file yet
        writer.execute("UPDATE experiments SET name = 'of the old one'")
        writer.commit()
        shutil.copy(f"{database}-wal", tmp_path / "wal")
    database.unlink()
    shutil.copy(tmp_path / "wal", f"{database}-wal")
    names = [one.name for one in connect(config).search_experiments()]
    assert names == ["Default"]
    assert Path(f"{database}.damaged-wal").exists()


def test_a_damaged_database_elsewhere_is_named_and_left_alone(
    config: Config, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    other.write_text("not a database\n" * 100)
    config = replace(config, track=replace(config.track, uri=f"sqlite:///{other}"))
    with pytest.raises(StudyError, match=r"other\.db: MLflow's database is damaged: .*copy"):
        connect(config)
    assert (mend(config), own_database(config), other.exists()) == ("", None, True)
