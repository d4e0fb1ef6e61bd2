"""One PostgreSQL and one MLflow server, shared: a coordinator alone, then four at once.

    python benchmarks/coordinators.py                       # 200 trials each
    python benchmarks/coordinators.py --trials 40 --at-once 2

Every coordinator is a process of its own with the default sampler (TPE) and scheduler (promotion); its trials need
no time: a replay of synthetic curves, with the real logs, database and recorder. All homes have a study of the same
name. Afterwards every study must be in Optuna's database and in MLflow as in its logs, each point once. Written to
benchmarks/results/coordinators.json:

- CPU of a trial: of its coordinator, of PostgreSQL and of the MLflow server. It says what sharing costs however
  many cores there are, and whatever else the machine does.
- wall time of a trial, from the first suggestion to the last trial told, and until MLflow has everything. With more
  coordinators than cores it must grow: also given by the share of the cores that one has (``per_share``).
- paced: the same with trials that take --seconds each, as all real ones do: what a trial takes beyond that. This is
  the overhead that somebody waits for.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from chaos import Search, of_mlflow, of_optuna, tracking
from coordinator import config_of

from embsearch.config.schema import Config
from embsearch.launch.base import Job, TrainJob
from embsearch.launch.curves import Synthetic
from embsearch.launch.replay import Replay, VirtualClock
from embsearch.study.run import Study
from embsearch.track.mlflow import MlflowRecorder
from embsearch.track.optuna_follower import OptunaFollower
from embsearch.track.recorders import Recorders

HERE = Path(__file__).parent
PROMISED = 2.0  # a trial's overhead, shared to alone
UNTIL_SYNCED = 600.0  # seconds


class Paced(Replay):
    """A replay whose segments take so many seconds of the wall clock, shared out over a whole trial."""

    def __init__(self, clock: VirtualClock, seconds: float) -> None:
        super().__init__(Synthetic(), clock)
        self._seconds, self._due = seconds, 0.0

    def submit(self, slot: int, job: Job) -> None:
        super().submit(slot, job)
        self._due = time.monotonic() + self._seconds

    def wait(self, timeout: float) -> Any:
        time.sleep(max(self._due - time.monotonic(), 0))
        return super().wait(timeout)


def coordinate(config: Config, seconds: float) -> dict[str, Any]:
    """Run one study to its end, and until MLflow has it, in a process of its own."""
    clock, marks = VirtualClock(), []
    recorder: list[MlflowRecorder] = []
    segments = [0]

    def recorded(folder: Path) -> Recorders:
        recorder.append(MlflowRecorder(config, folder))
        both = Recorders(OptunaFollower(config, folder), recorder[0])
        both.start()
        return both

    def launcher(folder: Path) -> Replay:
        made = Paced(clock, seconds) if seconds else Replay(Synthetic(), clock)
        submit = made.submit

        def counted(slot: int, job: Job) -> None:
            segments[0] += isinstance(job, TrainJob)
            submit(slot, job)

        made.submit = counted  # type: ignore[method-assign]
        return made

    def watch(study: Study, line: str) -> None:
        if not marks and study.trials:
            marks.append(time.perf_counter())

    def ended(folder: Any) -> None:
        marks.append(time.perf_counter())

    Study(config, launcher, recorded, watch, clock, ended).run()
    until = time.monotonic() + UNTIL_SYNCED
    while recorder[0].pending and time.monotonic() < until:
        recorder[0].sync()
    first, last = marks
    own = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall": last - first, "recorded": time.perf_counter() - first, "segments": segments[0],
        "cpu": own.ru_utime + own.ru_stime, "pending": recorder[0].pending,
    }  # fmt: skip


def child(home: Path, storage: str, uri: str, trials: int, seconds: float) -> None:
    """Say when it is ready, and begin when it is told to."""
    config = config_of(home, trials)
    config = replace(
        config,
        study=replace(config.study, storage=storage),
        track=replace(config.track, mlflow=True, uri=uri, timeout=60.0),
    )
    print("ready", flush=True)
    sys.stdin.readline()
    before = resource.getrusage(resource.RUSAGE_SELF)
    found = coordinate(config, seconds)
    found["cpu"] -= before.ru_utime + before.ru_stime
    print(json.dumps(found), flush=True)


def at_once(
    homes: list[Path], storage: str, uri: str, trials: int, seconds: float
) -> list[dict[str, Any]]:
    words = [storage, uri, str(trials), str(seconds)]
    children = []
    for home in homes:
        home.mkdir(parents=True)
        children.append(subprocess.Popen(
            [sys.executable, __file__, "--child", str(home), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        ))  # fmt: skip
    for one in children:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in children:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    found = []
    for one in children:
        out, _ = one.communicate()
        if one.returncode:
            raise RuntimeError(f"a coordinator ended with exit code {one.returncode}")
        found.append(json.loads(out.splitlines()[-1]))
    return found


def used(pid: int) -> float:
    """Return the CPU seconds of a process and its children, also of those that have ended and were waited for."""
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def round_of(
    folder: Path,
    coordinators: int,
    storage: str,
    uri: str,
    servers: dict[str, int],
    trials: int,
    seconds: float,
) -> dict[str, Any]:
    """Return the milliseconds of a trial, and what is wrong afterwards."""
    homes = [folder / f"home{n}" for n in range(coordinators)]
    before = {name: used(pid) for name, pid in servers.items()}
    found = at_once(homes, storage, uri, trials, seconds)
    cpu = {name: (used(pid) - before[name]) / coordinators for name, pid in servers.items()}
    mean = {
        key: sum(one[key] for one in found) / coordinators
        for key in ("wall", "recorded", "cpu", "segments")
    }
    waited = mean["segments"] * seconds
    per_trial = 1000 / trials
    parts = {"coordinator": mean["cpu"], **cpu}
    return {
        "coordinators": coordinators,
        "wall_ms": round((mean["wall"] - waited) * per_trial, 1),
        "until_recorded_ms": round((mean["recorded"] - waited) * per_trial, 1),
        "cpu_ms": round(sum(parts.values()) * per_trial, 1),
        "cpu_ms_of": {name: round(value * per_trial, 1) for name, value in parts.items()},
        "faults": [
            f"{home.name}: {fault}"
            for home in homes
            for fault in faults(home, storage, uri, trials)
        ]
        + [f"{one['pending']} events are not in MLflow" for one in found if one["pending"]],
    }


def faults(home: Path, storage: str, uri: str, trials: int) -> Iterator[str]:
    search = Search([], home)
    if len(search.trials()) != trials:
        yield f"{len(search.trials())} trials, expected {trials}"
    yield from of_optuna(search, storage)
    yield from of_mlflow(search, uri)


def compared(alone: dict[str, Any], shared: dict[str, Any], flat_out: bool) -> dict[str, Any]:
    """Divide shared by alone. Flat out, one alone has a core; of four on two cores each has half."""
    cores, coordinators = os.cpu_count() or 1, shared["coordinators"]
    ratio = {
        key: round(shared[key] / alone[key], 2)
        for key in ("wall_ms", "until_recorded_ms", "cpu_ms")
    }
    if not flat_out:
        return ratio
    share = min(1.0, cores / coordinators)
    return {**ratio, "wall_ms_per_share": round(share * shared["wall_ms"] / alone["wall_ms"], 2)}


def run(
    folder: Path,
    storage: str,
    uri: str,
    servers: dict[str, int],
    trials: int,
    most: int,
    seconds: float,
) -> Any:
    """Measure one coordinator alone, then ``most`` at once."""
    rounds = [
        round_of(folder / f"{n}", n, storage, uri, servers, trials, seconds) for n in (1, most)
    ]
    return {
        "alone": rounds[0],
        "shared": rounds[1],
        "ratio": compared(*rounds, flat_out=not seconds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument(
        "--paced", type=int, default=60, metavar="TRIALS", help="0: only the trials without time"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="of a segment, where they are paced"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results" / "coordinators.json")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        home, storage, uri, trials, seconds = asked.child
        child(Path(home), storage, uri, int(trials), float(seconds))
        return 0
    sys.path.insert(0, str(HERE.parent / "tests"))
    from postgres import postgres

    from embsearch.track import server

    with (
        tempfile.TemporaryDirectory() as temporary,
        tracking(Path(temporary) / "mlflow") as mlflow,
        postgres(fsync=True) as pg,
    ):
        running = server.running(mlflow.folder)
        assert running is not None
        servers = {"postgresql": pg.pid, "mlflow": running.pid}
        folder, storage = Path(temporary), pg.address(pg.database())
        load = os.getloadavg()[0]
        noop = run(folder / "noop", storage, mlflow.url, servers, asked.trials, asked.at_once, 0.0)
        found: dict[str, Any] = {
            "machine": f"{os.cpu_count()} cores, load {load:.1f} before", "trials": asked.trials, "no_op": noop,
        }  # fmt: skip
        if asked.paced:
            paced = run(
                folder / "paced",
                storage,
                mlflow.url,
                servers,
                asked.paced,
                asked.at_once,
                asked.seconds,
            )
            found["paced"] = {"trials": asked.paced, "seconds_a_segment": asked.seconds, **paced}
    print(json.dumps(found, indent=1))
    asked.output.write_text(json.dumps(found, indent=1) + "\n")
    wrong = [fault for one in (noop, *filter(None, [found.get("paced")])) for part in ("alone", "shared")
             for fault in one[part]["faults"]]  # fmt: skip
    print(f"{len(wrong)} faults; a trial's overhead shared is {noop['ratio']['wall_ms']} times alone by the clock, "
          f"{noop['ratio']['cpu_ms']} in CPU (promised: {PROMISED})")  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
