"""Logs of older versions give the same states and go on to the same end."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import recorded

from embsearch.cli.curves import curves
from embsearch.config.build import build
from embsearch.config.launchers import ReplayConfig
from embsearch.history.events import Unknown, decode, encode
from embsearch.history.folder import StudyFolder
from embsearch.history.state import StudyState
from embsearch.history.trial import Trial
from embsearch.launch.replay import Replay, VirtualClock
from embsearch.report.record import Record
from embsearch.study.run import Study
from embsearch.track.base import Recorders
from embsearch.track.follower import Followed, Logs

ROWS = "query,title,grade\n" + "".join(f"q{n},right {n},1\nq{n},wrong {n},0\n" for n in range(12))
SPACE = {
    "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "train.batch_size": {"choices": [32, 64, 128], "ordered": True},
    "objective.name": {"choices": ["triplet", "infonce"]},
    "objective.margin": {"low": 0.05, "high": 0.5, "when": {"objective.name": "triplet"}},
}
MORE = {  # the settings of the studies whose end does not depend on which slot was first
    "plain": {},
    "seeds": {"study": {"name": "seeds", "seeds": 2}},
    "confirm": {
        "launcher": {"name": "inline", "workers": 1},
        "confirm": {"top_k": 2, "seeds": 2, "share": None},
    },
}


def standing(trial: Trial) -> dict:
    """Return what the recorded standings say of a trial."""
    outcome = trial.outcome
    return {
        "state": trial.state,
        "values": {str(rung): value for rung, value in trial.values.items()},
        "rows": {str(rung): rows for rung, rows in trial.rows.items()},
        "params": dict(trial.params),
        "attempt": trial.attempt,
        "deaths": trial.deaths,
        "failures": trial.failures,
        "texts": trial.texts_seen,
        "step": trial.step,
        "why": trial.why,
        "searched": trial.searched,
        "outcome": None
        if outcome is None
        else [outcome.state, outcome.reason, outcome.value, outcome.failure],
        "runs": [
            [{str(r): v for r, v in run.values.items()}, run.last, run.last_point]
            for run in trial.runs
        ],
    }


@pytest.mark.parametrize("name", recorded.NAMES)
def test_every_event_is_written_as_it_was_read(name):
    for _, line in recorded.lines(name):
        event = decode(json.loads(line))
        assert not isinstance(event, Unknown)
        assert json.dumps(encode(event), ensure_ascii=False) == line


@pytest.mark.parametrize("name", recorded.NAMES)
def test_after_every_event_a_trial_stands_as_it_did(name):
    state = StudyState("auc")
    for (number, line), expected in zip(
        recorded.lines(name), recorded.standings(name), strict=True
    ):
        state.apply(decode(json.loads(line)), number)
        if number is not None:
            assert standing(state.trials[number]) == expected


@pytest.mark.parametrize("name", recorded.NAMES)
def test_status_the_recorders_and_a_resumed_study_agree_at_every_prefix(name, tmp_path):
    """Status and report read a Record, recorders follow the logs as they grow, a resumed study asks the folder."""
    config = study_config(name, tmp_path)
    folder = StudyFolder(config)
    followed: Logs[Followed] = Logs(folder.path, "auc", Followed)
    folder.path.mkdir(parents=True)
    folder.lock_config()
    for line in recorded.lines(name):
        recorded.write(folder.path, [line])
        followed.read()
        if line[0] is None or json.loads(line[1])["kind"] in ("measured", "decided", "ended"):
            resumed, shown = folder.state(), Record(folder)
            live = followed.state
            best = None if shown.best is None else shown.best.number
            leader = None if resumed.leader is None else resumed.leader.number
            followed_best = followed.study.leader
            assert best == leader == (None if followed_best is None else followed_best.number)
            resumed.release_all()
            live.release_all()
            for number, trial in resumed.trials.items():
                assert standing(trial) == standing(shown.trials[number])
                if (
                    trial.outcome is None
                ):  # recorders pass over the fresh seeds of a trial that has ended
                    assert standing(trial) == standing(live.trials[number])


def study_config(name: str, home: Path, **more):
    base = {
        "home": str(home / "home"), "data": {"path": "rows.csv"}, "space": SPACE,
        "stop": {"trials": 12}, "evaluate": {"at": [0.1, 0.3, 1.0]}, "study": {"name": name},
        "launcher": {"name": "replay", "workers": 1}, "track": {"mlflow": False},
        "sampler": {"name": "tpe", "startup_trials": 4}, "confirm": {"top_k": 0},
    }  # fmt: skip
    return build(base | more)


def study_of(name: str, home: Path) -> Study:
    Path("rows.csv").write_text(ROWS)
    config = study_config(name, home, **MORE[name])
    clock = VirtualClock(max(1.79e9, StudyFolder(config).last_sign()))
    known = curves(ReplayConfig(), config.seed)
    return Study(
        config, lambda folder: Replay(known, clock, 1), lambda folder: Recorders(), clock=clock
    )


def ends(study: Path) -> dict:
    """Return every log without what depends on where it was cut off."""
    found = {}
    for name, events in recorded.events_by_log(study):
        kept = [event for event in events if event["kind"] not in ("opened", "points", "segment")]
        found[name] = [
            {k: v for k, v in event.items() if k not in ("config", "model")} for event in kept
        ]
    return found


def played(name: str, home: Path, monkeypatch) -> list[tuple[int | None, str]]:
    """Play a study to its end. Return the lines of all logs in the order of writing."""
    home.mkdir()
    study, lines = study_of(name, home), []
    log, trial_log = study.folder.log, study.folder.trial_log

    def note(event, number=None):
        Study.note(study, event, number)
        path = (log if number is None else trial_log(number)).path
        lines.append((number, path.read_text(encoding="utf-8").splitlines()[-1]))

    monkeypatch.setattr(study, "note", note)
    study.run()
    return lines


@pytest.mark.parametrize("name", MORE)
def test_every_prefix_goes_on_to_the_same_log(name, tmp_path, monkeypatch):
    """A study that was killed after any event ends as one that was not. Every fifth event, and all of one trial."""
    monkeypatch.chdir(tmp_path)  # the data lie there by a relative path
    lines = played(name, tmp_path / "undisturbed", monkeypatch)
    whole = tmp_path / "whole" / name
    recorded.write(whole, lines)
    expected = ends(whole)
    begun = next(n for n, (_, line) in enumerate(lines) if '"kind": "baseline"' in line) + 1
    stride = int(os.environ.get("EMBSEARCH_EVERY_PREFIX", "5"))
    for cut in [*range(begun, begun + 8), *range(begun + 8, len(lines), stride)]:
        study = cut_off(name, tmp_path / f"cut{cut}", lines[:cut])
        study.run()
        assert ends(study.folder.path) == expected, f"cut off after event {cut}: {lines[cut - 1]}"


@pytest.mark.parametrize("name", MORE)
def test_a_study_of_an_older_version_goes_on_where_it_was(name, tmp_path, monkeypatch):
    """By the rules of today: what its logs had stays their beginning, and no trial is left behind."""
    monkeypatch.chdir(tmp_path)
    lines = recorded.lines(name)
    for cut in range(20, len(lines), 23):
        study = cut_off(name, tmp_path / f"cut{cut}", lines[:cut])
        assert study.run().finished
        assert all(trial.outcome is not None for trial in study.trials.values())
        for number in {number for number, _ in lines[:cut]}:
            log = study.folder.log if number is None else study.folder.trial_log(number)
            before = [line for one, line in lines[:cut] if one == number]
            assert log.path.read_text(encoding="utf-8").splitlines()[: len(before)] == before


def cut_off(name: str, home: Path, lines: list[tuple[int | None, str]]) -> Study:
    """Return a study whose process died after these lines."""
    home.mkdir()
    study = study_of(name, home)
    recorded.write(study.folder.path, lines)
    stand_in_models(study.folder.path)
    return study


def stand_in_models(study: Path) -> None:
    """Write what a replay has in place of models: the metrics of each trial's best evaluation."""
    for log in study.glob("trials/*/events.jsonl"):
        events = [json.loads(line) for line in log.read_text().splitlines()]
        measured = [event["metrics"] for event in events if event["kind"] == "measured"]
        if measured:
            best = max(measured, key=lambda metrics: metrics["val/auc"])
            (log.parent / "replayed.json").write_text(json.dumps({"auc": best["val/auc"]}))
