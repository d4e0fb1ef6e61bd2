"""Who wins by all that a study measured, and where values alone decide."""

from __future__ import annotations

import pytest
from helpers import event

from embsearch.config.build import build
from embsearch.history.state import StudyState
from embsearch.study.result import (
    best_configuration,
    by_worth,
    soup_due,
    to_confirm,
    to_judge,
    winner,
)

AT = [0.1, 0.3, 0.6, 0.8, 1.0]
RATES = (5e-5, 1e-4, 2e-4, 3e-4)
SPACE = {"train.lr": {"low": 1e-5, "high": 1e-3, "log": True}}


def config(space=SPACE, at=AT, **confirm):
    return build({"space": space, "evaluate": {"at": at}, "confirm": confirm})


def state_of(*curves, ends=(), params=None):
    """Return the state of a study whose trials measured these values, all but ``ends`` complete."""
    state = StudyState("auc")
    state.apply(event("baseline", metrics={"auc": 0.5}))
    for number, curve in enumerate(curves):
        point = {"train.lr": RATES[number]} if params is None else params[number]
        state.apply(event("created", trial=number, params=point), number)
        where = {"trial": number, "attempt": 0, "from_checkpoint": 0, "until": len(curve)}
        state.apply(event("segment", segment=where, slot=0), number)
        for rung, value in enumerate(curve, 1):
            fields = {"rung": rung, "step": rung, "texts_seen": rung, "seconds": 1.0}
            last = {"last": True, "why": "end"} if rung == len(curve) else {}
            measured = event("measured", metrics={"val/auc": value}, **fields, **last)
            state.apply(measured, number)
        how = "pruned" if number in ends else "complete"
        state.apply(event("ended", state=how, reason="end", value=max(curve)), number)
        state.apply(event("told", trial=number, state=how, value=max(curve)))
    return state


def test_a_trial_is_worth_its_best_evaluation_whose_model_is_kept():
    over = [0.86, 0.95, 0.90, 0.88, 0.86]  # it fits the training rows too well from there on
    state = state_of([0.80, 0.84, 0.88, 0.90, 0.91], over, [0.80, 0.84, 0.88, 0.90, 0.908])
    assert winner(state, config()).number == 1


def test_a_trial_that_was_cut_short_while_ahead_wins():
    state = state_of([0.8, 0.85, 0.88, 0.9, 0.91], [0.8, 0.9, 0.951], ends=(1,))
    assert winner(state, config()).number == 1


def test_a_value_that_its_neighbours_do_not_bear_out_is_taken_for_luck():
    """Rates of 1e-4 and 1.1e-4 are alike: one had 0.900 and one 0.911; at 3e-4 both had 0.908."""
    params = [{"train.lr": lr} for lr in (1e-4, 1.1e-4, 3e-4, 3.1e-4)]
    curves = [[0.900], [0.911], [0.9085], [0.9085]]
    state = state_of(*curves, params=params)
    assert winner(state, config(at=[1.0], winner="value")).number == 1
    assert winner(state, config(at=[1.0])).number in (2, 3)


@pytest.mark.parametrize(
    "space",
    [
        {"train.lr": {"choices": list(RATES), "ordered": True}},
        {"train.lr": {"low": 1e-5, "high": 1e-3}},
        {"train.lr": {"choices": list(RATES)}},
    ],
    ids=["ordered choices", "linear", "choices"],
)
def test_rates_are_told_apart_however_the_space_writes_them(space):
    state = state_of([0.72], [0.76], [0.84], [0.78])
    assert winner(state, config(space, at=[1.0])).number == 2


def test_a_trial_that_lost_a_fresh_seed_comes_last():
    state = state_of([0.90], [0.92])
    assert winner(state, config(at=[1.0])).number == 1
    state.apply(event("unconfirmed", trial=1, seed=1, failure="diverged"))
    assert winner(state, config(at=[1.0])).number == 0


@pytest.mark.parametrize("at", [[0.3, 1.0], [0.05, 0.1, 0.2, 0.3, 0.6, 0.8, 1.0]])
def test_a_study_that_was_extended_to_other_evaluations_still_has_a_winner(at):
    state = state_of([0.8, 0.85, 0.88, 0.9, 0.91], [0.8, 0.86, 0.9, 0.92, 0.93])
    assert winner(state, config(at=at)).number == 1


