"""What a study will cost: hand-computed studies, and what holds for every one that is played."""

from __future__ import annotations

import math

import pytest

from embsearch.config.build import build, with_values
from embsearch.hpo.plan import Costs, Speed, points, texts_in
from embsearch.hpo.space import parse
from embsearch.study.play import PlayedStudy, Work, make

# 64 rows of three texts; a trial of 768 texts is 256 / batch steps
ROWS, EPOCH = 64, (64, 192)
COSTS = Costs(
    command=1, load=10, begin=2, resume=3, baseline=5, measure=7, test=11,
    speeds=(Speed({"train.batch_size": 16}, 1.0), Speed({"train.batch_size": 64}, 4.0)),
)  # fmt: skip


def config(space=None, **rooms):
    tree = {
        "train": {"texts": 768, "batch_size": 64}, "evaluate": {"at": [0.25, 0.5, 1.0]},
        "space": space or {}, "scheduler": {"name": "none"}, "stop": {"trials": 1},
    }  # fmt: skip
    for room, values in rooms.items():
        tree[room] = {**tree.get(room, {}), **values}
    return build(tree)


def steps(batch):
    return math.ceil(256 / batch)


def played(config, workers=1, seed=0, costs=COSTS):
    return PlayedStudy(config, work(config, costs), workers, seed).run()


def work(config, costs=COSTS):
    return Work(parse(config.space, config), costs, steps, EPOCH)


SIZES = {"train.batch_size": {"choices": [16, 32, 64], "ordered": True}}


# ---- by hand -----------------------------------------------------------------------------------


def test_one_trial_costs_its_steps_and_evaluations_and_what_stands_around_them():
    draw = played(config())
    trial = 2 + 4 * 4.0 + 3 * 7  # begin, four steps of 64, three evaluations
    assert draw.seconds == 1 + 10 + 5 + trial + 3 * 11
    assert (draw.reached, draw.texts, draw.why) == (
        (1, 1, 1),
        768,
        "stop.trials: all 1 trials exist",
    )
    assert (draw.training, draw.measuring) == (16, 21)


def test_a_second_worker_takes_the_second_trial_and_loads_for_itself():
    draw = played(config(stop={"trials": 2}), workers=2)
    trial = 2 + 16 + 21
    # slot 0: load, untuned encoder, second trial; slot 1: load, first trial. Three tests on two slots
    assert draw.seconds == 1 + 10 + 5 + trial + 2 * 11


def test_a_trial_that_waits_keeps_its_warm_slot_and_pays_no_start_again():
    draw = played(config(stop={"trials": 3}), workers=1)
    assert draw.seconds == 1 + 10 + 5 + 3 * (2 + 16 + 21) + 3 * 11


def test_a_paused_trial_pays_for_coming_back():
    """Three trials, a rung at half: trial 0 always goes on, the better of the others too, and the third where it is
    as good. So the seed decides between no return (trial 2 alone) and one (trial 1, or both)."""
    stop = {"trials": 3, "seconds": 1e6}
    made = config(scheduler={"name": "promotion"}, evaluate={"at": [0.5, 1.0]}, stop=stop)
    draws = [played(made, seed=seed) for seed in range(40)]
    start, half = 1 + 10 + 5 + 3 * 11, 2 * 4.0 + 7
    none = start + 3 * (2 + half) + half  # trial 0 to its end, the others to the rung
    by_reached = {(d.reached, d.seconds) for d in draws}
    assert by_reached == {
        ((3, 2), none + half),
        ((3, 2), none + 3 + half),
        ((3, 3), none + 3 + 2 * half),
    }


@pytest.mark.parametrize(
    ("batch", "seconds"), [(16, 1.0), (32, 2.0), (64, 4.0), (8, 1.0), (128, 4.0)]
)
def test_a_step_lies_on_the_line_between_the_probed_batches(batch, seconds):
    assert COSTS.step({"train.batch_size": batch}, 64) == seconds
    assert COSTS.step({}, batch) == seconds


def test_other_dear_settings_multiply_the_price_of_a_step():
    base = {"train.batch_size": 16, "model.freeze_layers": 0, "model.path": "a"}
    speeds = (
        Speed(base, 1.0), Speed(base | {"train.batch_size": 64}, 4.0),
        Speed(base | {"model.freeze_layers": 4}, 0.6, "model.freeze_layers"),
        Speed(base | {"model.path": "b"}, 3.0, "model.path"),
    )  # fmt: skip
    costs = Costs(1, 1, 1, 1, 1, 1, 1, speeds)
    assert costs.step(base | {"model.freeze_layers": 2}, 64) == pytest.approx(0.8)
    assert costs.step(
        {"train.batch_size": 32, "model.freeze_layers": 4, "model.path": "b"}, 64
    ) == pytest.approx(3.6)


def test_texts_count_the_short_last_batch_of_an_epoch():
    # 10 rows of 30 texts, batches of 4, 4 and 2
    assert [texts_in(n, 4, 10, 30) for n in range(5)] == [0, 12, 24, 30, 42]


