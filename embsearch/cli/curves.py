"""What ``launcher=replay`` plays: the curves of a finished study, a file of them, or synthetic ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from embsearch.config.build import build, value_at
from embsearch.config.schema import Config
from embsearch.errors import UserError
from embsearch.launch.curves import Curve, Curves, Point, Recorded, Synthetic
from embsearch.track.events import Event, read_events
from embsearch.values import Measurement, record

BLAMED = ("diverged", "out_of_memory")  # a configuration that failed by itself fails again


def curves(config: Config) -> Curves:
    """What ``config.launcher`` asks for. Raises UserError where there are no curves to be had."""
    launcher = config.launcher
    if launcher.curves is None:
        return Synthetic(config.seed, launcher.noise, launcher.trial_seconds)
    path = Path(launcher.curves).expanduser()
    if path.is_dir():
        return recorded(path)
    if path.is_file():
        return from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
    raise UserError(f"launcher.curves={path}: expected the folder of a study, as .embsearch/studies/NAME, or a file")


def recorded(study: Path) -> Recorded:
    """The trials of a study that came to their end, or failed by their own parameters."""
    locked = study / "study.yaml"
    events = read_events(study / "events.jsonl")
    baseline = [e for e in events if e["kind"] == "baseline"]
    if not locked.exists() or not baseline:
        raise UserError(f"launcher.curves={study}: no study that has begun; expected study.yaml and events.jsonl")
    config = build(yaml.safe_load(locked.read_text(encoding="utf-8"))["config"])
    configs, found = [], []
    for folder in sorted((study / "trials").glob("t[0-9]*"), key=lambda p: int(p.name[1:])):
        curve = _curve(read_events(folder / "events.jsonl"))
        if curve is not None:
            own = build(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
            configs.append({path: value_at(own, path) for path in config.space})
            found.append(curve)
    return Recorded(config.evaluate.at, configs, found, baseline[-1]["metrics"], f"study {config.study.name}")


def to_json(curves: Recorded) -> dict[str, Any]:
    """Recorded curves as one file, without the points between evaluations."""
    return {
        "at": list(curves.at),
        "untuned": dict(curves.untuned),
        "trials": [
            {"config": dict(config), "failure": curve.failure, "measured": [record(m) for m in curve.measurements]}
            for config, curve in zip(curves.configs, curves.curves, strict=True)
        ],
    }


def from_json(content: Mapping[str, Any], origin: str) -> Recorded:
    trials = content["trials"]
    found = [
        Curve(tuple(Measurement(**m) for m in t["measured"]), failure=tuple(t["failure"]) if t["failure"] else None)
        for t in trials
    ]
    return Recorded(tuple(content["at"]), [t["config"] for t in trials], found, content["untuned"], origin)


def _curve(events: list[Event]) -> Curve | None:
    """The curve of a trial's log; None where it was paused, pruned or cut off."""
    ended = next((e for e in events if e["kind"] == "ended"), None)
    if ended is None or not (ended["state"] == "complete" or ended["failure"] in BLAMED):
        return None
    names = Measurement.__dataclass_fields__
    measured = [Measurement(**{n: e[n] for n in names if n in e}) for e in events if e["kind"] == "measured"]
    points: list[Point] = [(p[0], p[2]) for e in events if e["kind"] == "points" for p in e["points"]]
    failed = (ended["failure"], ended["reason"]) if ended["failure"] else None
    return Curve(tuple(measured), tuple(points), failed)
