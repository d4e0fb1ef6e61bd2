"""A promotion killed at every step, and at random: the champion always loads, the history is whole.

    python benchmarks/kills.py                    # about five minutes; writes benchmarks/results/kills.json

Two models of a real MLflow take turns as champion. A process of its own moves the alias and is killed with SIGKILL:
at each request to MLflow once before and once after it, then --kills times at a random moment. After every kill a
fresh process says who is champion, whether its files are those registered, and what the history says; every twentieth
time it also loads and encodes. Nothing of MLflow is open when a process is made, so none inherits a connection.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

# imported before the processes are made, since each would take seconds for it
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
from mlflow.store.db import utils as schema

from embsearch.config.schema import Config, ModelConfig, StudyConfig, TrackConfig
from embsearch.model import pretrained
from embsearch.registry import alias_history
from embsearch.registry import mlflow_registry as registry
from embsearch.track.mlflow_model import DIGEST, log_model
from embsearch.track.mlflow_store import find_experiment
from embsearch.track.unaltered import check

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "kills.json"
NAME = "killed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="at random moments")
    parser.add_argument(
        "--every", type=int, default=1, help="of the steps that one kill each is at"
    )
    parser.add_argument(
        "--model", default="minilm", help="a folder in sentence-transformers' format"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="kills."))
    schema._get_latest_schema_revision()
    try:
        found = run(home, args.model, args.kills, args.every)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    made = {"command": " ".join(sys.argv), "python": platform.python_version()}
    args.out.write_text(json.dumps({"made_with": made} | found, indent=1) + "\n")
    print(
        f"{found['kills']} kills, {found['moves']} moves: the champion always loaded, the history is whole"
    )


schema._get_latest_schema_revision = cache(
    schema._get_latest_schema_revision
)  # reads 80 files, the same every time


def run(home: Path, model: str, kills: int, every: int = 1) -> dict[str, Any]:
    """Kill and look, in turns. Raise AssertionError if a champion is missing or the history has a gap."""
    config = Config(home=str(home), study=StudyConfig(task=NAME), track=TrackConfig(timeout=30))
    models = other(lambda: two_models(config, home, pretrained.find(ModelConfig(path=model))))
    seen = [look(config, load=True)]
    step = 0
    while True:  # at every request, before and after it
        ended = killed(config, models, seen[-1]["version"], at=step)
        seen.append(look(config, load=step % 20 == 0))
        if ended:
            break
        step += every
    steps = step // every
    one = other(lambda: timed(config, models, seen[-1]["version"]))
    seen.append(look(config))
    draw = random.Random(0)
    for number in range(kills):
        killed(config, models, seen[-1]["version"], after=draw.uniform(0, 1.2 * one))
        seen.append(look(config, load=number % 20 == 0))
    check_history(seen)
    return {
        "kills": steps + kills,
        "steps": steps,
        "moves": len(seen[-1]["history"]),
        "seconds a move": one,
    }


def two_models(config: Config, home: Path, source: str) -> list[list[str]]:
    """Log two models and return their ids and digests; the first is registered and champion."""
    client = registry.registry(config)
    experiment = find_experiment(client, config)
    assert experiment is not None
    made = []
    for number in range(2):
        folder = home / f"m{number}" / "model"
        shutil.copytree(source, folder)
        (folder / "README.md").write_text(f"model {number}")
        run_id = client.create_run(experiment).info.run_id
        model_id = log_model(
            client, experiment, run_id, f"uid/{number}", folder, "m", {}, {}, [], 0
        )
        made.append([model_id, client.get_logged_model(model_id).tags[DIGEST]])
    version = registry.register(client, NAME, *made[0])
    alias_history.move_champion(client, NAME, version.version, None, "first")
    return made


def promote(client: Any, models: list[list[str]], champion: int) -> None:
    """Change the registry: find or make the other model's version, move the alias."""
    now = registry.get_version(client, NAME, champion)
    model_id, digest = next(model for model in models if model[1] != now.digest)
    version = registry.register(client, NAME, model_id, digest, {"embsearch.test_auc": "0.9"})
    alias_history.move_champion(client, NAME, version.version, champion, "better")


def timed(config: Config, models: list[list[str]], champion: int) -> float:
    client = registry.registry(config)
    started = time.monotonic()
    promote(client, models, champion)
    return time.monotonic() - started


class Dying:
    """A client whose process kills itself at its request number ``at``: even before it, odd after it."""

    def __init__(self, client: Any, at: int) -> None:
        self._client, self._at, self._asked = client, at, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **more: Any) -> Any:
            if self._asked == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = method(*args, **more)
            if self._asked + 1 == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
            self._asked += 2
            return answer

        return call


def killed(
    config: Config,
    models: list[list[str]],
    champion: int,
    at: int | None = None,
    after: float | None = None,
) -> bool:
    """Promote in a process of its own, killed at a request or some seconds after its first. Return True if it
    ended by itself."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            client = registry.registry(config)
            os.write(tell, b".")
            promote(client if at is None else Dying(client, at), models, champion)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(tell)
    os.read(ready, 1)
    os.close(ready)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the promotion failed by itself"
    return not os.WIFSIGNALED(status)


def look(config: Config, load: bool = False) -> dict[str, Any]:
    """Ask a fresh process who is champion."""

    def ask() -> dict[str, Any]:
        client = registry.registry(config)
        found = registry.champion(client, NAME, Path(config.home) / "cache")
        assert found is not None, "no champion"
        check(found.folder, found.version.digest)
        if load:
            assert (
                pretrained.load(found.folder).encode(["red shoe"], show_progress_bar=False).shape[0]
                == 1
            )
        return {"version": found.version.version, "history": alias_history.history(client, NAME)}

    return other(ask)


def check_history(seen: list[dict[str, Any]]) -> None:
    """Check that the history holds every change of champion that anybody saw, and nothing else."""
    champions = [seen[0]["version"]]
    for one in seen:
        if one["version"] != champions[-1]:
            champions.append(one["version"])
    history = seen[-1]["history"]
    assert [entry["version"] for entry in history] == champions, (history, champions)
    assert all(a["version"] == b["before"] for a, b in pairwise(history))


def other(work: Callable[[], Any]) -> Any:
    """Do ``work`` in a process of its own and return its result, by JSON."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with os.fdopen(writing, "w") as file:
                json.dump(work(), file)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, "it failed; what it said stands above"
    return json.loads(text)


if __name__ == "__main__":
    main()
