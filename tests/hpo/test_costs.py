"""Costs of trials: what counts as equal, who competes with whom, what stands on the front."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embsearch.config.build import build
from embsearch.config.schema import Config, EvaluateConfig, SchedulerConfig, StopConfig
from embsearch.history.board import Board
from embsearch.history.trial import Trial
from embsearch.hpo.costs import alike_in_all, front, levels, rivals, settled
from embsearch.hpo.parego import log_costs
from embsearch.hpo.scheduler import make
from embsearch.hpo.space import parse
from embsearch.hpo.suggest import Suggester
from embsearch.values import Outcome

AT = (0.1, 0.25, 0.5, 0.75, 1.0)


def config(*costs, name="promotion", space=None, **stop):
    return Config(
        evaluate=EvaluateConfig(at=AT, costs=costs),
        scheduler=SchedulerConfig(name),
        stop=StopConfig(**stop),
        space=space or {},
    )


def trial(number, value, path="large", state="complete", rung=5, **costs):
    """A trial whose value at every evaluation is the same, of an encoder with these costs."""
    params = {"model.path": path, "train.lr": 1e-4 * (number + 1)}
    values = dict.fromkeys(range(1, rung + 1), value)
    found = Trial(number, state, values, dict.fromkeys(values, 10), params, costs=costs)
    if state == "complete":
        found.outcome = Outcome("complete", "budget spent", value)
    return found


def board(*trials):
    return Board(trials)


def numbers(trials):
    return [trial.number for trial in trials]


def test_the_front_holds_the_best_of_every_cost():
    trials = board(
        trial(0, 0.95, "large", size=90.0),
        trial(1, 0.96, "large", size=90.0),
        trial(2, 0.93, "small", size=20.0),
        trial(3, 0.92, "medium", size=40.0),  # small is better and smaller
        trial(4, 0.90, "tiny", size=5.0),
    )
    assert numbers(front(trials, config("size"))) == [1, 2, 4]


def test_a_trial_that_is_worse_in_one_cost_alone_stays():
    trials = board(
        trial(0, 0.95, "a", size=90.0, latency=1.0), trial(1, 0.94, "b", size=95.0, latency=0.5)
    )
    assert numbers(front(trials, config("size", "latency"))) == [0, 1]
    assert numbers(front(trials, config("size"))) == [0]


def test_noise_of_latency_makes_no_front_of_equal_encoders():
    times = (1.0, 1.3, 0.8, 1.1)  # a busy machine
    trials = board(*(trial(n, 0.9 + n / 100, latency=t) for n, t in enumerate(times)))
    assert settled(trials, "latency") == dict.fromkeys(range(4), 1.05)
    assert numbers(front(trials, config("latency"))) == [3]


def test_encoders_within_five_percent_count_as_equal():
    trials = board(
        trial(0, 0.92, "a", latency=1.0),
        trial(1, 0.93, "b", latency=1.04),
        trial(2, 0.94, "c", latency=1.1),
    )
    assert levels(trials, ["latency"]) == {0: (1.0,), 1: (1.0,), 2: (1.1,)}
    assert numbers(front(trials, config("latency"))) == [2, 1]


def test_what_has_not_ended_or_has_no_costs_is_not_on_the_front():
    trials = board(
        trial(0, 0.95), trial(1, 0.94, size=20.0, state="paused", rung=2), trial(2, 0.9, size=20.0)
    )
    assert numbers(front(trials, config("size"))) == [2]
    assert front(trials, config()) == []


POINTS = st.lists(
    st.tuples(st.sampled_from([0.8, 0.85, 0.9]), st.floats(1, 2), st.floats(1, 2)), max_size=12
)


@given(POINTS)
def test_every_trial_is_on_the_front_or_beaten_by_one_there(points):
    made = [
        trial(n, value, f"model{n}", size=size, latency=latency)
        for n, (value, size, latency) in enumerate(points)
    ]
    found, known = front(board(*made), config("size", "latency")), {}
    known = levels(board(*made), ("size", "latency"))

    def beats(one, other):
        cheap = all(a <= b for a, b in zip(known[one.number], known[other.number], strict=True))
        return one.best >= other.best and cheap

    for one in made:
        others = [other for other in found if other is not one]
        assert (one in found) != any(beats(other, one) for other in others)


def test_rivals_cost_no_more_and_nothing_named_leaves_the_board():
    trials = board(
        trial(0, 0.9, "a", size=9.0), trial(1, 0.9, "b", size=2.0), trial(2, 0.9, "c", size=20.0)
    )
    assert rivals(trials, trials[0], ()) is trials
    assert list(rivals(trials, trials[0], ("size",))) == [0, 1]
    assert list(rivals(trials, trials[1], ("size",))) == [1]
    assert rivals(trials, trials[1], ("size",)).begun == 3


def rung_of_two_encoders(paused):
    """Four trials of a small encoder, each worse than each of eight of a large one, at a first rung."""
    large = [trial(n, 0.80 + n / 100, "large", paused, 1, size=90.0) for n in range(1, 9)]
    small = [trial(n, 0.40 + n / 50, "small", paused, 1, size=9.0) for n in range(9, 13)]
    return board(*large, *small)


def test_a_small_encoder_is_not_stopped_by_a_large_one():
    trials = rung_of_two_encoders("running")
    alone = make(config(trials=12)).decide(trials[12], trials)
    assert alone.kind == "pause"
    assert alone.reason == "place 9 of 12 sampled trials at rung 1 (0.6400), 4 may go on"
    decision = make(config("size", trials=12)).decide(trials[12], trials)
    assert decision.kind == "continue"
    assert decision.reason == (
        "place 1 of 4 sampled trials that cost no more at rung 1 (0.6400), 1 may go on"
    )
    assert make(config("size", trials=12)).decide(trials[10], trials).kind == "pause"


def test_a_large_encoder_must_beat_the_small_ones_too():
    trials = rung_of_two_encoders("running")
    rule = make(config("size", trials=12))
    assert rule.decide(trials[8], trials).reason == (
        "place 1 of 12 sampled trials that cost no more at rung 1 (0.8800), 4 may go on"
    )
    assert rule.decide(trials[3], trials).kind == "pause"


def test_paused_trials_go_on_by_their_place_among_rivals():
    trials = rung_of_two_encoders("paused")
    rule = make(config("size", trials=12))
    gone = []
    while (number := rule.next_paused(trials)) is not None:
        gone.append(number)
        with trials.changing(trials[number]):
            trials[number].state = "running"
    assert gone == [8, 7, 6, 5, 12]


def test_a_pruner_sees_the_rivals_alone():
    good = [trial(n, 0.9 + n / 1000, "large", size=90.0) for n in range(6)]
    one = trial(6, 0.7, "small", "running", 2, size=9.0)
    trials = board(*good, one)
    assert make(config(name="median")).decide(one, trials).kind == "stop"
    assert make(config("size", name="median")).decide(one, trials).kind == "continue"


def test_a_cost_that_nothing_in_the_space_changes_is_named():
    space = {"model.max_length": {"choices": [16, 32]}}
    assert alike_in_all(config("latency", "size", space=space)) == [
        "evaluate.costs: size is that of every trial; a search over one of model.path, "
        "model.revision, model.projection would change it"
    ]


SPACE = {
    "train.lr": {"low": 1e-5, "high": 1e-2, "log": True},
    "model.path": {"choices": ["large", "small"]},
}


def searched(*costs):
    """A study whose small encoder is worse and cheaper, and what its sampler suggests next with 12 seeds."""
    found = []
    for seed in range(12):
        one = build(
            {
                "space": SPACE,
                "model": {"path": "large"},
                "evaluate": {"costs": list(costs)},
                "sampler": {"name": "gp", "seed": seed},
            }
        )
        space = parse(one.space, one)
        made = board(
            *(trial(n, 0.95 - n / 1000, "large", size=90.0) for n in range(4)),
            *(trial(n, 0.85 - n / 1000, "small", size=9.0) for n in range(4, 8)),
        )
        suggested = Suggester(one, space, make(one)).suggest(8, made)
        found.append(suggested.params["model.path"])
    return found


def test_the_sampler_draws_weights_anew_and_tries_cheap_encoders_too():
    assert set(searched()) == {"large"}
    assert set(searched("size")) == {"large", "small"}


def test_an_encoder_that_was_tried_is_expected_to_cost_what_was_measured():
    one = build({"space": SPACE | {"model.projection": {"low": 32, "high": 256}},
                 "model": {"path": "large", "projection": 256},
                 "evaluate": {"costs": ["size", "dimension"]}})  # fmt: skip
    space = parse(one.space, one)
    trials = board(trial(0, 0.9, "large", size=90.0), trial(1, 0.9, "small", size=9.0),
                   trial(2, 0.9, "large", size=30.0))  # fmt: skip
    trials[2].params["model.projection"] = 32
    (size,) = log_costs(trials, space, one)  # none has a dimension
    points = [space.fill(trials[number].params, one) for number in range(3)]
    np.testing.assert_allclose(size.regret(points), [1, 0, np.log(30 / 9) / np.log(10)], atol=0.01)
    between = size.regret([points[2] | {"model.projection": 144}])[0]
    assert np.log(30 / 9) / np.log(10) < between < 1
