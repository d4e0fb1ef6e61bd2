"""A replay is a study like any other, on a clock of its own."""

from __future__ import annotations

import json
import time

import pytest
from helpers import read_trials

from embsearch.cli import launchers, search
from embsearch.cli.curves import curves, from_json, recorded, to_json
from embsearch.cli.main import main
from embsearch.config.build import build, to_dict
from embsearch.errors import UserError
from embsearch.history.events import encode
from embsearch.history.log import read_json as read_events
from embsearch.launch.base import Failed, Measured, Points, TrainJob
from embsearch.launch.curves import Curve, Recorded, Synthetic, Table
from embsearch.launch.replay import Replay, VirtualClock
from embsearch.study.run import Study
from embsearch.track.base import Recorders
from embsearch.values import Measurement, Segment

ROWS = "query,title,grade\n" + "".join(f"q{n},right {n},1\nq{n},wrong {n},0\n" for n in range(12))
SPACE = {
    "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "train.batch_size": {"choices": [32, 64, 128], "ordered": True},
    "objective.name": {"choices": ["triplet", "infonce"]},
    "objective.margin": {"low": 0.05, "high": 0.5, "when": {"objective.name": "triplet"}},
}


@pytest.fixture
def settings(tmp_path):
    """A study that is replayed: 12 trials, each 600 s long and evaluated three times."""
    data = tmp_path / "rows.csv"
    data.write_text(ROWS)
    return {
        "home": str(tmp_path / "home"), "data": {"path": str(data)}, "space": SPACE, "stop": {"trials": 12},
        "evaluate": {"at": [0.1, 0.3, 1.0]}, "launcher": {"name": "replay", "workers": 1}, "study": {"name": "s"},
        "track": {"mlflow": False}, "sampler": {"name": "random"},
    }  # fmt: skip


def study_of(settings, **more):
    config = build(settings | more)
    clock = search.clock(config)
    return Study(config, launchers.launcher(config, clock), lambda folder: Recorders(), clock=clock)


def events(study, trial=None):
    folder = study.folder.path if trial is None else study.folder.trial(trial)
    return read_events(folder / "events.jsonl")


def story(study):
    """Everything that was decided and measured, without times."""
    told = {}
    for number, log in study.folder.trial_logs():
        told[number] = [
            {k: v for k, v in encode(e).items() if k not in ("time", "model", "points")}
            for e in log
        ]
    return told


# ---- the clock -----------------------------------------------------------------------------


def test_hours_pass_on_the_clock_and_seconds_on_the_wall(settings):
    study, began = study_of(settings, scheduler={"name": "none"}), time.monotonic()
    result = study.run()
    assert result.seconds == pytest.approx(
        12 * 600 + 3, abs=0.1
    )  # and three evaluations of one second: the winner was given
    assert time.monotonic() - began < 60
    times = [e["time"] for e in events(study)]
    assert (times[-1] - times[0]) / 1000 == pytest.approx(result.seconds, abs=0.1)


def test_two_slots_take_half_the_time(settings):
    one, two = (
        study_of(settings, scheduler={"name": "none"}, study={"name": f"w{workers}"},
                 launcher={"name": "replay", "workers": workers}).run().seconds
        for workers in (1, 2)
    )  # fmt: skip
    assert two == pytest.approx(one / 2, rel=0.01)


def test_a_budget_of_seconds_is_one_of_the_clock(settings):
    study = study_of(settings, stop={"trials": 12, "seconds": 2500}, scheduler={"name": "none"})
    result = study.run()
    assert result.why.startswith("stop.seconds: ")
    assert result.seconds == pytest.approx(
        1 + 4 * 600 + 180 + 2, abs=0.1
    )  # the segment that ran came to its end
    assert len(study.trials) == 5
    assert [e["kind"] for e in events(study, 4)].count("measured") == 2
    assert events(study, 4)[-1]["state"] == "pruned"


