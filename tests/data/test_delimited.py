"""Files as spreadsheets, exporters and other tools write them."""

from __future__ import annotations

import bz2
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embsearch.config.schema import DataConfig, SplitConfig
from embsearch.data.cells import check_cells
from embsearch.data.load import load_dataset
from embsearch.data.read import read
from embsearch.data.source_files import Source
from embsearch.errors import DataError

ROWS = [(f"query {n // 2}", f"title {n}", str(n % 2)) for n in range(12)]
HEAD = ("query", "title", "grade")


def text_of(rows, mark=","):
    return "".join(mark.join(row) + "\n" for row in (HEAD, *rows))


def cells(path):
    table = read(Source(path))
    assert not table.faults
    return [tuple(row) for row in table.frame.to_numpy()], table.rows.tolist()


@pytest.mark.parametrize(
    ("first", "mark"), [("sep=;\r\n", ";"), ("SEP=\\t\n", "\t"), ("sep=|\n", "|")]
)
def test_a_line_sep_names_the_delimiter_and_rows_keep_their_numbers(first, mark, write):
    found, numbers = cells(write("a.csv", "\ufeff" + first + text_of(ROWS, mark)))
    assert found == ROWS
    assert numbers[:2] == [3, 4]


def test_a_line_above_the_header_is_one_fault_of_that_line(write):
    with pytest.raises(DataError, match=r"a\.csv, row 1: 1 cells.*remove lines above it") as told:
        read(Source(write("a.csv", "Export of 2024-05-01\n" + text_of(ROWS))))
    assert len(told.value.faults) == 1


@pytest.mark.parametrize(("name", "mark"), [("a.tsv", "\t"), ("a.csv", ",")])
def test_quotes_of_a_file_that_quotes_nothing_are_characters(name, mark, write):
    rows = list(ROWS)
    rows[3] = (rows[3][0], '"Deluxe Edition kettle', "1")
    rows[7] = (rows[7][0], 'monitor 27"', "1")
    found, numbers = cells(write(name, text_of(rows, mark)))
    assert found == rows
    assert numbers == list(range(2, 14))
    rows[9] = (rows[9][0], '"Black Velvet" is a song', "1")
    if mark == "\t":
        assert cells(write("b.tsv", text_of(rows, mark)))[0] == rows
    else:  # a quote may be missing
        with pytest.raises(DataError, match="do not match up"):
            read(Source(write("b.csv", text_of(rows, mark))))


def test_rows_that_a_quote_swallows_are_not_read_as_one_cell(write):
    rows = list(ROWS)
    rows[3] = (rows[3][0], '"Deluxe Edition kettle', "1")
    rows[5] = (rows[5][0], 'monitor 27"', "1")
    assert cells(write("a.tsv", text_of(rows, "\t")))[0] == rows
    rows[8] = (rows[8][0], '"quoted as a whole"', "1")
    with pytest.raises(DataError, match="holds whole rows of the file"):
        read(Source(write("b.tsv", text_of(rows, "\t"))))


def test_quoted_cells_with_marks_and_line_ends_stay_one_cell(write):
    rows = [*ROWS, ("q", "red, blue\nsize 5, 6, 7\nnew, boxed, two", "1"), ("q", 'a "b"', "0")]
    quoted = [(q, f'"{t.replace(chr(34), chr(34) * 2)}"', g) for q, t, g in rows]
    assert cells(write("a.csv", text_of(quoted)))[0] == rows


def test_a_cell_may_be_longer_than_the_csv_module_allows_at_first(write):
    rows = [*ROWS, ("q", "long " * 60_000, "1")]
    assert cells(write("a.csv", text_of(rows)))[0][-1] == rows[-1]


def test_bytes_in_parquet_are_text_or_a_fault_with_column_and_row(write):
    titles = ["电水壶".encode(), None, b"kettle"]
    for kind in (pa.binary(), pa.large_binary()):
        file = io.BytesIO()
        column = pa.array(titles, kind)
        pq.write_table(pa.table({"query": list("abc"), "title": column.dictionary_encode()}), file)
        frame = read(Source(write("a.parquet", file.getvalue()))).frame
        assert frame["title"].tolist() == ["电水壶", "", "kettle"]
    file = io.BytesIO()
    pq.write_table(pa.table({"title": pa.array([b"a", b"\xff\xfe"])}), file)
    with pytest.raises(DataError, match=r"b\.parquet, row 2: column .title. holds bytes"):
        read(Source(write("b.parquet", file.getvalue())))


def test_an_array_of_objects_and_compressed_files_are_read_as_the_plain_ones(write):
    plain = text_of(ROWS)
    objects = [dict(zip(HEAD, row, strict=True)) for row in ROWS]
    packed = pa.compress(plain.encode(), "zstd", asbytes=True)
    for name, content in (
        ("a.json", json.dumps(objects)),
        ("a.csv.gz", gzip.compress(plain.encode())),
        ("a.csv.bz2", bz2.compress(plain.encode())),
        ("a.csv.zst", packed),
        ("a.jsonl.gz", gzip.compress("\n".join(map(json.dumps, objects)).encode())),
    ):
        assert cells(write(name, content))[0] == ROWS, name
    with pytest.raises(DataError, match="not a whole gzip file"):
        read(Source(write("b.csv.gz", gzip.compress(plain.encode())[:40])))
    with pytest.raises(DataError, match="no array of objects"):
        read(Source(write("c.json", '{"rows": []}')))


def test_yes_no_and_counts_are_clicks(write, cache):
    words = {"Y": 1, "no": 0, "t": 1, "F": 0, "17": 1, "0": 0, "3.0": 1, "是": 1}
    rows = "".join(f"q{n},a{n},{word}\nq{n},b{n},0\n" for n, word in enumerate(words))
    frame = read(Source(write("a.csv", "query,title,clicked\n" + rows))).frame
    for name in ("query_id", "weight", "time", "segment", "split"):
        frame[name] = None
    typed, faults = check_cells(frame.assign(file="a.csv", row=range(len(frame))), "clicks")
    assert typed["grade"].tolist()[::2] == list(words.values())
    assert not faults


@pytest.mark.parametrize("dates", [("31/01/2024", "01/02/2024"), ("01.02.2024", "13.02.2024")])
def test_days_are_told_from_months_where_one_is_above_12(dates, write, cache):
    rows = "".join(f"q{n},a{n},1,{dates[n % 2]}\nq{n},b{n},0,{dates[n % 2]}\n" for n in range(8))
    path = str(write("a.csv", "query,title,clicked,date\n" + rows))
    by_time = DataConfig(path=path, split=SplitConfig(by="time", valid=0.25, test=0.25))
    assert load_dataset(by_time, cache).report["split"].startswith("by time")
    same = str(
        write("b.csv", "query,title,clicked,date\n" + rows.replace("31", "11").replace("13", "03"))
    )
    with pytest.raises(DataError, match="no row tells days from months"):
        load_dataset(DataConfig(path=same, split=SplitConfig(by="time")), cache)
