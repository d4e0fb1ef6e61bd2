"""The local server, and the way to a study's page."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from embsearch.cli.ui import run, study_address
from embsearch.config.options import UiOptions
from embsearch.config.schema import Config
from embsearch.track.server import Server, _free_port, running, serve


def test_a_second_start_finds_the_running_server(server: tuple[Server, Path]) -> None:
    found = serve(server[1], port=0)
    assert (found.url, found.pid, found.started) == (server[0].url, server[0].pid, False)


def test_the_server_is_two_processes(server: tuple[Server, Path]) -> None:
    process = psutil.Process(server[0].pid)
    assert len([process, *process.children(recursive=True)]) <= 2


def test_a_server_of_another_home_is_not_ours(server: tuple[Server, Path], tmp_path: Path) -> None:
    (tmp_path / "mlflow_server.json").write_text((server[1] / "mlflow_server.json").read_text())
    assert running(tmp_path) is None


def test_a_taken_port_leads_to_the_next_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert port < _free_port(port) <= port + 99


def test_ui_prints_the_studys_address(shown: Config, capsys: pytest.CaptureFixture[str]) -> None:
    thread = threading.Thread(target=run, args=[shown, UiOptions(open=False)])
    thread.start()
    thread.join(30)
    assert not thread.is_alive()  # a server that others started is left running
    server = running(Path(shown.home))
    assert server is not None
    assert f"MLflow: {server.url}/#/experiments/" in capsys.readouterr().out


def test_a_study_that_mlflow_does_not_know_has_no_address(shown: Config) -> None:
    server = running(Path(shown.home))
    assert server is not None
    assert study_address(shown, server.url)
    assert (
        study_address(replace(shown, study=replace(shown.study, name="other")), server.url) is None
    )