def test_the_clock_of_a_resumed_replay_goes_on_where_it_was(settings):
    first = study_of(settings).run()
    study = study_of(settings, stop={"trials": 24})
    second = study.run()
    assert second.seconds > first.seconds + 600
    assert study_of(settings).folder.state().spent == pytest.approx(second.seconds, abs=0.1)
    times = [e["time"] for e in events(study)]
    assert times == sorted(times)


def test_a_clock_that_waits_for_nothing_moves_on():
    clock = VirtualClock(100.0)
    launcher = Replay(Table([[0.5]]), clock)
    assert launcher.wait(5.0) == []
    assert (clock.time(), clock.monotonic()) == (105.0, 5.0)


# ---- the study -----------------------------------------------------------------------------


def test_a_replay_is_decided_as_the_study_that_was_recorded(settings, tmp_path):
    study = study_of(settings, scheduler={"name": "none"}, study={"name": "first"})
    study.run()
    again = study_of(settings, scheduler={"name": "none"}, study={"name": "again"},
                     launcher={"name": "replay", "curves": str(study.folder.path)})  # fmt: skip
    again.run()
    assert story(again) == story(study)


def test_a_replay_that_was_cut_off_goes_on_to_the_same_end(settings):
    calm = study_of(settings)
    calm.run()
    shaken = study_of(settings, study={"name": "shaken"})

    def cut(study, line):
        if line.startswith("trial 5 at rung 1"):
            raise KeyboardInterrupt

    shaken._watch = cut
    with pytest.raises(KeyboardInterrupt):
        shaken.run()
    shaken = study_of(settings, study={"name": "shaken"})
    shaken.run()
    values = [
        {n: t.values for n, t in read_trials(s.folder, "auc").items()} for s in (calm, shaken)
    ]
    assert values[0] == values[1]
    assert (
        calm.folder.state().closed.result["table"] == shaken.folder.state().closed.result["table"]
    )


def test_a_replay_cannot_be_mixed_into_a_study_that_trains(settings):
    study_of(settings).run()
    noisier = study_of(settings, launcher={"name": "replay", "noise": 0.02}, stop={"trials": 24})
    with pytest.raises(UserError, match=r"replay.noise: 0.005 -> 0.02"):
        noisier.run()
    with pytest.raises(UserError, match=r"replay.curves: null -> \(not there\)"):
        study_of(settings, launcher={"name": "inline"}).run()


def test_the_table_of_a_replay_has_what_the_trials_measured(settings):
    result = study_of(settings).run()
    untuned, *others = result.table  # a winner that was given has one row
    assert (untuned["validation"], untuned["test"]) == (0.6, {"auc": 0.6})
    for row in others:
        assert row["test"]["auc"] == row["auc"]["value"] == row["validation"]
    assert others[-1]["test"]["auc"] == max(row["test"]["auc"] for row in result.table)


def test_training_and_promoting_have_nothing_to_do_with_a_replay(settings, capsys):
    study_of(settings).run()
    words = [
        f"home={settings['home']}",
        f"data.path={settings['data']['path']}",
        "track=none",
        "launcher=replay",
    ]
    assert main(["train", *words]) == 2
    assert "launcher=replay: trains nothing" in capsys.readouterr().err


def test_the_command_says_that_nothing_was_trained(settings, capsys):
    words = [
        f"home={settings['home']}",
        f"data.path={settings['data']['path']}",
        "track=none",
        "launcher=replay",
    ]
    assert main(["search", *words, "space=small", "stop.trials=2", "study.name=t"]) == 0
    out = capsys.readouterr().out
    assert "a replay of synthetic curves: nothing was trained" in out
    assert "promote" not in out


# ---- curves --------------------------------------------------------------------------------


