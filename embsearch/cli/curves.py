"""Curves for ``launcher=replay``: those of a finished study, a file of them, or synthetic ones."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from embsearch.codec import Json, JsonObject
from embsearch.config.build import build, value_at
from embsearch.config.launchers import ReplayConfig
from embsearch.errors import UserError
from embsearch.history import events
from embsearch.history.events import Event
from embsearch.history.log import read_events
from embsearch.launch.curves import Curve, Curves, Point, Recorded, Synthetic
from embsearch.values import Measurement, record

BLAMED = ("diverged", "out_of_memory")  # a configuration that failed by itself fails again


def curves(launcher: ReplayConfig, seed: int) -> Curves:
    """Return the curves that ``config.launcher`` asks for. Raises UserError if there are none."""
    if launcher.curves is None:
        return Synthetic(seed, launcher.noise, launcher.trial_seconds)
    path = Path(launcher.curves).expanduser()
    if path.is_dir():
        return recorded(path)
    if path.is_file():
        return from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
    raise UserError(
        f"launcher.curves={path}: expected the folder of a study, as .embsearch/studies/NAME, or a file"
    )


def recorded(study: Path) -> Recorded:
    """Return the trials of a study that came to their end, or failed by their own parameters."""
    locked = study / "study.yaml"
    baseline = events.of_kind(read_events(study / "events.jsonl"), events.Baseline)
    if not locked.exists() or not baseline:
        raise UserError(
            f"launcher.curves={study}: no study that has begun; expected study.yaml and events.jsonl"
        )
    config = build(yaml.safe_load(locked.read_text(encoding="utf-8"))["config"])
    configs, found = [], []
    for folder in sorted((study / "trials").glob("t[0-9]*"), key=lambda p: int(p.name[1:])):
        log = read_events(folder / "events.jsonl")
        if any(created.members for created in events.of_kind(log, events.Created)):
            continue  # a soup was not trained
        curve = _curve(log)
        if curve is not None:
            own = build(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
            configs.append({path: value_at(own, path) for path in config.space})
            found.append(curve)
    return Recorded(
        config.evaluate.at, configs, found, dict(baseline[-1].metrics), f"study {config.study.name}"
    )


def to_json(curves: Recorded) -> JsonObject:
    """Return recorded curves as one file's content, without the points between evaluations."""
    return {
        "at": list(curves.at),
        "untuned": dict(curves.untuned),
        "trials": [
            {
                "config": dict(config),
                "failure": curve.failure,
                "measured": [record(m) for m in curve.measurements],
            }
            for config, curve in zip(curves.configs, curves.curves, strict=True)
        ],
    }


def from_json(content: Json, origin: str) -> Recorded:
    trials = content["trials"]
    found = [
        Curve(
            tuple(Measurement(**m) for m in t["measured"]),
            failure=tuple(t["failure"]) if t["failure"] else None,
        )
        for t in trials
    ]
    return Recorded(
        tuple(content["at"]), [t["config"] for t in trials], found, content["untuned"], origin
    )


def _curve(log: list[Event]) -> Curve | None:
    """Return the curve of a trial's log; None where it was paused, pruned or cut off."""
    ends = events.of_kind(log, events.Ended)
    if not ends or not (ends[0].state == "complete" or ends[0].failure in BLAMED):
        return None
    names = Measurement.__dataclass_fields__
    measured = [
        Measurement(**{name: getattr(event, name) for name in names})
        for event in events.of_kind(log, events.Measured)
    ]
    points: list[Point] = [
        (point[0], point[2])
        for event in events.of_kind(log, events.Trained)
        for point in event.points
    ]
    failed = None
    if ends[0].failure is not None:
        failed = (ends[0].failure, ends[0].reason)
    return Curve(tuple(measured), tuple(points), failed)