def test_by_value_where_a_setting_that_tells_trials_apart_is_searched_no_longer():
    space = {"train.batch_size": {"choices": [32, 64], "ordered": True}}
    params = [{"train.lr": lr, "train.batch_size": 32} for lr in RATES]
    state = state_of([0.90], [0.93], [0.80], [0.75], params=params)
    order = [trial.number for trial in by_worth(state, config(space, at=[1.0]))]
    assert order == [1, 0, 2, 3]


def test_a_metric_below_zero_and_one_at_its_ends_are_taken():
    state = state_of([-0.1, 0.5], [0.0, 0.7], [-0.2, 1.0])
    assert winner(state, config(at=[0.3, 1.0])).number == 2


def test_a_given_point_wins_a_tie():
    state = state_of([0.8, 1.0], [0.9, 1.0], [0.95, 1.0])
    assert winner(state, config(at=[0.3, 1.0])).number == 0


def again(state, number, *values):
    """Give a trial fresh seeds that measured these values at their end."""
    for seed, value in enumerate(values, 1):
        fields = {"rung": 5, "step": 5, "texts_seen": 5, "seconds": 1.0, "last": True, "why": "end"}
        measured = event("repeated", metrics={"val/auc": value}, seed=seed, **fields)
        state.apply(measured, number)


def curve(end):
    return [end - 0.1, end - 0.05, end - 0.03, end - 0.01, end]


def test_fresh_seeds_of_several_choose_between_these_and_not_the_estimate():
    state = state_of(curve(0.9573), curve(0.9580))
    again(state, 1, 0.9575, 0.9549)
    assert (
        best_configuration(state, config()).number
        == by_worth(state, config(), fresh=True)[0].number
    )
    again(state, 0, 0.9604, 0.9591)
    assert best_configuration(state, config()).number == 0


def test_of_several_that_are_confirmed_one_was_given():
    state = state_of(curve(0.90), curve(0.93), curve(0.94), curve(0.95))
    best = by_worth(state, config())[0].number
    assert [trial.number for trial in to_confirm(state, config(), 1)] == [best]
    assert [trial.number for trial in to_confirm(state, config(), 2)] == [best, 0]
    assert len(to_confirm(state, config(), 3)) == 3
    assert 0 in [trial.number for trial in to_confirm(state, config(), 3)]


def souped(value):
    """Return the state of a study whose trial 1 won and whose soup of it measured ``value``."""
    state = state_of(curve(0.90), curve(0.93))
    again(state, 1, 0.94, 0.92)
    due = soup_due(state, config())
    assert (due.number, due.trial, due.runs) == (2, 1, (0, 1, 2))
    members = [(due.trial, run) for run in due.runs]
    state.apply(event("created", trial=2, params={}, origin="soup", members=members), 2)
    assert soup_due(state, config()) is None
    where = {"trial": 2, "attempt": 0, "from_checkpoint": 0, "until": 1}
    state.apply(event("segment", segment=where, slot=0), 2)
    fields = {"rung": 5, "step": 5, "texts_seen": 5, "seconds": 1.0, "last": True, "why": "mean"}
    state.apply(event("measured", metrics={"val/auc": value}, **fields), 2)
    state.apply(event("ended", state="complete", reason="mean", value=value), 2)
    state.apply(event("told", trial=2, state="complete", value=value))
    return state


def test_a_soup_wins_where_it_is_no_worse_than_its_members_on_the_average():
    assert winner(souped(0.9301), config()).number == 2
    assert winner(souped(0.9299), config()).number == 1


def test_a_soup_is_none_of_the_trials_that_the_search_knows():
    state = souped(0.95)
    assert list(state.trials) == [0, 1]
    assert state.trials.free == 3
    assert state.trials[2].is_soup
    assert state.trials.best.number == 1
    assert state.trials.reached(5) == 2


@pytest.mark.parametrize("words", [{"soup": False}, {"winner": "value", "soup": False}])
def test_no_soup_is_made_where_none_is_wanted(words):
    state = state_of(curve(0.90), curve(0.93))
    again(state, 1, 0.94, 0.92)
    assert soup_due(state, config(**words)) is None


def test_one_run_makes_no_soup():
    assert soup_due(state_of(curve(0.90), curve(0.93)), config()) is None


def test_a_run_that_was_cut_short_is_in_no_soup():
    """Its fresh seeds are trained to the end."""
    state = state_of(curve(0.80), [0.84, 0.90], ends=(1,))
    again(state, 1, 0.94, 0.92)
    # its own run says that it ended by itself, unless its log has no such word
    state.trials[1].runs[0].last = ""
    assert soup_due(state, config()).runs == (1, 2)