def test_synthetic_curves_depend_on_the_configuration_and_the_seed_alone(settings):
    config = to_dict(build(settings))
    curve = Synthetic(seed=1).curve(3, config)
    assert curve == Synthetic(seed=1).curve(3, config)
    assert [m.rung for m in curve.measurements] == [1, 2, 3]
    assert [m.seconds for m in curve.measurements] == [60.0, 180.0, 600.0]
    assert [m.last for m in curve.measurements] == [False, False, True]
    other = config | {"train": config["train"] | {"lr": 9e-4}}
    assert (
        Synthetic(seed=1).ends_at(other)
        != Synthetic(seed=1).ends_at(config)
        != Synthetic(seed=2).ends_at(config)
    )


def test_the_nearest_recorded_configuration_answers():
    space = {"train.lr": SPACE["train.lr"]}
    config = to_dict(build({"space": space, "evaluate": {"at": [1.0]}}))
    configs = [{"train.lr": 1e-5}, {"train.lr": 1e-4}, {"train.lr": 1e-3}]
    one = Curve((Measurement(1, 1, 1, {"val/auc": 0.5}, 1.0, True, "budget spent"),))
    known = Recorded([1.0], configs, [one] * 3, {"auc": 0.5}, "three")
    found = [known.nearest(config | {"train": {"lr": lr}}) for lr in (1.1e-5, 4e-5, 3e-4, 4e-4)]
    assert found == [0, 1, 1, 2]


def test_a_recorded_study_may_be_evaluated_at_some_of_its_points_only(settings):
    study = study_of(settings, scheduler={"name": "none"}, study={"name": "first"})
    study.run()
    known = recorded(study.folder.path)
    config = to_dict(build(settings | {"evaluate": {"at": [0.3, 1.0]}}))
    whole = known.curve(0, to_dict(build(settings))).measurements
    some = known.curve(0, config).measurements
    assert [(m.rung, m.step, m.metrics) for m in some] == [
        (n, m.step, m.metrics) for n, m in enumerate(whole[1:], 1)
    ]
    with pytest.raises(UserError, match=r"evaluate.at=\[0.5, 1.0\]: study first was evaluated at"):
        known.curve(0, to_dict(build(settings | {"evaluate": {"at": [0.5, 1.0]}})))


def test_recorded_curves_are_the_same_in_a_file(settings, tmp_path):
    study = study_of(settings, scheduler={"name": "none"}, study={"name": "first"})
    study.run()
    known = recorded(study.folder.path)
    file = tmp_path / "curves.json"
    file.write_text(json.dumps(to_json(known)))
    again = from_json(json.loads(file.read_text()), "a file")
    config = to_dict(build(settings))
    assert again.curve(0, config).measurements == known.curve(0, config).measurements
    assert again.untuned == known.untuned


def test_a_configuration_that_diverged_diverges_again(settings):
    config = to_dict(build(settings))
    measured = Measurement(1, 10, 100, {"val/auc": 0.7}, 60.0)
    broken = Recorded(
        (0.1, 0.3, 1.0),
        [{}],
        [Curve((measured,), (), ("diverged", "loss nan"))],
        {"auc": 0.5},
        "one",
    )
    launcher = Replay(broken, VirtualClock())
    kinds = []
    for at in (0, 1):
        launcher.submit(0, TrainJob(Segment(0, 0, at, at + 1), config, settings["home"], ""))
        while launcher.idle == []:
            kinds += [(type(m), getattr(m, "failure", None)) for _, m in launcher.wait(1.0)]
    assert kinds == [(Points, None), (Measured, None), (Failed, "diverged")]


@pytest.mark.parametrize(
    ("named", "says"), [("/no/such", "expected the folder of a study"), (".", "no study that")]
)
def test_curves_that_are_not_there_are_told(settings, named, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        curves(build(settings | {"launcher": {"name": "replay", "curves": named}}).launcher, seed=0)


def test_a_study_without_a_complete_trial_cannot_be_replayed(settings):
    study = study_of(settings, stop={"trials": 2, "target": 0.01})
    study.run()
    with pytest.raises(UserError, match="record one with scheduler=none"):
        recorded(study.folder.path).curve(0, to_dict(build(settings)))
