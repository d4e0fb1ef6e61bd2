"""What a study is told of its MLflow server before it begins, by real servers that are set up wrongly."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from embsearch.cli.main import main
from embsearch.config import secrets
from embsearch.config.build import build
from embsearch.errors import UserError
from embsearch.track.mlflow_check import _out_of_reach, check

ADMIN = "admin-passw0rd-long"


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch, tmp_path):
    monkeypatch.setattr(secrets, "_known", {})
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "")  # so that it is put back, whoever sets it
        monkeypatch.delenv(name)


@contextmanager
def mlflow(folder, *words, **variables):
    """A real server with these words, at its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--port", str(port), "--workers", "1", *words,
    ]  # fmt: skip
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    quiet = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": path,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | quiet | variables, stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + 120
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < until, (folder / "log").read_text()[-2000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        for one in [
            *psutil.Process(process.pid).children(recursive=True),
            psutil.Process(process.pid),
        ]:
            one.kill()
        process.wait()


def answers(url):
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def checked(uri, task="clicks", **track):
    return check(build({"track": {"uri": uri, **track}, "study": {"task": task}}))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    with mlflow(
        folder, "--artifacts-destination", str(folder / "files"), "--allowed-hosts", "127.0.0.1:*"
    ) as url:
        yield url


def test_a_server_that_will_take_the_record_is_passed_within_a_second(plain):
    assert checked(plain) == ""
    began = time.monotonic()
    assert checked(f"{plain}/") == ""
    assert time.monotonic() - began < 1


def test_the_check_imports_no_mlflow():
    code = "import sys, embsearch.track.mlflow_check as c, requests; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_host_name_that_the_server_refuses_is_named_with_the_option_that_allows_it(plain):
    with pytest.raises(
        UserError, match=r"refuses the host name localhost:\d+ .*--allowed-hosts 'localhost:\d+,"
    ):
        checked(plain.replace("127.0.0.1", "localhost"))


def test_a_search_says_so_before_anything_is_written(plain, tmp_path, capfd, judgements_csv):
    words = [
        "track=mlflow",
        f"track.uri={plain.replace('127.0.0.1', 'localhost')}",
        f"data.path={judgements_csv}",
    ]
    assert main(["search", *words, f"home={tmp_path / 'home'}", "launcher=replay"]) == 2
    assert re.search(
        r"embsearch: track\.uri=http://localhost:\d+: MLflow refuses the host",
        capfd.readouterr().err,
    )
    assert not (tmp_path / "home").exists()


def test_files_that_would_stay_on_the_server_s_own_disk_are_refused(tmp_path):
    with mlflow(tmp_path, "--no-serve-artifacts", "--default-artifact-root", "/nowhere") as url:
        with pytest.raises(
            UserError, match=r"keeps its files in /nowhere/1, .*--serve-artifacts and --artifacts-"
        ):
            checked(url)
        with pytest.raises(UserError, match=r"/nowhere/2"):  # the first one did not keep the name
            checked(url)


def test_a_local_server_keeps_files_in_a_folder_that_is_not_made_yet(server):
    assert checked(server[0].url, task="files") == ""


@pytest.mark.parametrize(
    ("location", "uri", "away"),
    [
        ("mlflow-artifacts:/3", "http://mlflow:5000", False), ("s3://bucket/3", "http://mlflow:5000", False),
        ("file://{here}/art/3", "http://mlflow:5000", True), ("file://{here}/3", "http://mlflow:5000", False),
        ("{here}/art/3", "http://localhost:5000", False), ("{here}/a/rt/3", "http://localhost:5000", True),
        ("/mlruns/3", "http://localhost:5000", True), ("./mlruns/3", "http://localhost:5000", True),
    ],
)  # fmt: skip
def test_a_folder_counts_where_this_machine_has_it(location, uri, away, tmp_path):
    assert _out_of_reach(location.format(here=tmp_path), uri) is away


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("MLflow's basic-auth needs Flask-WTF: pip install 'mlflow[auth]'")
    folder = tmp_path_factory.mktemp("guarded")
    words = ["--app-name", "basic-auth", "--artifacts-destination", str(folder / "files")]
    with mlflow(
        folder,
        *words,
        MLFLOW_AUTH_ADMIN_PASSWORD=ADMIN,
        MLFLOW_FLASK_SERVER_SECRET_KEY="a key of the tests",
    ) as url:
        import requests

        made = requests.post(
            f"{url}/api/2.0/mlflow/users/create", json={"username": "reader", "password": "reader-passw0rd"},
            auth=("admin", ADMIN), timeout=30,
        )  # fmt: skip
        assert made.status_code == 200, made.text
        yield url


def test_a_login_that_is_missing_or_wrong_is_asked_for(guarded):
    with pytest.raises(
        UserError,
        match=r"asks for a login \(status 401\): no login given; set MLFLOW_TRACKING_USERN",
    ):
        checked(guarded)
    with pytest.raises(UserError, match=r"user admin is not known there or the password is wrong"):
        checked(guarded.replace("http://", "http://admin:not-it-at-all@"))


def test_a_login_is_taken_from_the_address_the_environment_or_mlflow_s_file(
    guarded, monkeypatch, tmp_path
):
    with monkeypatch.context() as patch:
        assert checked(guarded.replace("http://", f"http://admin:{ADMIN}@")) == ""
        patch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN)
        assert checked(guarded) == ""
    monkeypatch.setattr(secrets, "_known", {})
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        f"[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = {ADMIN}\n"
    )
    assert checked(guarded) == ""


