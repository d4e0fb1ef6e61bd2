"""A study under kill -9 whose tracking server goes away, beside the same study left alone.

    make chaos                                      # 12 trials of MiniLM on real data, 20 kills, about 17 minutes
    python benchmarks/chaos.py --kills 4 --trials 4

Both studies record to a real MLflow server. The second one loses a process to kill -9 every 20 seconds or so, drawn
by a seed from the coordinator and its workers; a coordinator is started again by the same command. The server is
killed too, for a third of the time. Then the event logs, Optuna's database and MLflow must say what they say of
the first study (``faults``). The figures go to benchmarks/results/chaos.json; exit code 1: something is wrong.

tests/stories/test_chaos.py is the short form, with a tiny encoder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from embsearch.history.events import Opened, of_kind
from embsearch.history.log import read_events as typed_events
from embsearch.history.log import read_json as read_events
from embsearch.track import server
from embsearch.track.mirror import metric_name, study_uid, trial_folders
from embsearch.track.mlflow_store import fail_fast

HERE = Path(__file__).parent
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
STATES = {"complete": "COMPLETE", "pruned": "PRUNED"}  # of failures, their kind decides
RATIO, TO_NEXT_STEP = (
    1.6,
    10.0,
)  # promised: wall time to undisturbed; seconds from a kill, beside imports


@dataclass(frozen=True)
class Plan:
    """The kills of a study and the hours of its server, all drawn from ``seed``."""

    kills: int
    between: tuple[float, float]  # seconds from one kill to the next
    after_a_step: bool = False  # counted from the first new training step since: however slow the machine, it gets on
    seed: int = 0

    def away(self, kills: int) -> bool:
        """Say if the tracking server is away after so many kills: they come evenly, so for a third of the study."""
        return 0.3 * self.kills <= kills < 0.7 * self.kills


@dataclass
class Kill:
    at: int  # Unix ms
    slot: int | None  # of a worker; None: the coordinator
    seconds: float | None = (
        None  # to the next step that nobody had trained before, there or (coordinator) anywhere
    )


@dataclass
class Search:
    """One ``embsearch search`` command, started again as often as it must be."""

    words: list[str]
    home: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "embsearch.cli.main",
            "search",
            *self.words,
            f"home={self.home}",
        ]
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "search.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | ENVIRONMENT, stdout=log, stderr=log
            )

    def ended(self) -> bool:
        """Return True if it ended, False if it runs. Raise RuntimeError if it failed."""
        code = self.process.poll()
        if code:
            raise RuntimeError(
                f"exit code {code}\n" + (self.home / "search.log").read_text()[-3000:]
            )
        return code == 0

    def workers(self) -> dict[int, psutil.Process]:
        """Return the workers by slot, which is the number in the name of a worker's log."""
        found = {}
        for process in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error, OSError):
                name = Path(os.readlink(f"/proc/{process.pid}/fd/2")).stem
                if name.startswith("worker-"):
                    found[int(name.removeprefix("worker-"))] = process
        return found

    @property
    def study(self) -> Path:
        (folder,) = (self.home / "studies").iterdir()
        return folder

    def log(self) -> list[dict[str, Any]]:
        return read_events(self.study / "events.jsonl")

    def trials(self) -> dict[str, list[dict[str, Any]]]:
        return {
            folder.name: read_events(folder / "events.jsonl")
            for folder in trial_folders(self.study)
        }

    def steps(self) -> dict[int, list[int]]:
        """Return the times of each slot's new steps, in Unix ms. Repeated steps are not logged."""
        found: dict[int, list[int]] = {}
        for events in self.trials().values():
            slot = -1
            for event in events:
                if event["kind"] == "segment":
                    slot = event["slot"]
                elif event["kind"] == "points":
                    found.setdefault(slot, []).extend(at for _, at, _ in event["points"])
        return {slot: sorted(times) for slot, times in found.items()}