def test_the_time_limit_lets_running_trials_reach_their_next_evaluation():
    draw = played(config(stop={"trials": 9, "seconds": 20}))
    # untuned encoder at 15, the first evaluation at 15 + 2 + 4 + 7 = 28
    assert (draw.reached, draw.trials, draw.seconds) == ((1, 0, 0), 1, 1 + 28 + 3 * 11)
    assert draw.why == "stop.seconds: 28 s of 20 s spent"


# ---- for every study ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "median", "asha", "hyperband", "wilcoxon", "promotion"])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_scheduler_is_played_to_its_end(name, workers):
    made = config(SIZES, scheduler={"name": name, "reduction": 2}, stop={"trials": 12})
    plan = make(made, work(made), workers)
    for draw in plan.draws:
        assert draw.trials == draw.reached[0] == 12
        assert list(draw.reached) == sorted(draw.reached, reverse=True)
        assert draw.reached[-1] >= 1  # trial 0
        assert 12 * plan.texts[0] <= draw.texts <= plan.most_texts == 12 * 768
    never = name in ("none", "wilcoxon")  # wilcoxon has too few evaluations to be sure
    assert never == all(draw.reached == (12, 12, 12) for draw in plan.draws)
    assert plan.rungs == (() if name == "none" else (1, 2))


def test_the_same_seed_plays_the_same_study():
    made = config(SIZES, scheduler={"name": "promotion"}, stop={"trials": 12})
    assert played(made, 2, seed=3) == played(made, 2, seed=3)
    assert len({played(made, 2, seed=n).seconds for n in range(10)}) > 1


def test_more_workers_are_never_slower_when_no_trial_waits_for_another():
    made = config(SIZES, stop={"trials": 12})
    seconds = [played(made, workers).seconds for workers in (1, 2, 4)]
    assert seconds == sorted(seconds, reverse=True)


@pytest.mark.parametrize("stop", [{"trials": 1000}, {"trials": 1000, "seconds": 20000}])
def test_a_long_study_is_played_in_part_and_costs_in_proportion(stop):
    made = config(SIZES, scheduler={"name": "promotion"}, stop=stop)
    plan = make(made, work(made), 2)
    part = {"stop.trials": 200, "stop.seconds": made.stop.seconds and 4000}
    short = make(with_values(made, part), work(made), 2)
    fixed = 1 + 10 + 5 + 2 * 11
    for long, part in zip(plan.draws, short.draws, strict=True):
        assert long.seconds - fixed == pytest.approx(5 * (part.seconds - fixed))
        assert long.reached == tuple(5 * r for r in part.reached)
        assert (long.texts, long.trials) == (5 * part.texts, 5 * part.trials)


def test_known_points_are_played_first():
    made = config(SIZES, study={"defaults": [{"train.batch_size": 16}]}, stop={"trials": 2})
    assert played(made).training == 4 * 4.0 + 16 * 1.0


def test_likely_holds_eighty_percent_of_the_draws():
    made = config(SIZES, scheduler={"name": "promotion"}, stop={"trials": 30})
    plan = make(made, work(made), 2)
    low, high = plan.likely(lambda d: d.seconds)
    inside = sum(low <= d.seconds <= high for d in plan.draws)
    assert 0.75 <= inside / len(plan.draws) <= 0.95
    assert low < plan.mean(lambda d: d.seconds) < high


# ---- what is timed -----------------------------------------------------------------------------


def test_the_smallest_the_defaults_and_the_largest_batch_are_timed_and_the_ends_of_what_is_dear():
    space = SIZES | {
        "train.lr": {"low": 1e-5, "high": 1e-3},
        "model.freeze_layers": {"low": 0, "high": 2},
    }
    made = config(space, train={"batch_size": 32})
    found, left = points(parse(made.space, made), made)
    base = {"train.lr": 2e-4, "train.batch_size": 16, "model.freeze_layers": 0}
    assert found == [
        ("train.batch_size", base),
        ("train.batch_size", base | {"train.batch_size": 32}),
        ("train.batch_size", base | {"train.batch_size": 64}),
        ("model.freeze_layers", base | {"model.freeze_layers": 2}),
    ]
    assert left == []


def test_a_space_without_batches_times_the_configs_own():
    made = config({"train.lr": {"low": 1e-5, "high": 1e-3}})
    assert points(parse(made.space, made), made) == ([("train.batch_size", {"train.lr": 2e-4})], [])


def test_what_there_is_no_time_for_is_named():
    space = SIZES | {
        "model.max_length": {"choices": [None, 8, 16, 24, 32, 48]},
        "model.projection": {"choices": [None, 9]},
    }
    made = config(space)
    found, left = points(parse(made.space, made), made)
    assert [path for path, _ in found] == [
        "train.batch_size",
        "train.batch_size",
        "model.projection",
    ]
    assert left == ["model.max_length"]