def test_who_may_only_read_the_experiment_is_told(guarded):
    checked(guarded.replace("http://", f"http://admin:{ADMIN}@"), task="admins")
    with pytest.raises(
        UserError, match=r"user reader may not do that \(status 403, Permission denied\); have EDIT"
    ):
        checked(guarded.replace("http://", "http://reader:reader-passw0rd@"), task="admins")
    assert (
        checked(guarded.replace("http://", "http://reader:reader-passw0rd@"), task="readers") == ""
    )


@contextmanager
def something_else(status, text, kind="text/html"):
    """A server that is no MLflow."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (200, "2.22.1", "MLflow 2.22.1 is too old, expected 3.13 or newer"),
        (200, "<html>hello</html>", "not an MLflow server: .* status 200 and no JSON"),
        (404, "not found", "not an MLflow server: .* status 404 and no JSON"),
        (
            302,
            "",
            r"not an MLflow server: it sends us elsewhere \(status 302\), as a login page does",
        ),
        (401, "", "asks for a login"),
    ],
)
def test_what_is_no_mlflow_that_we_can_use_is_refused(status, text, said):
    with something_else(status, text) as url, pytest.raises(UserError, match=said):
        checked(url)


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_server_that_is_ill_is_no_reason_not_to_begin(status):
    with something_else(status, "") as url:
        assert (
            f"MLflow at {url} does not answer (status {status}); the study goes on, 'embsearch sync'"
            in checked(url)
        )


def test_a_server_that_is_away_or_hangs_is_no_reason_not_to_begin():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        assert f"MLflow at {url} does not answer (" in checked(url, timeout=0.5)
        assert time.monotonic() - began < 5
    assert "refused" in checked(url)
    assert "Name or service not known" in checked("http://no.such.host:5000")


def test_a_file_a_database_or_no_mlflow_at_all_is_not_asked(tmp_path):
    assert (
        checked(None)
        == checked(f"sqlite:///{tmp_path}/x.db")
        == checked("http://127.0.0.1:1", mlflow=False)
        == ""
    )


def test_a_connection_that_is_not_secure_is_refused(plain):
    with pytest.raises(
        UserError, match=r"no secure connection: .*SSL.* MLFLOW_TRACKING_SERVER_CERT_PATH"
    ):
        checked(plain.replace("http:", "https:"))