class Tracking:
    """A real MLflow server that can be killed and comes back at the same address with the same database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = server.serve(folder, port=0).url
        self.anew()

    def anew(self) -> None:
        self.away, self.killed = 0.0, None
        self.coming: threading.Thread | None = None

    away: float  # seconds, once it is back
    killed: float | None

    def kill(self) -> None:
        found = server.running(self.folder)
        assert found is not None
        for process in [
            *psutil.Process(found.pid).children(recursive=True),
            psutil.Process(found.pid),
        ]:
            process.kill()
        self.killed = time.monotonic()

    def come_back(self) -> None:
        self.coming = threading.Thread(target=self._come_back)
        self.coming.start()

    def _come_back(self) -> None:
        again = server.serve(self.folder, int(self.url.rsplit(":", 1)[1]))
        assert again.url == self.url
        assert self.killed is not None
        self.away = time.monotonic() - self.killed

    def be_there(self) -> None:
        if self.killed is not None and self.coming is None:
            self.come_back()
        if self.coming is not None:
            self.coming.join()


@contextmanager
def tracking(folder: Path) -> Iterator[Tracking]:
    made = Tracking(folder)
    try:
        yield made
    finally:
        made.be_there()
        server.stop(folder)


def undisturbed(search: Search) -> float:
    """Run the study and return its seconds."""
    started = time.monotonic()
    search.start()
    try:
        search.process.wait()
    finally:
        end(search)
    assert search.ended()
    return time.monotonic() - started


def disturbed(search: Search, plan: Plan, mlflow: Tracking) -> tuple[float, list[Kill]]:
    """Run the study under kills. Return its seconds, and who was killed when."""
    mlflow.anew()
    draw = random.Random(plan.seed)
    kills: list[Kill] = []
    started = time.monotonic()
    due = None if plan.after_a_step else started + draw.uniform(*plan.between)
    search.start()
    try:
        while not search.ended():
            now = time.monotonic()
            if mlflow.killed is None and plan.away(len(kills)):
                mlflow.kill()
            elif mlflow.killed is not None and mlflow.coming is None and not plan.away(len(kills)):
                mlflow.come_back()
            if len(kills) < plan.kills and due is None and trained_since(search, kills):
                due = now + draw.uniform(*plan.between)
            if len(kills) < plan.kills and due is not None and now > due:
                kills.append(kill(search, draw))
                due = None if plan.after_a_step else due + draw.uniform(*plan.between)
            time.sleep(0.05 if due is not None else 0.3)
        seconds = time.monotonic() - started
    finally:
        end(search)
        mlflow.be_there()
    undisturbed(search)  # once more: starts nothing, and brings MLflow what it may lack
    for one, following in zip(kills, [*kills[1:], None], strict=True):
        one.seconds = to_next_step(one, search.steps(), following)
    return seconds, kills


def trained_since(search: Search, kills: list[Kill]) -> bool:
    last = kills[-1].at if kills else 0
    with suppress(FileNotFoundError, ValueError):  # no study yet
        return any(times[-1] > last for times in search.steps().values())
    return False


def kill(search: Search, draw: random.Random) -> Kill:
    workers = search.workers()
    slot = draw.choice([None, *sorted(workers)])
    at = int(time.time() * 1000)
    if slot is not None:
        workers[slot].kill()
        return Kill(at, slot)
    search.process.kill()
    search.process.wait()
    search.start()
    return Kill(at, None)


def end(search: Search) -> None:
    """End every process, whatever happened; workers end with their coordinator."""
    if search.process.poll() is None:
        search.process.kill()
        search.process.wait()


def to_next_step(one: Kill, steps: dict[int, list[int]], following: Kill | None) -> float | None:
    """Return the seconds to the next step; None if another kill came first or nothing was left to train."""
    times = sorted(t for slot, found in steps.items() for t in found if one.slot in (None, slot))
    place = bisect_right(times, one.at)
    until = (
        following.at
        if following is not None and following.slot in (None, one.slot)
        else float("inf")
    )
    return (times[place] - one.at) / 1000 if place < len(times) and times[place] < until else None


# What must hold


def faults(
    calm: Search, search: Search, kills: list[Kill], url: str, storage: str | None = None
) -> list[str]:
    """List what is wrong with a disturbed study, compared with the undisturbed one."""
    return [*of_the_logs(calm, search, kills), *of_optuna(search, storage), *of_mlflow(search, url)]


def of_the_logs(calm: Search, search: Search, kills: list[Kill]) -> Iterator[str]:
    mine, theirs = search.trials(), calm.trials()
    if list(mine) != list(theirs):
        yield f"trials: {list(mine)}, undisturbed {list(theirs)}"
    for name in mine.keys() & theirs.keys():
        for what in (created, measured, ended):
            if what(mine[name]) != what(theirs[name]):
                yield f"{name}: {what.__name__} {what(mine[name])}, undisturbed {what(theirs[name])}"
        trained = [step for event in of(mine[name], "points") for step, _, _ in event["points"]]
        if trained != list(range(1, of(mine[name], "measured")[-1]["step"] + 1)):
            yield f"{name}: {len(trained)} steps in the log, {len(set(trained))} different ones, last {trained[-1]}"
        if any(begun_elsewhere(mine[name])):
            yield f"{name}: a segment did not begin at the last evaluation"
    told = Counter(event["trial"] for event in of(search.log(), "told"))
    if told != Counter(range(len(theirs))):
        yield f"Optuna was told {dict(told)}"
    given = sum(len(of(events, "segment")) for events in mine.values())
    needed = sum(len(of(events, "measured")) for events in mine.values())
    workers = 1 + max(
        (event["slot"] for events in mine.values() for event in of(events, "segment")), default=0
    )
    most = sum(1 if one.slot is not None else workers for one in kills)
    if given - needed > most:
        yield f"{given} segments for {needed} evaluations: more than {most} were lost by {len(kills)} kills"
    one, other = (of(s.log(), "closed")[-1]["result"] for s in (search, calm))
    for key in ("why", "best", "table", "counts"):
        if one[key] != other[key]:
            yield f"result: {key} {one[key]}, undisturbed {other[key]}"


def of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["kind"] == kind]


def created(events: list[dict[str, Any]]) -> list[Any]:
    return [event["params"] for event in of(events, "created")]


def measured(events: list[dict[str, Any]]) -> list[Any]:
    return [(event["rung"], event["step"], event["metrics"]) for event in of(events, "measured")]


def ended(events: list[dict[str, Any]]) -> list[Any]:
    return [(event["state"], event["value"], event["objective"]) for event in of(events, "ended")]


def begun_elsewhere(events: list[dict[str, Any]]) -> Iterator[bool]:
    """Yield for every segment if it began elsewhere than at the last evaluation in the log."""
    rung = 0
    for event in events:
        if event["kind"] == "measured":
            rung = event["rung"]
        elif event["kind"] == "segment":
            yield event["segment"]["from_checkpoint"] != rung


def of_optuna(search: Search, storage: str | None = None) -> Iterator[str]:
    """Yield what differs in Optuna's database; ``storage``: a PostgreSQL for others too, with its password."""
    database = f"sqlite:///{search.home / 'optuna.db'}"
    mine = ""
    if storage is not None:
        database = storage.replace("postgresql:", "postgresql+psycopg:", 1)
        mine = "@" + (search.home / "id").read_text()
    (name,) = [name for name in optuna.get_all_study_names(database) if name.endswith(mine)]
    there = {t.number: t for t in optuna.load_study(study_name=name, storage=database).trials}
    trials = search.trials()
    if sorted(there) != list(range(len(trials))):
        yield f"Optuna has the trials {sorted(there)}"
    for number, events in enumerate(trials.values()):
        (ending,) = of(events, "ended")
        found = there[number]
        if ending["state"] in STATES and found.state.name != STATES[ending["state"]]:
            yield f"Optuna has trial {number} as {found.state.name}, the log as {ending['state']}"
        elif not found.state.is_finished() or (
            ending["state"] == "complete" and found.value != ending["value"]
        ):
            yield f"Optuna has trial {number} as {found.state.name} {found.value}, the log {ended(events)}"


