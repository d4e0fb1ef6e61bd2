"""What the logs say: pure, no tracker."""

from pathlib import Path

import pytest
from helpers import append, event
from synthetic import start_trial, train

from embsearch.config.build import build
from embsearch.history.log import EventLog, LogTail
from embsearch.hpo.space import parse
from embsearch.track.follower import Followed, Logs
from embsearch.track.mirror import Point, StudyMirror, TrialMirror, short_names, study_uid


def mirror(log: EventLog) -> TrialMirror:
    trial = TrialMirror("val/auc")
    trial.fold(LogTail(log.path).read())
    return trial


def best_of(folder: Path, *ends: tuple[float, int]) -> tuple[float | None, int | None]:
    """Return the best of a study whose trials ended at these values, on so many rows."""
    append(EventLog(folder / "events.jsonl"), "opened", name="a", task="t")
    for number, (value, rows) in enumerate(ends):
        log = start_trial(folder, number, lr=1e-4, batch=64, loss="triplet")
        append(log, "measured", rung=1, step=1, texts_seen=1, seconds=1.0, metrics={"val/auc": value},
               last=True, why="budget spent", rows=rows)  # fmt: skip
        append(log, "ended", state="pruned", reason="stop.seconds", value=value)
    logs: Logs[Followed] = Logs(folder, "val/auc", Followed)
    logs.read()
    leader = logs.study.leader
    assert leader is not None
    return leader.best, leader.number


def test_a_segment_that_ran_twice_gives_each_step_one_point(tmp_path: Path) -> None:
    log = start_trial(tmp_path, 0, lr=1e-4, batch=64, loss="triplet")
    train(log, steps=4, measure={3: 0.9})
    append(
        log, "segment", segment={"trial": 0, "attempt": 1, "from_checkpoint": 1, "until": 2}, slot=1
    )
    train(log, steps=6, measure={6: 0.95}, first=4)

    losses = [p for p in mirror(log).points.waiting if p.key == "train/loss"]

    assert [p.step for p in losses] == [1, 2, 3, 4, 5, 6]


def test_the_objective_is_the_best_so_far_at_every_evaluation(tmp_path: Path) -> None:
    log = start_trial(tmp_path, 0, lr=1e-4, batch=64, loss="triplet")
    train(log, steps=9, measure={3: 0.90, 6: 0.95, 9: 0.93})

    trial = mirror(log)

    assert [(p.step, p.value) for p in trial.points.waiting if p.key == "objective"] == [
        (3, 0.90),
        (6, 0.95),
        (9, 0.95),
    ]
    assert trial.best_metrics["val/auc"] == Point(
        "val/auc", 0.95, trial.best_metrics["val/auc"].time, 6
    )


def test_where_seeds_are_compared_the_objective_is_their_mean(tmp_path: Path) -> None:
    log = start_trial(tmp_path, 0, lr=1e-4, batch=64, loss="triplet")
    train(log, steps=3, measure={3: 0.90})
    at = {
        "rung": 2,
        "step": 6,
        "texts_seen": 60,
        "seconds": 2.0,
        "last": False,
        "why": "",
        "seeds": 3,
    }
    append(log, "measured", metrics={"val/auc": 0.98}, **at)
    append(log, "points", points=[[1, 5, {"train/loss": 0.5}]], seed=1)
    append(log, "repeated", metrics={"val/auc": 0.93}, **at, seed=1)
    append(log, "repeated", metrics={"val/auc": 0.94}, **at, seed=2)
    assert mirror(log).trial.best == 0.90  # two of three say nothing yet
    append(log, "compared", rung=2, step=6, value=0.95, values=[0.98, 0.93, 0.94])

    trial = mirror(log)

    found = {(p.key, p.step): p.value for p in trial.points.waiting}
    assert trial.trial.best == found["objective", 6] == found["val/auc mean", 6] == 0.95
    assert found["val/auc deviation", 6] == pytest.approx(0.026458, abs=1e-6)
    assert [found[f"{seed}val/auc", 6] for seed in ("", "seed1/", "seed2/")] == [0.98, 0.93, 0.94]
    assert found["seed1/train/loss", 1] == 0.5


