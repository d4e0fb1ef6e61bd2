"""The number of workers that one coordinator can keep busy: its own work beside 1,000 simulated ones.

    python benchmarks/workers.py                                # 1,000 workers, and how many take half a core
    python benchmarks/workers.py --workers 1000 --segments 10000

A study with the default sampler (TPE) and scheduler (promotion), real event logs and a real database, whose workers
are played on a virtual clock (launcher=replay): every segment takes 30 virtual seconds, some up to a fifth less or
more, and does nothing but tell its points on the way, as often as real workers do. The coordinator keeps up
while its seconds, CPU and wall, are fewer than the virtual ones.
Counted from the moment when every worker had its first segment, in windows, into benchmarks/results/workers.json.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from coordinator import SPACE

from embsearch.config.build import build
from embsearch.config.schema import Config
from embsearch.launch.base import Message, Points, TrainJob
from embsearch.launch.curves import Curve, Synthetic
from embsearch.launch.replay import Player, Replay, VirtualClock
from embsearch.study.run import Study
from embsearch.track import recorders
from embsearch.track.base import Recorder, Recorders

HERE = Path(__file__).parent
SEGMENT = 30.0  # virtual seconds
AT = (0.2, 0.4, 0.6, 0.8, 1.0)  # five segments of one length make a trial


class Enough(Exception):
    """A signal that enough segments were measured."""


@dataclass(frozen=True)
class Uneven(Synthetic):
    """Curves of trials that are a fifth slower or faster, so that workers do not end in step."""

    def curve(self, trial: int, config: Mapping[str, Any]) -> Curve:
        pace = random.Random(trial).uniform(0.8, 1.2)
        curve = super().curve(trial, config)
        measured = tuple(replace(m, seconds=pace * m.seconds) for m in curve.measurements)
        points = tuple((step, curve.points[0][1]) for step in range(1, measured[-1].step + 1))
        return replace(curve, measurements=measured, points=points)


class Talker(Player):
    """A replay that sends its points on the way, as often as a real worker does."""

    def _train(self, job: TrainJob) -> Iterator[tuple[float, Message]]:
        for seconds, message in super()._train(job):
            if isinstance(message, Points) and (points := message.points):
                parts = max(1, int(seconds / job.points_every))
                for part in range(parts):
                    told = points[part * len(points) // parts : (part + 1) * len(points) // parts]
                    yield seconds * (part + 1) / parts, Points(told)
            else:
                yield seconds, message


class Meter:
    """A listener to a study's changes that notes CPU, wall and virtual seconds by segments measured."""

    def __init__(self, clock: VirtualClock, workers: int, segments: int) -> None:
        self.clock, self.workers, self.segments = clock, workers, segments
        self.measured, self.marks = 0, [self._now()]

    def _now(self) -> tuple[int, float, float, float]:
        return (
            getattr(self, "measured", 0),
            time.process_time(),
            time.perf_counter(),
            self.clock.monotonic(),
        )

    def __call__(self, study: Study, line: str) -> None:
        if " at rung " not in line:
            return
        self.measured += 1
        if self.measured % self.workers == 0 or self.measured >= self.segments:
            self.marks.append(self._now())
        if self.measured >= self.segments:
            raise Enough

    def windows(self) -> list[dict[str, float]]:
        """Return the windows between rounds of all workers. The first one, which begins all, is left out."""
        found = []
        for (n, cpu, wall, virtual), (m, cpu2, wall2, virtual2) in zip(
            self.marks[1:], self.marks[2:], strict=False
        ):
            passed = virtual2 - virtual
            found.append({
                "segments": m, "cores": round((cpu2 - cpu) / passed, 3), "wall": round((wall2 - wall) / passed, 3),
                "cpu_ms_a_segment": round(1000 * (cpu2 - cpu) / (m - n), 2),
                "wall_ms_a_segment": round(1000 * (wall2 - wall) / (m - n), 2),
            })  # fmt: skip
        return found


def config_of(home: Path, mlflow: str) -> Config:
    data = home / "rows.csv"
    data.write_text(
        "query,title,grade\n" + "".join(f"q{n},a {n},1\nq{n},b {n},0\n" for n in range(12))
    )
    return build({
        "home": str(home), "data": {"path": str(data)}, "study": {"name": "workers"}, "space": SPACE,
        "stop": {"trials": 1_000_000}, "launcher": {"name": "replay"}, "evaluate": {"at": list(AT)},
        "track": {"mlflow": bool(mlflow), "uri": mlflow or None}, "confirm": {"top_k": 0},
    })  # fmt: skip


def measure(workers: int, segments: int, mlflow: str = "") -> dict[str, Any]:
    """Return the coordinator's own seconds a virtual second, for ``workers`` that are always busy."""
    with tempfile.TemporaryDirectory() as folder:
        config, clock = config_of(Path(folder), mlflow), VirtualClock()
        meter = Meter(clock, workers, segments)

        def recorder(study: Path) -> Recorder:
            if not mlflow:
                return Recorders()
            made = recorders.make(config, study)
            made.start()
            return made

        curves = Uneven(trial_seconds=SEGMENT * len(AT))

        def launcher(_: Path) -> Replay:
            made = Replay(curves, clock, workers)
            made._play = Talker(curves)
            return made

        study = Study(config, launcher, recorder, meter, clock)
        with suppress(Enough):
            study.run()
        windows = meter.windows()
        last = windows[len(windows) // 2 :]
        mean = {
            name: round(sum(w[name] for w in last) / len(last), 3)
            for name in last[0]
            if name != "segments"
        }
        return {
            "workers": workers,
            "segments": segments,
            "trials": len(study.trials),
            **mean,
            "windows": windows,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="*", default=[250, 1000, 2000])
    parser.add_argument("--segments", type=int, default=10, help="rounds of all workers")
    parser.add_argument("--mlflow", default="", metavar="URI", help="record to this MLflow too")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "workers.json")
    args = parser.parse_args()
    found: dict[str, Any] = {
        "optuna": optuna.__version__, "python": platform.python_version(), "cpus": os.cpu_count(),
        "segment_s": SEGMENT, "mlflow": bool(args.mlflow), "by_workers": [],
    }  # fmt: skip
    profile = cProfile.Profile()
    for workers in args.workers:
        if args.profile:
            profile.enable()
        one = measure(workers, args.segments * workers, args.mlflow)
        profile.disable()
        print(f"{workers} workers: {one['cores']:.2f} of a core, {one['cpu_ms_a_segment']:.1f} ms CPU and "
              f"{one['wall_ms_a_segment']:.1f} ms wall a segment, {one['trials']} trials", flush=True)  # fmt: skip
        found["by_workers"].append(one)
    if args.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