def of_mlflow(search: Search, url: str) -> Iterator[str]:
    fail_fast(30.0)
    client = MlflowClient(url)
    (opened, *_) = of_kind(typed_events(search.study / "events.jsonl"), Opened)
    uid = study_uid(opened)
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(
        experiments, f"tags.`embsearch.study_uid` = '{uid}'", max_results=1000
    )
    running = [run.info.run_name for run in runs if run.info.status == "RUNNING"]
    if running:
        yield f"MLflow has {running} as RUNNING"
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [
        run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    trials = search.trials()
    names = sorted(str(run.info.run_name) for run in children)
    if names != list(trials):
        yield f"MLflow has the trials {names}"
    curve = [point.step for point in client.get_metric_history(parent.info.run_id, "objective")]
    if sorted(curve) != list(range(len(trials))):
        yield f"MLflow has {sorted(curve)} as the steps of the study's objective"
    for run in children:
        yield from of_a_run(client, run, trials[str(run.info.run_name)])


def of_a_run(client: MlflowClient, run: Run, events: list[dict[str, Any]]) -> Iterator[str]:
    name, state = run.info.run_name, of(events, "ended")[0]["state"]
    if run.info.status != STATUS[state]:
        yield f"MLflow has {name} as {run.info.status}, the log as {state}"
    expected: dict[str, list[tuple[int, int, float]]] = {}
    for step, at, metrics in logged(events):
        for key, value in metrics.items():
            expected.setdefault(metric_name(key), []).append((step, at, value))
    for key, points in expected.items():
        there = [
            (p.step, p.timestamp, p.value) for p in client.get_metric_history(run.info.run_id, key)
        ]
        if sorted(there) != sorted(points):
            missing, more = Counter(points) - Counter(there), Counter(there) - Counter(points)
            yield f"MLflow, {name}, {key}: {missing.total()} of {len(points)} points missing, {more.total()} too many"


def logged(events: list[dict[str, Any]]) -> Iterator[tuple[int, int, dict[str, float]]]:
    """Return every point of a trial's log: (step, Unix ms, metrics)."""
    for event in events:
        if event["kind"] == "points":
            yield from ((step, at, metrics) for step, at, metrics in event["points"])
        elif event["kind"] == "measured":
            yield event["step"], event["time"], event["metrics"]


# What it took


def run(words: list[str], folder: Path, plan: Plan, mlflow: Tracking) -> dict[str, Any]:
    """Run both studies and report on them."""
    words = [*words, f"track.uri={mlflow.url}"]
    calm, search = Search(words, folder / "calm"), Search(words, folder / "chaos")
    calm_seconds = undisturbed(calm)
    seconds, kills = disturbed(search, plan, mlflow)
    wrong = [f"undisturbed: {fault}" for fault in of_mlflow(calm, mlflow.url)]
    wrong += faults(calm, search, kills, mlflow.url)
    if len(kills) < plan.kills:
        wrong.append(f"the study ended after {len(kills)} of {plan.kills} kills")
    if mlflow.away < seconds / 5:
        wrong.append(f"the tracking server was away for {mlflow.away:.0f} s only")
    best, calm_best = (of(s.log(), "closed")[-1]["result"]["table"][-1] for s in (search, calm))
    reached = [one.seconds for one in kills if one.seconds is not None]
    coordinators = sum(one.slot is None for one in kills)
    return {
        "kills": {"workers": len(kills) - coordinators, "coordinator": coordinators},
        "server_away_seconds": round(mlflow.away, 1),
        "server_away_share": round(mlflow.away / seconds, 2),
        "trials": len(search.trials()),
        "best": best["validation"], "best_undisturbed": calm_best["validation"],
        "seconds": round(seconds, 1), "seconds_undisturbed": round(calm_seconds, 1),
        "ratio": round(seconds / calm_seconds, 2),
        "kill_to_next_step": [
            ["coordinator" if one.slot is None else f"worker {one.slot}", one.seconds and round(one.seconds, 1)]
            for one in kills
        ],
        "kill_to_next_step_median": round(statistics.median(reached), 1) if reached else None,
        "kill_to_next_step_most": round(max(reached), 1) if reached else None,
        "faults": wrong,
    }  # fmt: skip


def imports(module: str, at_once: int) -> float:
    """Return the seconds until ``at_once`` processes that start together have imported the module."""
    started = time.monotonic()
    command = [sys.executable, "-c", f"import {module}"]
    for process in [
        subprocess.Popen(command, env=os.environ | ENVIRONMENT) for _ in range(at_once)
    ]:
        process.wait()
    return round(time.monotonic() - started, 1)


def table(found: dict[str, Any]) -> str:
    kills = found["kills"]
    rows = [
        ("kill -9", f"{kills['workers']} of workers, {kills['coordinator']} of the coordinator"),
        ("server away", f"{found['server_away_seconds']} s, {100 * found['server_away_share']:.0f} % of the time"),
        ("trials", str(found["trials"])),
        ("best value", f"{found['best']}, undisturbed {found['best_undisturbed']}"),
        ("seconds", f"{found['seconds']}, undisturbed {found['seconds_undisturbed']}: x {found['ratio']}"),
        ("kill to next step",
         f"{found['kill_to_next_step_median']} s (median), {found['kill_to_next_step_most']} s (most)"),
    ]  # fmt: skip
    if "imports" in found:
        rows.append(
            ("of that imports", ", ".join(f"{k} {v} s" for k, v in found["imports"].items()))
        )
    rows += [("wrong", fault) for fault in found["faults"]] or [("wrong", "nothing")]
    return "\n".join(f"{name:<18} {words}" for name, words in rows)


def words_of(trials: int, texts: int) -> list[str]:
    """Return the settings of studies/product_search with every trial run to its end, whose order does not matter:
    no trial's configuration (qmc) and no trial's length (none) depends on which worker was faster."""
    return [
        "study=product_search", "model=minilm", "device=cpu", "sampler=qmc", "scheduler=none",
        "launcher.workers=2", "launcher.threads=1", f"stop.trials={trials}", "stop.seconds=null", "confirm.top_k=0",
        f"train.texts={texts}",
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--texts", type=int, default=19_200, help="of one trial")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--every", type=float, default=20.0, help="seconds between two kills, on average"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "chaos.json")
    parser.add_argument(
        "--keep", type=Path, help="a folder for both homes instead of one that is removed"
    )
    asked = parser.parse_args()
    words = words_of(asked.trials, asked.texts)
    plan = Plan(asked.kills, (0.5 * asked.every, 1.5 * asked.every), seed=asked.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.keep or Path(temporary)).resolve()
        with tracking(folder / "mlflow") as mlflow:
            found = run(words, folder, plan, mlflow)
    found["imports"] = {
        "coordinator": imports("embsearch.cli.search", 1), "two workers at once": imports("embsearch.worker", 2),
    }  # fmt: skip
    allowed = TO_NEXT_STEP + sum(found["imports"].values())
    found["faults"] += (
        [f"wall time x {found['ratio']}, promised {RATIO}"] if found["ratio"] > RATIO else []
    )
    if (found["kill_to_next_step_most"] or 0) > allowed:
        found["faults"].append(f"kill to next step took more than {allowed:.1f} s")
    print(table(found))
    found = {"command": " ".join(["embsearch search", *words]), "every_seconds": asked.every, "seed": asked.seed,
             "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}", **found}  # fmt: skip
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
