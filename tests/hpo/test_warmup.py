"""Every trial has had its full rate when it is first compared; steps for which it has no time are told."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import optuna
import pytest

from embsearch.config.build import build, with_values
from embsearch.config.folders import group_options
from embsearch.config.load import compose
from embsearch.data.dataset import Triplets, steps_of, stops_of
from embsearch.errors import ConfigError
from embsearch.hpo.space import parse
from embsearch.hpo.warmup import Warmups
from embsearch.train.optimizer import learning_rate, warmup_steps

FORMER = {
    "train.batch_size": {"choices": [16, 32, 64, 128], "ordered": True},
    "train.warmup_steps": {"low": 0, "high": 1000, "step": 10},
}


def triplets(count):
    return Triplets(*(np.arange(count, dtype=np.int32) for _ in range(3)), np.ones(count, "f4"))


def warmups(config):
    steps = partial(steps_of, config.train.texts, triplets(6400))
    return Warmups(config, parse(config.space, config), steps)


def made(space=None, defaults=(), at=(0.1, 1.0), **train):
    return warmups(
        build({
            "space": space or {}, "study": {"defaults": list(defaults)}, "evaluate": {"at": list(at)},
            "train": {"texts": 19_200, **train},
        })
    )  # fmt: skip


def faults(found):
    with pytest.raises(ConfigError) as refused:
        found.check()
    return list(refused.value.faults)


@pytest.mark.parametrize("effort", group_options()["effort"])
@pytest.mark.parametrize("space", group_options()["space"])
def test_no_draw_of_a_shipped_space_is_compared_before_it_has_had_its_rate(space, effort):
    for study in ([], ["study=product_search", "study.defaults=[]"]):
        config = compose([*study, f"space={space}", f"effort={effort}"])
        parsed = parse(config.space, config)
        draws = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        points = [parsed.default(config), *(parsed.suggest(draws.ask()) for _ in range(200))]
        for train in [with_values(config, point).train for point in points]:
            for count in (60, 1000, 6400, 100_000):
                steps = steps_of(train.texts, triplets(count), train.batch_size)
                first = stops_of(steps, config.evaluate.at)[0]
                warmup = warmup_steps(train, steps, first)
                before_it = [learning_rate(n, steps, warmup, train) for n in range(first)]
                assert warmup <= first
                assert max(before_it) == pytest.approx(train.lr)


def test_steps_that_outlast_the_trial_are_refused_with_the_steps_it_has():
    assert faults(made(warmup_steps=101)) == [
        "train.warmup_steps=101: a trial has 100 steps (train.texts=19200, train.batch_size=64), so its rate would "
        "never reach train.lr; give at most 100, or drop train.warmup_steps: train.warmup is a share of the steps"
    ]


def test_a_point_to_try_first_is_refused_for_its_own_batch():
    found = made(
        FORMER,
        [{"train.batch_size": 16}, {"train.batch_size": 128}],
        warmup_steps=60,
        at=[0.5, 1.0],
    )
    (fault,) = faults(found)
    assert fault.startswith(
        "study.defaults[1]: train.warmup_steps=60: a trial has 50 steps (train.texts=19200, train.batch_size=128)"
    )


def test_a_range_is_refused_where_no_draw_can_train():
    space = FORMER | {"train.warmup_steps": {"low": 500, "high": 1000}}
    assert [fault.split(" (")[0] for fault in faults(made(space, warmup_steps=500))] == [
        "train.warmup_steps=500: a trial has 100 steps",
        "space.train.warmup_steps: train.warmup_steps=500: a trial has 400 steps",
    ]


@pytest.mark.parametrize("steps", [0, 50, 100, None])
def test_what_reaches_its_rate_by_the_last_step_passes(steps):
    made(warmup_steps=steps).check()
    made(FORMER, warmup_steps=100).check()
    made({"train.warmup": {"low": 0.0, "high": 0.9}}).check()


def test_the_share_of_draws_that_cannot_train_is_told():
    """By hand: of 101 warm-ups 60, 80, 90 and 95 are longer than the 400, 200, 100 and 50 steps of the
    batches, 96, 98, 99 and 100 than a tenth of those."""
    found = re.fullmatch(
        r"the warm-up outlasts the first evaluation in (\d+) % of the draws, the whole trial in "
        r"(\d+) % \(they cannot train at their rate\); search train.warmup, a share, in place of "
        r"train.warmup_steps, or give fewer steps",
        made(FORMER, warmup_steps=20).line(),
    )
    assert [int(share) for share in found.groups()] == pytest.approx([97.3, 80.4], abs=3)


def test_steps_for_all_trials_are_told_only_where_some_batch_has_no_time_for_them():
    batches = {"train.batch_size": FORMER["train.batch_size"]}
    assert made(batches, warmup_steps=20).line() == ""  # somebody asked for it
    assert (
        "the first evaluation in 100 % of the draws, the whole trial in 2"
        in made(batches, warmup_steps=60).line()
    )


@pytest.mark.parametrize(
    "space",
    [{}, {"train.warmup": {"low": 0.0, "high": 0.9}}, {"train.warmup_steps": {"choices": [0, 10]}}],
)
def test_nothing_is_told_of_a_warm_up_that_has_the_time(space):
    steps = 10 if "train.warmup_steps" in space else None
    assert made(space, warmup_steps=steps).line() == ""


@pytest.mark.parametrize(
    ("space", "steps"),
    [({}, 20), ({"train.warmup_steps": {"low": 0, "high": 20}}, 20)],
)
def test_a_share_that_steps_override_is_not_searched(space, steps):
    config = build({
        "train": {"warmup_steps": steps}, "space": space | {"train.warmup": {"low": 0.0, "high": 0.3}},
    })  # fmt: skip
    with pytest.raises(ConfigError) as refused:
        parse(config.space, config)
    assert list(refused.value.faults) == [
        "space.train.warmup: train.warmup_steps=20, or a range of it, overrides the share; drop one of the two: "
        "'~space.train.warmup', or train.warmup_steps=null"
    ]
