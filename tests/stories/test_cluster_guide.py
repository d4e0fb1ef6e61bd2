"""The commands of docs/guide/cluster.md, as they stand there, on clusters and servers of this machine.

A study's search is made small by further words; names of hosts and ports become this machine's. Not run here:
pip install, KubeRay, and ``ray stop``, which would end every Ray on the machine.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from postgres import programs

PAGE = (Path(__file__).parents[2] / "docs/guide/cluster.md").read_text(encoding="utf-8")
PATIENCE = 240


def shown(begins, **here):
    """The command of the page that begins so, with its continued lines; ``here``: what stands for its names."""
    lines = PAGE.splitlines()
    found = [number for number, line in enumerate(lines) if line.startswith(begins)]
    assert found, f"docs/guide/cluster.md shows no command that begins with {begins!r}"
    command = lines[at := found[0]].split("    #")[0].split("   #")[0].rstrip()
    while command.endswith("\\"):
        at += 1
        command = command[:-1] + lines[at].strip()
    for name, value in here.items():
        command = command.replace(name.replace("_", "."), value)
    return command


@pytest.fixture
def shell(tmp_path, monkeypatch, tiny_bert, judgements_csv):
    """Runs a command in a folder and a HOME of its own; ``small`` are the words that make a search small."""
    scripts = str(Path(sys.executable).parent)
    path = os.pathsep.join([scripts, str(programs() or ""), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop(
        "RAY_AUTH_MODE", None
    )  # which ray.init in another test's process leaves in its environment
    small = (
        f" home={tmp_path}/home model.path={tiny_bert} data.path={judgements_csv} device=cpu train.precision=fp32"
        " train.texts=1500 stop.trials=3 confirm.top_k=0 evaluate.draws=50 launcher.threads=1"
    )

    def run(command, small_too=False, **variables):
        done = subprocess.run(
            ["bash", "-c", command + (small if small_too else "")], cwd=tmp_path, env=environment | variables,
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    run.environment, run.folder = environment, tmp_path
    return run


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def address():
    """This machine's, as Ray has it: its nodes find each other by it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


@pytest.mark.cluster("ray")
def test_ray_on_one_machine(shell):
    pytest.importorskip("ray")
    said = shell(
        shown("embsearch search study=product_search launcher=ray launcher.workers=2"), True
    )
    assert "Ray: started on this machine" in said
    assert "ended by stop.trials" in said


@pytest.mark.cluster("ray")
def test_ray_on_a_few_boxes(shell):
    pytest.importorskip("ray")
    port = free_port()
    try:
        shell(
            shown("ray start --head", **{"6379": str(port)})
            + " --num-cpus=1 --include-dashboard=false"
        )
        shell(shown("ray start --address", HEAD=address(), **{"6379": str(port)}) + " --num-cpus=1")
        said = shell(
            shown("embsearch search study=product_search launcher=ray launcher.address=auto"), True
        )
    finally:
        for process in psutil.process_iter():  # not ray stop, which would end others' too
            with suppress(psutil.Error):
                if process.environ().get("HOME") == str(shell.folder):
                    process.kill()
    assert "Ray: joined the cluster at auto, 2 nodes, 2 CPUs" in said
    assert "ended by stop.trials" in said


def test_slurm(shell, slurm_cluster):
    slurm_cluster.empty()
    variables = slurm_cluster.environment
    shell(shown("sinfo"), **variables)
    search = shown("embsearch search study=product_search launcher=slurm launcher.workers=2")
    said = shell(search, True, **variables)
    assert "ended by stop.trials" in said
    said = shell(
        shown("embsearch search study=product_search launcher=slurm launcher.workers=1"),
        True,
        **variables,
    )
    assert "nothing to do" in said
    assert "product_search" in shell(
        f"{shown('embsearch status study=product_search')} home={shell.folder}/home"
    )


