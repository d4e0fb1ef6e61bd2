"""What samplers learn: also from trials that wait, and not from what a trial was given by rule."""

from __future__ import annotations

import math

import pytest
from optuna.trial import TrialState

from embsearch.config.schema import Config, EvaluateConfig, SamplerConfig
from embsearch.history.trial import Trial
from embsearch.hpo import sampler_history
from embsearch.hpo.memory_study import memory_study
from embsearch.hpo.promotion import Promotion
from embsearch.hpo.scheduler import make
from embsearch.hpo.space import parse
from embsearch.hpo.suggest import Suggester
from embsearch.values import Outcome

AT = (0.1, 0.3, 1.0)
RAW = {"train.lr": {"low": 1e-5, "high": 1e-3, "log": True}}
SPACE = parse(RAW, Config())
PROMOTION = Promotion(AT, 2)


def standing(number, state, values, lr=1e-4, failure=None):
    outcome = (
        Outcome(state, "", None, failure) if state in ("complete", "pruned", "failed") else None
    )
    return Trial(number, state, dict(values), params={"train.lr": lr}, outcome=outcome)


def board(*trials):
    return {t.number: t for t in trials}


def seen(trials):
    return [
        (t.state, t.value if t.state == TrialState.COMPLETE else t.intermediate_values)
        for t in trials
    ]


def test_paused_trials_count_by_their_rung_running_ones_only_by_where_they_are():
    there = board(
        standing(0, "complete", {1: 0.9, 2: 0.92, 3: 0.95}),
        standing(1, "paused", {1: 0.8}),
        standing(2, "running", {1: 0.85, 2: 0.87}),
        standing(3, "running", {}),
    )
    assert seen(sampler_history.ranked(there, SPACE, PROMOTION, AT)) == [
        (TrialState.COMPLETE, 0.95),
        (TrialState.PRUNED, {100: 0.8}),
        (TrialState.PRUNED, {100: 0.85, 300: 0.87}),
        (TrialState.RUNNING, {}),
    ]


def test_the_default_counts_only_up_to_where_it_would_have_paused():
    """It runs to its end whatever it is worth; complete, it would pass for the best of all."""
    poor = standing(0, "complete", {1: 0.5, 2: 0.6, 3: 0.7})
    others = [standing(n, "paused", {1: 0.8 + n / 100}) for n in range(1, 6)]
    found = sampler_history.ranked(board(poor, *others), SPACE, PROMOTION, AT)
    assert seen(found)[0] == (TrialState.PRUNED, {100: 0.5})


@pytest.mark.parametrize("failure", ["diverged", "out_of_memory"])
def test_what_the_parameters_broke_is_worst_and_what_they_did_not_break_is_left_out(failure):
    there = board(
        standing(0, "failed", {1: 0.99}, failure=failure),
        standing(1, "failed", {1: 0.99}, failure="killed"),
        standing(2, "paused", {1: 0.6}),
        standing(3, "paused", {1: 0.7}),
    )
    assert seen(sampler_history.ranked(there, SPACE, PROMOTION, AT))[0] == (TrialState.PRUNED, {})
    assert len(sampler_history.ranked(there, SPACE, PROMOTION, AT)) == 3


def test_trials_outside_a_narrowed_space_teach_nothing():
    there = board(standing(0, "paused", {1: 0.5}, lr=1e-2), standing(1, "paused", {1: 0.5}))
    assert len(sampler_history.ranked(there, SPACE, PROMOTION, AT)) == 1


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_search_whose_trials_all_wait_still_learns(sampler):
    """Every trial is measured once and waits; the suggestions close in."""
    early = late = 0.0
    for seed in range(8):
        config = Config(
            space=RAW, sampler=SamplerConfig(sampler, startup_trials=6, seed=seed),
            evaluate=EvaluateConfig(at=AT),
        )  # fmt: skip
        suggester = Suggester(config, parse(RAW, config), make(config))
        there, distances = {}, []
        for number in range(1, 21):  # trial 0 would be the default, the best there is
            suggestion = suggester.suggest(number, there)
            distances.append(abs(math.log10(suggestion.params["train.lr"] / 1e-4)))
            there[number] = Trial(
                number, "paused", {1: 1 - distances[-1] ** 2}, params=suggestion.params
            )
        early, late = early + sum(distances[:6]) / 6, late + sum(distances[-8:]) / 8
    assert late < 0.75 * early  # drawn at random: 1.1


def test_of_many_trials_the_best_the_newest_and_the_unmeasured_are_shown():
    old = [standing(n, "paused", {1: 0.5 + n % 7 / 1000}) for n in range(1, 800)]
    best = [standing(n, "complete", {1: 0.9, 2: 0.9, 3: 0.9 + n / 1000}) for n in range(800, 830)]
    busy = [standing(830, "running", {})]
    new = [standing(n, "paused", {1: 0.4}) for n in range(831, 1400)]
    found = sampler_history.ranked(board(*old, *best, *busy, *new), SPACE, PROMOTION, AT)
    numbers = [t.number for t in found]
    assert numbers == sorted(numbers)
    assert (
        sampler_history.MAX_HISTORY - sampler_history.BEST
        <= len(numbers)
        <= sampler_history.MAX_HISTORY + 1
    )
    assert set(range(800, 831)) <= set(numbers)
    assert set(range(1400 - (sampler_history.MAX_HISTORY - sampler_history.BEST), 1400)) <= set(
        numbers
    )
    assert {n % 7 for n in numbers if n < 800} == {6}  # the best of those that are left


def test_what_was_made_for_the_last_suggestion_is_made_again_only_where_a_trial_has_moved():
    there = board(
        standing(1, "paused", {1: 0.5}),
        standing(2, "running", {1: 0.7}),
        standing(3, "paused", {1: 0.6}),
    )
    kept = {}
    first = sampler_history.ranked(there, SPACE, PROMOTION, AT, kept)
    there[2].values = {1: 0.7, 2: 0.8}
    second = sampler_history.ranked(there, SPACE, PROMOTION, AT, kept)
    assert seen(second) == seen(sampler_history.ranked(there, SPACE, PROMOTION, AT))
    assert [a is b for a, b in zip(first, second, strict=True)] == [True, False, True]


def test_the_storage_of_a_suggestion_holds_the_trials_it_was_given():
    known = sampler_history.ranked(board(standing(4, "paused", {1: 0.5})), SPACE, PROMOTION, AT)
    study = memory_study(known, 7, "s")
    asked = study.ask()
    assert (asked.number, [t.number for t in study.get_trials(deepcopy=False)]) == (7, [4, 7])
    assert study.get_trials(deepcopy=False)[0] is known[0]
    assert [t.number for t in study.get_trials(states=[TrialState.PRUNED])] == [4]
