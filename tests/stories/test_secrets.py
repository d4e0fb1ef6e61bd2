"""A study with secrets wherever they may stand: they are in nothing that it writes, logs, says or starts."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from home import Home

ROWS, LOGIN, BASE, KEY = "zq7Xw2plm9", "vT4kc81jQe", "mW3xo6hhRb", "uN9dd2sLyy"
SECRETS = (ROWS, LOGIN, BASE, KEY)


@pytest.fixture
def rows(judgements_csv):
    """The address of the rows, which are given to whoever shows the token."""

    class Rows(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path == f"/rows.csv?token={ROWS}"
            body = judgements_csv.read_bytes() if known else b""
            self.send_response(200 if known else 403)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", "one")
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        do_HEAD = do_GET

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Rows)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/rows.csv"
    server.shutdown()


class Listening:
    """A thread that keeps the command lines of what this process starts."""

    def __enter__(self):
        self.lines, self._over = set(), threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        return self

    def _listen(self):
        while not self._over.wait(0.02):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    self.lines.add(" ".join(child.cmdline()))

    def __exit__(self, *error):
        self._over.set()
        self._thread.join()


def holding(folder, secrets):
    """The files below a folder that hold a secret in their bytes or in their name."""
    return [
        str(path)
        for path in Path(folder).rglob("*")
        for secret in secrets
        if secret in str(path) or (path.is_file() and secret.encode() in path.read_bytes())
    ]


@pytest.mark.story
def test_nothing_that_a_study_writes_or_says_holds_a_secret(
    rows, tmp_path, tiny_bert, monkeypatch, capfd
):
    for name, secret in {"ROWS_TOKEN": ROWS, "WANDB_API_KEY": KEY, "HF_TOKEN": KEY}.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.chdir(tmp_path)
    home = Home(
        tmp_path / "home", tiny_bert, f"'{rows}?token=${{oc.env:ROWS_TOKEN}}'", "launcher=local"
    )
    with Listening() as processes:
        words = [
            "track=mlflow",
            "stop.trials=1",
            "train.texts=300",
            "launcher.workers=1",
            "data.format=judgements",
        ]
        assert home.run("search", *words) == 0
        assert home.run("promote", *words, "promote.min_gain=-1") in (0, 3)
        # the servers of these are not there: what is said of them is masked
        for wrong in (
            f"track.uri=http://me:{LOGIN}@127.0.0.1:9",
            f"study.storage=postgresql://me:{BASE}@127.0.0.1:9/x",
        ):
            home.run("search", *words, wrong, "stop.trials=2")
    monkeypatch.setenv("ROWS_TOKEN", f"{ROWS}wrong")
    assert home.run("data check", "home=other") == 2
    out, err = capfd.readouterr()
    assert "rows.csv?token=${oc.env:ROWS_TOKEN}" in (home.study / "study.yaml").read_text()
    assert "cannot be read" in err
    assert [secret for secret in SECRETS if secret in out + err] == []
    assert holding(tmp_path, SECRETS) == []
    assert len(processes.lines) > 0
    assert [line for line in processes.lines for secret in SECRETS if secret in line] == []


@pytest.mark.story
def test_a_scan_finds_what_is_there(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"\0" + KEY.encode())
    (tmp_path / f"rows.csv?token={ROWS}").touch()
    assert len(holding(tmp_path, SECRETS)) == 2
    assert KEY not in " ".join(os.environ.get(name, "") for name in ("PATH", "HOME"))
