"""When the page warns, and which override it gives."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from embsearch.config.build import build
from embsearch.history.trial import Run, Trial
from embsearch.hpo.space import parse
from embsearch.report.findings import (
    _disagreement,
    _edges,
    _loss_falls,
    _luck,
    falling,
    other_choice,
    unconfirmed,
)
from embsearch.report.ranges import at_end, choices_table
from embsearch.report.record import Course, Evaluation
from embsearch.values import Interval, Outcome

SPACE = {
    "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "train.l2": {"low": 0.0, "high": 0.1},
    "train.batch_size": {"choices": [16, 32, 64, 128], "ordered": True},
    "objective.name": {"choices": ["triplet", "infonce"]},
    "objective.margin": {"low": 0.05, "high": 0.5, "when": {"objective.name": "triplet"}},
    "train.warmup_steps": {"low": 0, "high": 100, "step": 10},
}
STEPS = {"warmup_steps": 20}
INSIDE = {
    "train.lr": 1e-4, "train.l2": 0.02, "train.batch_size": 32, "objective.name": "triplet", "objective.margin": 0.3,
    "train.warmup_steps": 50,
}  # fmt: skip


def record(**changed):
    """A study whose winner has these parameters."""
    config = build({"space": SPACE, "study": {"name": "shop"}, "train": STEPS})
    params = INSIDE | {path.replace("__", "."): value for path, value in changed.items()}
    trial = Trial(3, params=params, outcome=Outcome("complete", "budget spent", 0.9), runs=[Run()])
    course = Course(trial, axes={})
    space = parse(config.space, config)
    return SimpleNamespace(config=config, space=space, best=course, configuration=course,
                           courses={3: course}, objective="auc", result={},
                           of_kind=lambda kind: [])  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "override"),
    [
        ({"train__lr": 9.9e-4}, "space.train.lr.high=0.003"),
        ({"train__lr": 1.01e-5}, "space.train.lr.low=3.3e-06"),
        ({"train__l2": 0.0999}, "space.train.l2.high=0.15"),
        ({"train__batch_size": 128}, "'space.train.batch_size.choices=[16, 32, 64, 128, 256]'"),
        ({"train__batch_size": 16}, "'space.train.batch_size.choices=[8, 16, 32, 64, 128]'"),
        ({"objective__margin": 0.051}, "space.objective.margin.low=0.025"),
        ({"train__warmup_steps": 100}, "space.train.warmup_steps.high=150"),
    ],
)
def test_a_winner_at_the_end_of_a_range_is_told_with_the_override_that_widens_it(changed, override):
    (found,) = _edges(record(**changed))
    path = next(iter(changed)).replace("__", ".")
    assert found.text.startswith(f"{path}=")
    assert found.kind == "warning"
    assert found.remedy == (
        f"embsearch search study.name=shop {override} study.on_drift=extend stop.trials={20 + 8}"
    )
    name, value = override.strip("'").split("=", 1)
    part = name.removeprefix("space.").rsplit(".", 1)
    wider = {**SPACE, part[0]: {**SPACE[part[0]], part[1]: build_value(value)}}
    parse(wider, build({"space": SPACE, "train": STEPS}))  # it is a space that a study takes


def build_value(text):
    import yaml

    return (
        yaml.safe_load(text)
        if text.startswith("[")
        else float(text)
        if "e" in text or "." in text
        else int(text)
    )


def test_nothing_is_said_inside_a_range_nor_where_no_further_value_makes_sense():
    assert list(_edges(record())) == []
    assert list(_edges(record(train__l2=0.0))) == []  # a negative decay is none
    assert list(_edges(record(train__warmup_steps=0))) == []
    assert list(_edges(record(objective__name="infonce"))) == []  # without order there is no end


def test_a_share_of_warm_up_is_not_widened_beyond_the_first_evaluation():
    for high, found in ((0.3, 0), (0.08, 1)):  # the first of the default evaluations is at 0.1
        one = record()
        one.config = build(
            {"space": {"train.warmup": {"low": 0.0, "high": high}}, "train": {"warmup": 0.05}}
        )
        one.space = parse(one.config.space, one.config)
        one.best.trial.params = {"train.warmup": high}
        assert len(list(_edges(one))) == found


def test_ends_are_measured_on_the_scale_of_the_range():
    space = record().space
    assert at_end(space["train.lr"], 1.2e-5) == "low"
    assert (
        at_end(space["train.lr"], 5e-5) is None
    )  # 4 % of the way in numbers, a third in logarithms
    assert at_end(space["train.l2"], 0.004) == "low"
    assert at_end(space["objective.name"], "triplet") is None


def course(number, values, losses):
    """Evaluations every ten steps with these values, and the mean loss of each ten steps."""
    made = Course(Trial(number, state="complete"), axes={})
    for rung, (value, loss) in enumerate(zip(values, losses, strict=True), 1):
        made.evaluations.append(Evaluation(rung, 10 * rung, 1000 * rung, value, {}, 0, 0.0))
        made.losses += [(step, loss) for step in range(10 * rung - 9, 10 * rung + 1)]
    return made


def test_a_loss_that_falls_while_the_metric_falls_is_seen():
    assert falling(course(0, [0.90, 0.95, 0.93], [0.3, 0.2, 0.1])) == (0.95, 0.93)
    assert falling(course(0, [0.90, 0.95, 0.96], [0.3, 0.2, 0.1])) is None  # both get better
    assert falling(course(0, [0.90, 0.95, 0.93], [0.3, 0.1, 0.2])) is None  # both get worse
    assert falling(course(0, [0.90, 0.95, 0.949], [0.3, 0.2, 0.1])) is None  # noise
    assert falling(course(0, [0.90], [0.3])) is None


@pytest.mark.parametrize(
    ("promised", "kind", "words"),
    [(0.012, "good", "No sign of a lucky pick"), (0.03, "note", "partly the luckiest")],
)
def test_what_validation_promised_is_held_against_the_test_rows(promised, kind, words):
    study = record()
    labels = ("untuned encoder", "default configuration", "best trial")
    values = dict(zip(labels, (0.5, 0.9, 0.9 + promised), strict=True))
    study.result = {
        "table": [{"label": label, "validation": value} for label, value in values.items()]
    }
    gains = {
        "untuned encoder": Interval(0.45, 0.4, 0.5),
        "default configuration": Interval(0.01, 0.005, 0.015),
    }
    (found,) = _disagreement(study, SimpleNamespace(gain=lambda of, over: gains[over]))
    assert (found.kind, words in found.text) == (kind, True)
    assert (
        f"validation promised {promised:+.4f} over the default configuration".lower()
        in found.text.lower()
    )


def test_it_is_a_warning_where_it_happened_to_the_winner_or_to_a_third_of_the_trials():
    good, bad = course(0, [0.9, 0.95], [0.3, 0.2]), course(1, [0.95, 0.9], [0.3, 0.2])
    study = record()
    study.courses = {
        0: good,
        1: bad,
        **{n: course(n, [0.9, 0.95], [0.3, 0.2]) for n in range(2, 8)},
    }
    study.best = good
    (found,) = _loss_falls(study)
    assert found.kind == "note"
    assert "in 1 of 8 trials, most in trial 1: 0.9500 to 0.9000" in found.text
    study.best = bad
    assert next(_loss_falls(study)).kind == "warning"


def test_the_configuration_says_which_parameters_played_no_part():
    study = record(objective__name="infonce")
    del study.best.trial.params["objective.margin"]
    rows = {row["path"]: row for row in choices_table(study)}
    assert rows["objective.margin"]["winner"] == "not used"
    assert rows["objective.margin"]["default"] == "not used"
    assert rows["train.lr"]["range"] == "1e-05 to 0.001"


def test_fresh_seeds_say_how_much_of_the_winner_was_luck_and_who_looked_better():
    study = record()
    assert not list(_luck(study))
    study.result = {"confirmed": [
        {"trial": 3, "value": 0.95, "values": [0.94, 0.942]}, {"trial": 4, "value": 0.96, "values": [0.93, 0.932]}
    ]}  # fmt: skip
    (finding,) = _luck(study)
    assert (
        "validation auc 0.9410 (0.9400 to 0.9420) instead of 0.9500: 0.0090 of it was luck"
        in finding.text
    )
    assert "Trial 4 had 0.9600, and 0.9310 with fresh seeds" in finding.text


@pytest.mark.parametrize(
    ("confirm", "given", "confirmed", "said"),
    [
        ({}, False, [], True),
        ({}, True, [], False),
        ({"top_k": 0}, False, [], False),
        ({}, False, [{"trial": 3, "value": 0.95, "values": [0.94, 0.942]}], False),
    ],
)
def test_a_winner_that_was_not_trained_again_is_said_with_what_it_would_cost(
    confirm, given, confirmed, said
):
    study = record()
    study.config = build({"study": {"name": "shop"}, "train": {"texts": 1000}, "confirm": confirm})
    study.texts, study.result = 5000, {"confirmed": confirmed}
    study.best.trial.origin = "given" if given else ""
    found = list(unconfirmed(study))
    assert len(found) == said
    for one in found:
        assert one.text == (
            "The winner, trial 3, was not trained again with fresh seeds: the search is too small for it "
            "(confirm.share=0.5). Part of its lead may be luck."
        )
        assert one.remedy.startswith("embsearch search study.name=shop confirm.share=null ")
        assert one.remedy.endswith("for 40% of the search's texts")


def measured(number, evaluations):
    """Return the course of a trial with (rows, auc, pool_recall_10) at each evaluation."""
    made = Course(Trial(number), axes={})
    for rung, (rows, auc, recall) in enumerate(evaluations, 1):
        metrics = {"val/auc": auc, "val/pool_recall_10": recall}
        made.evaluations.append(Evaluation(rung, rung, rung, auc, metrics, 0, 0.0, rows))
    return made


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (
            [[(9, 0.93, 0.99), (90, 0.946, 0.929)]],
            "auc chose trial 3 (auc 0.9480, pool_recall_10 0.8770) on the validation rows, pool_recall_10 would "
            "choose trial 4 (auc 0.9460, pool_recall_10 0.9290).",
        ),
        ([[(9, 0.93, 0.99)]], ""),  # its model was measured on few rows
        ([[(90, 0.947, 0.929), (90, 0.948, 0.8)]], ""),  # the model that was saved finds less
        ([[(90, 0.93, 0.877)]], ""),
        ([], ""),
    ],
)
def test_a_trial_that_recall_over_the_pool_would_choose_is_named(others, said):
    study = record()
    study.courses = {3: measured(3, [(9, 0.9, 0.8), (90, 0.948, 0.877)])}
    study.courses |= {4 + n: measured(4 + n, runs) for n, runs in enumerate(others)}
    assert [one.text for one in other_choice(study)] == ([said] if said else [])


def test_where_the_pool_chooses_it_is_auc_that_is_held_against_it():
    study = record()
    study.objective = "pool_ndcg_10"
    study.courses = {}
    for number, pool, auc in ((3, 0.9, 0.8), (5, 0.8, 0.9)):
        metrics = {"val/auc": auc, "val/pool_ndcg_10": pool}
        made = Course(Trial(number), axes={})
        made.evaluations.append(Evaluation(1, 1, 1, pool, metrics, 0, 0.0, 90))
        study.courses[number] = made
    assert "auc would choose trial 5" in next(other_choice(study)).text
