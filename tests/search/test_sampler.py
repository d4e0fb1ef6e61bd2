"""Samplers: what is suggested depends on the study's history alone, not on the process."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from embsearch.config.schema import Config, SamplerConfig, StudyConfig
from embsearch.errors import ConfigError, StudyError
from embsearch.search.database import SqliteFile
from embsearch.search.scheduler import Standing, make
from embsearch.search.space import parse
from embsearch.search.storage import OptunaView
from embsearch.values import Outcome

SAMPLERS = ["tpe", "random", "grid", "qmc", "gp", "cmaes"]
FLAT = {
    "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "train.batch_size": {"choices": [32, 64], "ordered": True},
    "train.schedule": {"choices": ["linear", "cosine"]},
}
CONDITIONAL = FLAT | {
    "objective.name": {"choices": ["triplet", "infonce"]},
    "objective.margin": {"low": 0.05, "high": 0.5, "when": {"objective.name": "triplet"}},
}


def config(home, sampler="tpe", raw=None, **more):
    raw = raw or (FLAT if sampler == "grid" else CONDITIONAL)
    return Config(home=str(home), space=raw, sampler=SamplerConfig(sampler, startup_trials=2), **more)


def view(config):
    return OptunaView(SqliteFile(Path(config.home) / "optuna.db"), config, parse(config.space, config))


def score(params):
    return 0.5 + 100 * params["train.lr"] + 0.001 * params["train.batch_size"]


def board(optuna_view):
    """The finished trials of the database, as the event logs would tell them."""
    found = {}
    for t in optuna_view.study.trials:
        if t.state.is_finished():
            known = [d for d in optuna_view._space.dimensions if d.name in t.params]
            params = {d.path: d.from_optuna(t.params[d.name]) for d in known}
            found[t.number] = Standing(t.number, "complete", {1: t.value}, params=params)
    return found


def ask(optuna_view, number):
    return optuna_view.ask(number, board(optuna_view), make(optuna_view._config))[0]


def history(optuna_view, start, stop):
    """Ask and tell trials start ... stop - 1; their parameters."""
    asked = []
    for number in range(start, stop):
        suggestion = ask(optuna_view, number)
        value = score(suggestion.params)
        optuna_view.tell(number, Outcome("complete", "budget spent", value), {1: value})
        asked.append(dict(suggestion.params))
    return asked


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_suggests_the_same_after_the_same_history_in_another_process(name, tmp_path):
    first = view(config(tmp_path / "a", name))
    first.enqueue([first._space.default(Config())])
    suggested = history(first, 0, 3)
    here = suggested + history(first, 3, 6)
    code = (
        "import json, sys, pathlib; sys.path.insert(0, sys.argv[1]); import test_sampler as t\n"
        "v = t.view(t.config(sys.argv[2], sys.argv[3])); v.enqueue([v._space.default(t.Config())])\n"
        "a = t.history(v, 0, 3); v = t.view(t.config(sys.argv[2], sys.argv[3]))\n"
        "print(json.dumps(a + t.history(v, 3, 6)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "b"), name],
        capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == here, done.stderr
    assert len({json.dumps(p) for p in here}) == 6, "a suggestion was repeated"
    assert {p["train.batch_size"] for p in here} == {32, 64}
    assert {p["train.schedule"] for p in here} == {"linear", "cosine"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_crash_between_ask_and_record_changes_no_suggestion(name, tmp_path):
    calm, shaken = view(config(tmp_path / "a", name)), view(config(tmp_path / "b", name))
    wanted = history(calm, 0, 4)
    history(shaken, 0, 2)
    ask(shaken, 2)  # and the process dies before it writes this down
    assert history(view(config(tmp_path / "b", name)), 2, 4) == wanted[2:]


STORAGE = optuna.storages._cached_storage._CachedStorage
WRITES = ("create_new_trial", "set_trial_param", "set_trial_system_attr", "set_trial_state_values")


def power_lasts_for(count, patch):
    """From the write after the next ``count`` to Optuna's database on, nothing happens any more."""
    left = iter(range(count))

    def limited(write):
        def limit(*args, **more):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return write(*args, **more)

        return limit

    for name in WRITES:
        patch.setattr(STORAGE, name, limited(getattr(STORAGE, name)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_crash_before_any_write_of_a_suggestion_changes_none(name, tmp_path, monkeypatch):
    wanted = history(view(config(tmp_path / "a", name)), 0, 4)
    for writes in itertools.count():
        shaken = view(config(tmp_path / f"b{writes}", name))
        history(shaken, 0, 3)
        with monkeypatch.context() as patch:
            power_lasts_for(writes, patch)
            try:
                ask(shaken, 3)
                break
            except KeyboardInterrupt:
                pass
        assert history(view(config(tmp_path / f"b{writes}", name)), 3, 4) == wanted[3:]
    assert writes == 1  # one transaction


def test_a_crash_before_any_write_of_the_first_trial_changes_nothing(tmp_path, monkeypatch):
    """It waits in the database from the start, with its parameters to be stored one by one."""
    default = parse(CONDITIONAL, Config()).default(Config())
    for writes in itertools.count():
        shaken = view(config(tmp_path / f"b{writes}"))
        shaken.enqueue([default])
        with monkeypatch.context() as patch:
            power_lasts_for(writes, patch)
            try:
                ask(shaken, 0)
                break
            except KeyboardInterrupt:
                pass
        assert ask(view(config(tmp_path / f"b{writes}")), 0).params == default
    assert writes == 1 + len(default)


def test_a_grid_refuses_conditions_and_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"sampler=grid: objective.margin depend on .* use sampler=tpe"):
        view(config(tmp_path, "grid", CONDITIONAL)).ask(0, {}, None)


def test_a_grid_tries_every_point_once_also_beside_points_tried_first(tmp_path):
    raw = {k: FLAT[k] for k in ("train.batch_size", "train.schedule")}
    optuna_view = view(config(tmp_path, "grid", raw | {"train.l2": {"low": 0, "high": 0.02, "step": 0.01}}))
    optuna_view.enqueue([{"train.batch_size": 64, "train.schedule": "linear", "train.l2": 0.01}])
    asked = [tuple(ask(optuna_view, 0).params.values())]
    optuna_view.tell(0, Outcome("complete", "budget spent", 0.5), {1: 0.5})
    for number in range(1, 13):
        asked.append(tuple(ask(optuna_view, number).params.values()))
        optuna_view.tell(number, Outcome("complete", "budget spent", 0.5), {1: 0.5})
    assert len(set(asked[1:])) == 12


def test_points_tried_first_come_first_and_once(tmp_path):
    points = [{"train.lr": 1e-4, "train.batch_size": 64, "train.schedule": "linear"},
              {"train.lr": 2e-4, "train.batch_size": 32, "train.schedule": "cosine"}]  # fmt: skip
    for _ in range(2):
        view(config(tmp_path, raw=FLAT)).enqueue(points)
    assert history(view(config(tmp_path, raw=FLAT)), 0, 2) == points
    view(config(tmp_path, raw=FLAT)).enqueue(points)
    assert history(view(config(tmp_path, raw=FLAT)), 2, 3)[0] not in points


def test_no_pruner_is_installed_behind_our_back(tmp_path):
    assert isinstance(view(config(tmp_path)).study.pruner, optuna.pruners.NopPruner)


def test_telling_twice_changes_nothing(tmp_path):
    optuna_view = view(config(tmp_path))
    ask(optuna_view, 0)
    for value in (0.7, 0.9):
        optuna_view.tell(0, Outcome("complete", "budget spent", value), {1: value})
    assert optuna_view.study.trials[0].value == 0.7


@pytest.mark.parametrize(
    ("failure", "state"), [("diverged", "PRUNED"), ("out_of_memory", "PRUNED"), ("hung", "FAIL"), ("bug", "FAIL")]
)
def test_only_failures_that_the_parameters_caused_teach_the_sampler(failure, state, tmp_path):
    optuna_view = view(config(tmp_path))
    ask(optuna_view, 0)
    optuna_view.tell(0, Outcome("failed", "why", 0.9, failure), {1: 0.9})
    told = optuna_view.study.trials[0]
    assert (told.state.name, told.user_attrs) == (state, {"reason": "why", "failure": failure})
    assert bool(told.intermediate_values) == (state == "FAIL")


def logged(*rates):
    """Trials as the event logs tell them, by number."""
    rest = {"train.batch_size": 32, "train.schedule": "cosine"}
    return {n: Standing(n, params={"train.lr": rate, **rest}) for n, rate in enumerate(rates) if rate is not None}


def rates(optuna_view):
    return [trial.params.get("train.lr") for trial in optuna_view.study.trials]


def test_a_trial_that_the_database_lost_is_made_again_from_the_log(tmp_path):
    optuna_view = view(config(tmp_path, raw=FLAT))
    optuna_view.restore(logged(3e-4), None)
    optuna_view.tell(0, Outcome("complete", "budget spent", 0.8), {1: 0.8})
    again = view(config(tmp_path, raw=FLAT))
    assert (rates(again), again.study.trials[0].value) == ([3e-4], 0.8)


def test_a_database_that_says_something_else_than_the_logs_is_made_again(tmp_path):
    optuna_view = view(config(tmp_path, raw=FLAT))
    optuna_view.restore(logged(3e-4, 2e-4), None)
    for others in (logged(3e-4, 1e-4), logged(5e-4, 1e-4)):
        optuna_view.restore(others, None)
        assert rates(optuna_view) == [t.params["train.lr"] for t in others.values()]


def test_a_database_that_knows_an_end_that_the_logs_have_lost_is_made_again(tmp_path):
    optuna_view = view(config(tmp_path, raw=FLAT))
    optuna_view.restore(logged(3e-4), None)
    optuna_view.tell(0, Outcome("complete", "budget spent", 0.8), {1: 0.8})
    optuna_view.restore(logged(3e-4), None)
    assert [t.state.name for t in optuna_view.study.trials] == ["RUNNING"]


def test_a_gap_in_the_logs_is_kept_for_the_trial_that_belongs_there(tmp_path):
    optuna_view = view(config(tmp_path, raw=FLAT))
    optuna_view.restore(logged(3e-4, None, 2e-4), None)
    assert rates(optuna_view) == [3e-4, None, 2e-4]
    suggestion = ask(optuna_view, 1)
    assert suggestion.trial == 1
    assert rates(optuna_view) == [3e-4, suggestion.params["train.lr"], 2e-4]


@pytest.mark.parametrize("what", ["optuna.db", "optuna.db-wal"])
@pytest.mark.parametrize("how", ["garbled", "cut", "gone", "empty"])
def test_a_damaged_database_is_set_aside_and_made_again_from_the_logs(tmp_path, what, how):
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_sampler as t; t.write_and_die(sys.argv[2])"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == 9  # so that the write-ahead log is still there
    file = tmp_path / what
    data = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        half = len(data) // 2
        file.write_bytes(
            {"garbled": data[:40] + b"?" * half + data[half + 40 :], "cut": data[:-half], "empty": b""}[how]
        )

    again = view(config(tmp_path, raw=FLAT))
    again.restore(logged(3e-4, 2e-4, 1e-4), None)

    assert rates(again) == [3e-4, 2e-4, 1e-4]
    assert bool(again.notice) == (tmp_path / "optuna.db.damaged").exists()
    assert ask(again, 3).trial == 3


def write_and_die(home):
    optuna_view = view(config(home, raw=FLAT))
    optuna_view.restore(logged(3e-4, 2e-4, 1e-4), None)
    os._exit(9)


def test_a_database_that_another_process_keeps_locked_is_not_damaged(tmp_path, monkeypatch):
    view(config(tmp_path, raw=FLAT))
    monkeypatch.setattr("embsearch.search.database.PATIENCE", 0.1)
    with closing(sqlite3.connect(tmp_path / "optuna.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StudyError, match=r"optuna\.db: database is locked.*It is a view of the event logs"):
            view(config(tmp_path, raw=FLAT))
    assert not (tmp_path / "optuna.db.damaged").exists()


def test_a_study_that_begins_anew_forgets_what_optuna_knew_of_its_name(tmp_path):
    mine = config(tmp_path)
    history(view(mine), 0, 2)
    fresh = OptunaView(SqliteFile(tmp_path / "optuna.db"), mine, parse(mine.space, mine), new=True)
    assert fresh.study.trials == []


def test_studies_in_one_database_do_not_see_each_other(tmp_path):
    one, two = (view(config(tmp_path, study=StudyConfig(name=n))) for n in ("one", "two"))
    history(one, 0, 2)
    assert (len(one.study.trials), len(two.study.trials)) == (2, 0)


def test_choices_that_changed_are_refused_with_the_way_out(tmp_path):
    history(view(config(tmp_path, raw=FLAT)), 0, 1)
    other = FLAT | {"train.schedule": {"choices": ["linear", "constant"]}}
    with pytest.raises(StudyError, match=r"train\.schedule.*study\.name"):
        view(config(tmp_path, raw=other))
