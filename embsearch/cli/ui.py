"""``embsearch ui``: MLflow opened on the study's comparison."""

from __future__ import annotations

import json
import signal
import time
import webbrowser
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import psutil

from embsearch.config.options import UiOptions
from embsearch.config.schema import Config
from embsearch.history import events
from embsearch.history.log import read_events
from embsearch.track.mirror import study_uid
from embsearch.track.mlflow_check import login
from embsearch.track.mlflow_store import experiment_name, give_credentials
from embsearch.track.mlflow_view import TAG, deep_link, view_id
from embsearch.track.server import serve, stop


def run(config: Config, options: UiOptions) -> int:
    """Print the deep link and open it; keep a server that was started here until Ctrl-C."""
    home = Path(config.home)
    if config.track.uri and config.track.uri.startswith("http"):
        show(config, config.track.uri, options.open)
        return 0
    print("Starting MLflow ...", flush=True)
    server = serve(home, options.port)
    show(config, server.url, options.open)
    if not server.started:
        print(f"MLflow was already running (process {server.pid}).")
        return 0
    print("Ctrl-C ends it.", flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while psutil.pid_exists(server.pid):
            time.sleep(0.5)
    except KeyboardInterrupt:
        print()
    finally:
        stop(home)
    return 0


def show(config: Config, url: str, browser: bool) -> None:
    """Print the study's address, and open it in a browser where one is wanted."""
    address = study_address(config, url)
    if address is None:
        print(
            f"Nothing of study '{config.study.name}' is in MLflow yet; it appears when the study runs."
        )
    print(f"MLflow: {address or url}", flush=True)
    if browser:
        webbrowser.open(address or url)


def study_address(config: Config, url: str) -> str | None:
    """Return the deep link to the study's saved view, if MLflow has it."""
    log = read_events(Path(config.home) / "studies" / config.study.name / "events.jsonl")
    sessions = events.of_kind(log, events.Opened)
    if not sessions:
        return None
    opened = sessions[0]
    view = view_id(study_uid(opened))
    begun = replace(
        config, study=replace(config.study, task=opened.task)
    )  # the command may name the study alone
    name = quote(experiment_name(begun), safe="")
    request = Request(f"{url}/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}")
    give_credentials(url)
    user, password = login()
    if user and password:
        request.add_header(
            "Authorization", "Basic " + b64encode(f"{user}:{password}".encode()).decode()
        )
    try:
        with urlopen(request, timeout=10) as answer:
            experiment = json.load(answer)["experiment"]
    except (URLError, OSError, ValueError, KeyError):
        return None
    if not any(tag["key"] == TAG + view for tag in experiment.get("tags", [])):
        return None
    return deep_link(url, experiment["experiment_id"], view)
