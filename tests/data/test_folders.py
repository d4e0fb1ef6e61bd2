"""Folders as tools write them: parts, ``datasets.save_to_disk``, snapshots of a hub, workbooks."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from embsearch.config.build import build
from embsearch.data.load import load_dataset
from embsearch.errors import DataError
from tests.conftest import judgement_rows

ROWS = pd.DataFrame(judgement_rows(), columns=["query", "title", "grade", "category"])
QUERIES = ROWS["query"].unique()
PARTS = {
    "train": ROWS[ROWS["query"].isin(QUERIES[:32])],
    "valid": ROWS[ROWS["query"].isin(QUERIES[32:40])],
    "test": ROWS[ROWS["query"].isin(QUERIES[40:])],
}


def loaded(path, cache):
    return load_dataset(build({"data": {"path": str(path)}}).data, cache)


def texts_by_split(dataset):
    """Return the judged pairs of each split."""
    found = {}
    for split in ("valid", "test"):
        rows = getattr(dataset, split)
        pairs = zip(rows.text, rows.title, strict=True)
        found[split] = {(dataset.texts[text], dataset.texts[title]) for text, title in pairs}
    return found


def pairs(split):
    return set(PARTS[split][["query", "title"]].itertuples(index=False, name=None))


def halves(frame):
    return frame[: len(frame) // 2], frame[len(frame) // 2 :]


@pytest.mark.parametrize(
    "name", ["{split}-0000{n}-of-00002.parquet", "data/{split}-0000{n}-of-00002-0123abcd.parquet"]
)
def test_the_parts_of_a_split_count_as_one_file(name, tmp_path):
    (tmp_path / "snapshot" / "data").mkdir(parents=True)
    (tmp_path / "snapshot" / "README.md").write_text("---\nlicense: mit\n---\n")
    for split, frame in PARTS.items():
        for n, half in enumerate(halves(frame)):
            half.to_parquet(tmp_path / "snapshot" / name.format(split=split, n=n))
    dataset = loaded(tmp_path / "snapshot", tmp_path / "cache")
    assert texts_by_split(dataset) == {split: pairs(split) for split in ("valid", "test")}


@pytest.mark.parametrize(
    "names",
    [
        ("part-00000-6c3f-c000.snappy.parquet", "part-00001-6c3f-c000.snappy.parquet"),
        ("part-0.parquet", "part-1.parquet"),
        ("shop_000000.parquet", "shop_000001.parquet"),
    ],
)
def test_parts_without_a_split_are_split_by_the_rule(names, tmp_path):
    (tmp_path / "spark").mkdir()
    (tmp_path / "spark" / "_SUCCESS").write_text("")
    for name, half in zip(names, halves(ROWS), strict=True):
        half.to_parquet(tmp_path / "spark" / name)
    whole = tmp_path / "whole.parquet"
    ROWS.to_parquet(whole)
    of_parts = loaded(tmp_path / "spark", tmp_path / "cache")
    assert texts_by_split(of_parts) == texts_by_split(loaded(whole, tmp_path / "cache"))


def test_a_part_that_is_missing_is_refused(tmp_path):
    for split, frame in PARTS.items():
        frame.to_parquet(tmp_path / f"{split}-00000-of-0000{1 + (split == 'train')}.parquet")
    with pytest.raises(DataError, match=r"1 of 2 parts of train are here; expected all of them"):
        loaded(tmp_path, tmp_path / "cache")


def test_files_of_several_years_are_no_parts(tmp_path):
    for year, half in zip((2020, 2021), halves(ROWS), strict=True):
        half.to_csv(tmp_path / f"clicks_{year}.csv", index=False)
    with pytest.raises(DataError, match="cannot tell which file to read"):
        loaded(tmp_path, tmp_path / "cache")


@pytest.mark.parametrize("kinds", ["several splits", "one"])
def test_a_folder_of_save_to_disk_is_read(kinds, tmp_path):
    datasets = pytest.importorskip("datasets")
    made = {
        name: datasets.Dataset.from_pandas(part, preserve_index=False)
        for name, part in PARTS.items()
    }
    made["validation"] = made.pop("valid")
    if kinds == "one":
        whole = datasets.Dataset.from_pandas(ROWS, preserve_index=False)
        whole.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    else:
        datasets.DatasetDict(made).save_to_disk(
            str(tmp_path / "saved"), num_shards={"train": 2, "validation": 1, "test": 1}
        )
    dataset = loaded(tmp_path / "saved", tmp_path / "cache")
    if kinds == "one":
        ROWS.to_csv(tmp_path / "rows.csv", index=False)
        assert texts_by_split(dataset) == texts_by_split(
            loaded(tmp_path / "rows.csv", tmp_path / "cache")
        )
    else:
        assert texts_by_split(dataset) == {split: pairs(split) for split in ("valid", "test")}


def test_a_workbook_is_read_below_a_line_of_its_title(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["Judgements of the shop", None, None])
    book.active.append(["query", "title", "grade"])
    for query, title, grade, _ in judgement_rows():
        book.active.append([query, title, grade])
    book.save(tmp_path / "rows.xlsx")
    ROWS[["query", "title", "grade"]].to_csv(tmp_path / "rows.csv", index=False)
    found, expected = (
        loaded(tmp_path / f"rows.{kind}", tmp_path / "cache") for kind in ("xlsx", "csv")
    )
    assert texts_by_split(found) == texts_by_split(expected)
    assert found.report["files"][0]["rows"] == len(ROWS)


def test_a_workbook_that_is_none_is_refused_with_the_way_out(tmp_path):
    pytest.importorskip("openpyxl")
    (tmp_path / "rows.xlsx").write_text("query,title,grade\n")
    with pytest.raises(DataError, match=r"rows.xlsx: not a readable workbook .* as CSV"):
        loaded(tmp_path / "rows.xlsx", tmp_path / "cache")


def test_an_arrow_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "rows.arrow").write_text(json.dumps({}))
    with pytest.raises(DataError, match=r"rows.arrow: not a readable Arrow file"):
        loaded(tmp_path / "rows.arrow", tmp_path / "cache")