def test_a_soup_takes_back_no_end_that_a_gain_brought():
    state = state_of(curve(0.90), curve(0.93))
    again(state, 1, 0.94, 0.92)
    state.apply(event("enough", gain=0.001))
    state.apply(event("created", trial=2, params={}, origin="soup", members=[(1, 0), (1, 1)]), 2)
    where = {"trial": 2, "attempt": 0, "from_checkpoint": 0, "until": 1}
    state.apply(event("segment", segment=where, slot=0), 2)
    fields = {"rung": 5, "step": 5, "texts_seen": 5, "seconds": 1.0, "last": True, "why": "mean"}
    state.apply(event("measured", metrics={"val/auc": 0.95}, **fields), 2)
    assert state.gain == 0.001


def judged(state, **values):
    for trial, value in values.items():
        metrics = {"auc": value}
        state.apply(event("judged", trial=int(trial[1:]), rows=8000, metrics=metrics))


def test_all_validation_rows_choose_between_the_best_models():
    curves = [[0.957], [0.959], [0.958], [0.950], [0.951]]
    params = [{"train.lr": lr} for lr in (2e-4, 1e-4, 1.1e-4, 1e-5, 9e-4)]
    state = state_of(*curves, params=params)
    asked = config(at=[1.0], winner="estimate")
    assert [trial.number for trial in to_judge(state, asked)] == [1, 2, 0]
    assert winner(state, asked).number == 1
    judged(state, t1=0.960)
    assert [trial.number for trial in to_judge(state, asked)] == [2, 0]
    judged(state, t2=0.961, t0=0.962)
    assert to_judge(state, asked) == []
    assert winner(state, asked).number == 0
    assert [trial.number for trial in by_worth(state, asked)] == [0, 2, 1, 4, 3]
    assert [trial.number for trial in to_confirm(state, asked, 2)] == [0, 2]
    judged(state, t2=0.962)  # a given point wins a tie
    assert winner(state, asked).number == 0


def test_a_given_point_that_is_not_among_the_best_is_judged_too():
    state = state_of([0.950], [0.959], [0.958], [0.957], [0.956][:1], params=[
        {"train.lr": lr} for lr in (1e-5, 1e-4, 1.1e-4, 1.2e-4, 1.3e-4)])  # fmt: skip
    asked = config(at=[1.0], winner="estimate")
    found = [trial.number for trial in to_judge(state, asked)]
    assert len(found) == len(set(found)) == 4
    assert found[-1] == 0


def test_a_trial_that_was_cut_short_while_ahead_is_judged_and_others_are_not():
    state = state_of([0.8, 0.85, 0.88], [0.8, 0.95], [0.7], ends=(1, 2))
    assert [trial.number for trial in to_judge(state, config(at=[0.1, 0.3, 1.0]))] == [1, 0]


def test_a_soup_wins_where_it_is_the_best_on_all_validation_rows():
    state = souped(0.9299)
    (soup,) = state.trials.soups
    asked = config()
    assert soup in to_judge(state, asked)
    judged(state, **{f"t{trial.number}": 0.93 for trial in to_judge(state, asked)})
    judged(state, **{f"t{soup.number}": 0.931})
    assert winner(state, asked) is soup
    assert best_configuration(state, asked) is not soup
    judged(state, **{f"t{soup.number}": 0.9299})
    assert winner(state, asked) is not soup


def test_other_data_are_judged_anew():
    state = state_of([0.95], [0.96])
    state.apply(event("opened", name="s", data="one"))
    judged(state, t0=0.97, t1=0.96)
    state.apply(event("opened", name="s", data="one"))
    assert winner(state, config(at=[1.0])).number == 0
    state.apply(event("opened", name="s", data="two"))
    assert len(to_judge(state, config(at=[1.0]))) == 2


def test_a_model_that_could_not_be_measured_is_passed_over():
    state = state_of([0.95], [0.96])
    asked = config(at=[1.0])
    state.apply(event("judged", trial=1, rows=8000, metrics={}, failure="out of memory"))
    assert [trial.number for trial in to_judge(state, asked)] == [0]
    judged(state, t0=0.94)
    assert winner(state, asked).number == 0
    assert winner(state, config(at=[1.0], winner="value")).number == 1  # its own values alone


def test_an_extended_study_judges_what_is_new_and_all_anew_by_another_config():
    state = state_of([0.95], [0.96])
    asked = config(at=[1.0])
    state.apply(event("opened", name="s", data="d", config="one"))
    judged(state, t0=0.97, t1=0.96)
    state.apply(event("opened", name="s", data="d", config="two"))
    assert len(to_judge(state, asked)) == 2
