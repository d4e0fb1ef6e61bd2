from __future__ import annotations

import numpy as np

from embsearch.config.schema import DataConfig
from embsearch.data.check import cjk_share, describe, table, width
from embsearch.data.load import load_dataset

CLICKS = """搜索词,标题,点击,类目
防水手表,佳明手表,1,手表
防水手表,佳明手表,0,手表
防水手表,小米手环,0,手表
降噪耳机,Bose QC,1,耳机
降噪耳机,数据线,0,耳机
降噪耳机,,0,耳机
"""


def test_the_check_tells_what_was_read_left_out_and_how_long_texts_are(write, cache):
    config = DataConfig(path=str(write("clicks.csv", CLICKS)), on_bad_row="drop")
    text = describe(
        load_dataset(config, cache), lambda texts: np.array([len(t) // 2 for t in texts])
    )
    wanted = [
        "file        clicks.csv: 6 rows, utf-8",
        "query = 搜索词, title = 标题, clicked = 点击, segment = 类目",
        "split by query",
        "format      clicks: a row is a query, a title that was shown, and its click",
        "dropped         1 of 6 rows\n  1  empty text\n  written to ",
        "contradictions  1\n  clicks.csv, row 2: '佳明手表' has 1 here and 0 in clicks.csv, row 3",
        "queries, characters      4",
        "queries, tokens          2",
        "queries: 100.0% of letters are Chinese",
        "segment rows",
    ]
    assert [part for part in wanted if part not in text] == []


def test_columns_line_up_beside_wide_characters():
    assert table([("name", "n"), ("手表", "10"), ("é\u0301", "1")]).split("\n") == [
        "name   n",
        "手表  10",
        "é\u0301      1",
    ]
    assert (width("手表a"), width("e\u0301")) == (5, 1)


def test_the_share_of_cjk_counts_letters_only():
    assert cjk_share(["手表 ab", "12!"]) == 0.5
    assert cjk_share(["123"]) == 0.0
