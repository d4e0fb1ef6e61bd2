"""Suggestions depend on the event logs alone: not on a process, not on Optuna's database."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from embsearch.cli import launchers, search
from embsearch.config.build import build
from embsearch.config.schema import StopConfig
from embsearch.study.run import Study
from embsearch.track.base import Recorders
from embsearch.track.optuna_follower import OptunaFollower

ROWS = "query,title,grade\n" + "".join(f"q{n},right {n},1\nq{n},wrong {n},0\n" for n in range(12))
SPACE = {
    "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "train.l2": {"low": 1e-4, "high": 1e-1, "log": True},
    "train.batch_size": {"choices": [32, 64], "ordered": True},
}
SAMPLERS = ["tpe", "gp", "cmaes", "qmc", "random", "grid"]


def study_of(home, sampler, recorder, space=SPACE, trials=16):
    data = home.parent / "rows.csv"
    data.write_text(ROWS)
    config = build({
        "home": str(home), "data": {"path": str(data)}, "space": space, "stop": {"trials": trials},
        "evaluate": {"at": [0.1, 0.3, 1.0]}, "launcher": {"name": "replay", "workers": 1},
        "study": {"name": "s"}, "track": {"mlflow": False}, "scheduler": {"name": "none"},
        "sampler": {"name": sampler, "startup_trials": 4},
    })  # fmt: skip
    clock = search.clock(config)
    make = (
        (lambda folder: OptunaFollower(config, folder)) if recorder else lambda folder: Recorders()
    )
    return Study(config, launchers.launcher(config, clock), make, clock=clock)


def created(study):
    """Return every trial's parameters, and whether the sampler keeps something of it."""
    logs = [log[0] for _, log in study.folder.trial_logs()]
    return [dict(one.params) for one in logs], [bool(one.attributes) for one in logs]


def cut(study, line):
    def watch(study, said):
        if said.startswith(line):
            raise KeyboardInterrupt

    study._watch = watch
    with pytest.raises(KeyboardInterrupt):
        study.run()


@pytest.mark.parametrize("recorder", [True, False], ids=["database deleted", "no database"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_without_its_database_suggests_as_an_undisturbed_one(sampler, recorder, tmp_path):
    calm = study_of(tmp_path / "calm", sampler, recorder=False)
    calm.run()
    shaken = study_of(tmp_path / "shaken", sampler, recorder)
    cut(shaken, "trial 8 at rung 1")
    assert (tmp_path / "shaken" / "optuna.db").exists() == recorder
    for path in Path(tmp_path / "shaken").glob("optuna.db*"):
        path.unlink()
    study_of(tmp_path / "shaken", sampler, recorder).run()
    params, kept = created(calm)
    assert created(shaken) == (params, kept)
    assert len({json.dumps(one) for one in params}) == 16
    assert any(kept) == (sampler == "cmaes")


FEW = {  # 3 + 2 * 3 points
    "objective.name": {"choices": ["infonce", "triplet", "contrastive"]},
    "objective.margin": {"choices": [0.1, 0.2, 0.3], "when": {"objective.name": ["triplet", "contrastive"]}},
    "objective.temperature": {"low": 0.05, "high": 0.15, "step": 0.05, "when": {"objective.name": "infonce"}},
}  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_configuration_of_a_small_space_is_tried_once_and_then_the_study_ends(
    sampler, tmp_path
):
    calm = study_of(tmp_path / "calm", sampler, False, FEW, trials=20)
    calm.run()
    params, _ = created(calm)
    assert len(params) == len({json.dumps(one, sort_keys=True) for one in params}) == 9
    shaken = study_of(tmp_path / "shaken", sampler, False, FEW, trials=20)
    cut(shaken, "trial 6 at rung 1")
    study_of(tmp_path / "shaken", sampler, False, FEW, trials=20).run()
    assert created(shaken)[0] == params


def test_a_wider_space_lets_an_exhausted_study_go_on(tmp_path):
    space = {"train.batch_size": {"choices": [32, 64], "ordered": True}}
    study_of(tmp_path / "home", "tpe", False, space).run()
    wider = {"train.batch_size": {"low": 61, "high": 64}}
    study = study_of(tmp_path / "home", "tpe", False, wider)
    extend = replace(study.config.study, on_drift="extend")
    clock = search.clock(study.config)
    config = replace(study.config, study=extend, stop=StopConfig(trials=16))
    more = Study(config, launchers.launcher(config, clock), lambda folder: Recorders(), clock=clock)
    more.run()
    sizes = [params["train.batch_size"] for params in created(more)[0]]
    assert sorted(sizes) == [32, 61, 62, 63, 64]


POINT = {"train.lr": 3e-4, "train.l2": 0.02, "train.batch_size": 64}


def with_point(home, **settings):
    """Return a study that is extended with a point to try."""
    study = study_of(home, "tpe", recorder=False)
    given = replace(study.config.study, defaults=(POINT,), on_drift="extend")
    config = replace(study.config, study=given, **settings)
    clock = search.clock(config)
    make = launchers.launcher(config, clock)
    return Study(config, make, lambda folder: Recorders(), clock=clock)


def origins(study):
    return {number: log[0].origin for number, log in study.folder.trial_logs() if log[0].origin}


def test_a_point_that_is_added_when_a_study_is_extended_is_tried_once(tmp_path):
    study_of(tmp_path / "home", "tpe", recorder=False).run()
    more = with_point(tmp_path / "home", stop=StopConfig(trials=18))
    more.run()
    assert created(more)[0][16] == POINT
    assert origins(more) == {16: "given"}
    again = with_point(tmp_path / "home", stop=StopConfig(trials=20))
    again.run()
    assert created(again)[0].count(POINT) == 1


def test_a_given_point_whose_first_event_was_lost_is_still_a_given_one(tmp_path):
    """The process died between a trial's config and its first event."""
    study = with_point(tmp_path / "home")
    cut(study, "trial 1 at rung 1")
    assert origins(study) == {1: "given"}
    (study.folder.trial(1) / "events.jsonl").unlink()
    resumed = with_point(tmp_path / "home")
    resumed.run()
    assert created(resumed)[0][1] == POINT
    assert origins(resumed) == {1: "given"}