def test_the_best_on_few_rows_gives_way_to_what_was_measured_on_more(tmp_path: Path) -> None:
    log = start_trial(tmp_path, 0, lr=1e-4, batch=64, loss="triplet")
    for rung, (value, rows) in enumerate([(0.95, 100), (0.90, 800), (0.89, 800)], 1):
        append(log, "measured", metrics={"val/auc": value}, rung=rung, step=rung, texts_seen=rung, seconds=1.0,
                   last=False, why="", rows=rows)  # fmt: skip

    trial = mirror(log)

    assert [p.value for p in trial.points.waiting if p.key == "objective"] == [0.95, 0.90, 0.90]
    assert trial.best_metrics["val/auc"].step == 2


def test_a_torn_last_line_is_read_when_its_writer_has_mended_it(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    append(log, "opened", name="a", task="t")
    with log.path.open("ab") as file:
        file.write(b'{"seq": 1, "time": 5, "ki')
    tail = LogTail(log.path)
    assert [one.kind for one in tail.read()] == ["opened"]
    assert tail.read() == []

    append(EventLog(log.path), "baseline", metrics={"auc": 0.5})

    assert [one.kind for one in tail.read()] == ["baseline"]


def test_paths_have_the_names_that_the_search_gives_their_axes() -> None:
    config = build({})
    raw = {
        "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
        "objective.name": {"choices": ["triplet", "infonce"]},
        "objective.margin": {"low": 0.1, "high": 0.5},
        "train.augment.drop": {"low": 0.0, "high": 0.3},
        "model.pooling": {"choices": ["keep", "mean"]},
    }
    space = parse(raw, config)
    assert [short_names(raw)[d.path] for d in space.dimensions] == list(space.axes({}, config))
    assert short_names(["a.size", "b.size"]) == {"a.size": "a.size", "b.size": "b.size"}


def test_a_study_of_the_same_name_opened_later_is_another_one() -> None:
    opened = {"seq": 0, "name": "shop", "time": 1_764_000_000_214}
    assert study_uid(event("opened", **opened)) == "shop@20251124-160000.214"
    assert (
        study_uid(event("opened", **opened, home_id="3f9a2c10be"))
        == "shop@20251124-160000.214-3f9a2c10be"
    )


def test_the_studys_curve_counts_each_trial_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    append(log, "opened", name="a", task="t")
    for trial, value in ((0, 0.8), (1, 0.7), (1, 0.7), (2, None), (3, 0.9)):
        append(log, "told", trial=trial, state="complete", value=value)
    study = StudyMirror()
    study.fold(LogTail(log.path).read())
    assert [(p.step, p.value) for p in study.points.waiting] == [
        (0, 0.8),
        (1, 0.8),
        (2, 0.8),
        (3, 0.9),
    ]
    assert best_of(tmp_path / "logs", (0.8, 1), (0.7, 1), (0.9, 1)) == (0.9, 2)


def test_in_the_studys_curve_a_trial_that_ended_on_few_rows_gives_way(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    append(log, "opened", name="a", task="t")
    for trial, (value, rows) in enumerate([(0.95, 100), (0.90, 800), (0.97, 100)]):
        append(log, "told", trial=trial, state="complete", value=value, rows=rows)
    study = StudyMirror()
    study.fold(LogTail(log.path).read())
    assert [p.value for p in study.points.waiting] == [0.95, 0.90, 0.90]
    assert best_of(tmp_path / "logs", (0.95, 100), (0.90, 800), (0.97, 100)) == (0.90, 1)


def test_what_fresh_seeds_say_stands_at_the_trial_and_in_the_study() -> None:
    study = StudyMirror()
    confirmed = event(
        "confirmed", time=7, trial=3, value=0.95, values=[0.93, 0.94], mean=0.935, luck=0.015
    )
    study.fold([confirmed])
    ((trial, points),) = study.tested
    assert trial == 3
    assert points["confirmed/luck"] == Point("confirmed/luck", 0.015, 7, 0)
    assert Point("confirmed/mean by trial", 0.935, 7, 3) in study.points.waiting
