"""Data at addresses: a real HTTP server, and a store in memory, by fsspec."""

from __future__ import annotations

import functools
import http.server
import threading

import fsspec
import pytest

from embsearch.config.schema import DataConfig
from embsearch.data.load import load_dataset, prepare_dataset
from embsearch.data.remote import fetched
from embsearch.errors import DataError
from tests.conftest import judgement_rows

HEAD = "query,title,grade\n"
LINES = [f"{query},{title},{grade}\n" for query, title, grade, _ in judgement_rows()]


@pytest.fixture
def site(tmp_path):
    """Return the folder of a server, and its address."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def test_a_file_behind_http_is_read_as_it_is_now(site, tmp_path):
    folder, address = site
    (folder / "rows.csv").write_text(HEAD + "".join(LINES))
    (tmp_path / "rows.csv").write_text(HEAD + "".join(LINES))
    config, cache = DataConfig(path=f"{address}/rows.csv"), tmp_path / "cache"
    here = load_dataset(DataConfig(path=str(tmp_path / "rows.csv")), tmp_path / "other")
    assert load_dataset(config, cache).fingerprint == here.fingerprint
    first = prepare_dataset(config, cache)
    fetched.cache_clear()  # as another command
    assert prepare_dataset(config, cache) == first
    assert len(list((cache / "fetched").iterdir())) == 1
    (folder / "rows.csv").write_text(HEAD + "".join(LINES[6:]))
    assert prepare_dataset(config, cache) == first  # one command reads one version
    fetched.cache_clear()
    assert prepare_dataset(config, cache) != first


def test_a_folder_in_a_store_is_read_with_its_splits(tmp_path):
    store = fsspec.filesystem("memory")
    parts = {"train": LINES[:192], "dev": LINES[192:240], "test": LINES[240:]}
    for name, lines in parts.items():
        with store.open(f"/shop/data/{name}.csv", "w") as file:
            file.write(HEAD + "".join(lines))
    try:
        data = load_dataset(DataConfig(path="memory://shop"), tmp_path / "cache")
        named = DataConfig(
            train="memory://shop/data/train.csv",
            valid="memory://shop/data/dev.csv",
            test="memory://shop/data/test.csv",
        )
        assert load_dataset(named, tmp_path / "cache").fingerprint == data.fingerprint
    finally:
        store.rm("/shop", recursive=True)
    assert [len(rows) for rows in (data.valid, data.test)] == [48, 48]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("rows.csv", "FileNotFoundError"),
        ("nowhere://bucket/rows.csv", "Protocol not known: nowhere"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused_with_the_way_out(path, words, site, tmp_path):
    address = path if "://" in path else f"{site[1]}/{path}"
    with pytest.raises(DataError, match=rf"data\.path={address}.*{words}.*data\.path=FILE"):
        load_dataset(DataConfig(path=address), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("fetched/*"))