def test_optuna_in_postgresql(shell, pg):
    """The superuser of the page is the test server's; createuser asks for the password on a terminal."""
    server = {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(pg.port),
        "PGUSER": pg.user,
        "PGPASSWORD": pg.password,
    }
    assert shown("createuser --pwprompt embsearch")
    pg.sql("DROP DATABASE IF EXISTS optuna")
    pg.sql("DROP ROLE IF EXISTS embsearch")
    pg.sql("CREATE ROLE embsearch LOGIN PASSWORD 'one-long-password'")
    shell(shown("createdb --owner embsearch optuna"), **server)
    here = {"db_example:5432": f"127.0.0.1:{pg.port}"}
    shell(shown("echo 'db.example", **here))
    here = {"db_example": f"127.0.0.1:{pg.port}"}
    said = shell(
        shown("embsearch search study=product_search study.storage=postgresql", **here)
        + " track=none",
        True,
    )
    assert "ended by stop.trials" in said
    assert [row[0] for row in pg.sql("SELECT count(*) FROM trials", "optuna")] == [3]
    dashboard = subprocess.Popen(
        ["bash", "-c", f"exec {shown('optuna-dashboard', **here)} --port {(port := free_port())}"],
        env=shell.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert "product_search@" in until_answered(f"http://127.0.0.1:{port}/api/studies")
    finally:
        dashboard.kill()
        dashboard.wait()
        time.sleep(0.5)
        pg.sql("DROP DATABASE optuna WITH (FORCE)")
        pg.sql("DROP ROLE embsearch")


def until_answered(url):
    until = time.monotonic() + 90
    while True:
        try:
            with urlopen(url, timeout=10) as answer:
                return answer.read().decode()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.3)


@contextmanager
def served(shell, *exports, **here):
    """The server of the page, in a folder of its own."""
    lines = "\n".join([*exports, "exec " + shown("mlflow server --app-name basic-auth", **here)])
    with (shell.folder / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", lines], cwd=shell.folder, env=shell.environment, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait()


@pytest.mark.story
def test_one_mlflow_server_for_a_team(shell):
    pytest.importorskip("flask_wtf", reason="pip install 'mlflow[auth]'")
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    port = free_port()
    here = {"5000": str(port), "--workers 2": "--workers 1", "mlflow_example": "localhost"}
    exports = [shown(f"export {name}") for name in (
        "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION",
        "MLFLOW_AUTH_CONFIG_PATH",
    )]  # fmt: skip
    shell(shown("printf '%s\\n' '[mlflow]'"))
    with served(shell, *exports, **here):
        until_answered(f"http://localhost:{port}/health")
        create, grant = PAGE.index("users/create"), PAGE.index("permissions/grant")
        requests = [
            PAGE[PAGE.rindex("curl -u", 0, at) :].split("\n```")[0].split("\ncurl")[0]
            for at in (create, grant)
        ]
        requests = [text.replace("5000", str(port)).replace("\\\n", " ") for text in requests]
        login = shown("export MLFLOW_TRACKING_USERNAME=alice")
        search = shown(
            "embsearch search study=product_search track.uri=http://mlflow.example:5000", **here
        )
        admin = "export MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD=a-long-password"
        shell(f"{admin}\n{search}", True)  # makes experiment 1
        for request in requests:
            shell(request + " --fail")
        said = shell(f"{login}\n{search} study.name=alices", True)
        assert "ended by stop.trials" in said
        assert "does not answer" not in said
        assert (
            "MLflow" not in said.partition("ended by stop.trials")[0]
        )  # as where it does not take the record
    assert (shell.folder / "mlflow.db").exists()
    assert list((shell.folder / "mlartifacts").rglob("*.safetensors"))


@pytest.mark.story
def test_one_trial_on_several_devices(shell):
    search = shown("embsearch search study=product_search train.devices=4").replace(
        "devices=4", "devices=2"
    )
    assert "ended by stop.trials" in shell(search, True)
