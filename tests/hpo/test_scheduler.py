"""Schedulers decide as their sources say: Optuna's pruners as Optuna, promotion as ASHA with resume."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embsearch.config.schema import Config, EvaluateConfig, SchedulerConfig, StopConfig
from embsearch.errors import ConfigError
from embsearch.history.board import Board
from embsearch.history.trial import Trial
from embsearch.hpo.promotion import Promotion
from embsearch.hpo.scheduler import make
from embsearch.values import Outcome

AT = (0.1, 0.25, 0.5, 0.75, 1.0)


def scheduler(name, at=AT, **settings):
    return make(Config(scheduler=SchedulerConfig(name, **settings), evaluate=EvaluateConfig(at=at)))


def curves(seed, trials=24, rungs=5):
    random = np.random.default_rng(seed)
    rise = np.cumsum(random.exponential(0.05, (trials, rungs)), axis=1)
    return random.uniform(0.5, 0.8, (trials, 1)) + rise + random.normal(0, 0.02, (trials, rungs))


def end(trial, state):
    trial.state, trial.outcome = state, Outcome(state, "it ended", trial.best)


def decisions(rule, values, order):
    """The kind of decision for every (trial, rung), trials advancing in ``order`` until they stop."""
    board = {n: Trial(n, "running") for n in range(len(values))}
    kinds = {}
    for number in order:
        trial = board[number]
        if trial.state != "running":
            continue
        rung = trial.rung + 1
        trial.values = {**trial.values, rung: float(values[number, rung - 1])}
        if rung == values.shape[1]:
            end(trial, "complete")
            continue
        decision = rule.decide(trial, board)
        kinds[number, rung] = decision.kind
        trial.attributes.update(decision.attributes)
        if decision.kind == "stop":
            end(trial, "pruned")
    return kinds


def asked_of_optuna(pruner, values, order, steps):
    """The same by Optuna alone."""
    study = optuna.create_study(direction="maximize", pruner=pruner, study_name="default")
    trials, at, kinds = (
        {n: study.ask() for n in range(len(values))},
        dict.fromkeys(range(len(values)), 0),
        {},
    )
    for number in order:
        if at[number] < 0:
            continue
        at[number] += 1
        value = float(values[number, at[number] - 1])
        if at[number] == values.shape[1]:
            study.tell(trials[number], float(values[number].max()))
            at[number] = -1
            continue
        trials[number].report(value, steps[at[number] - 1])
        kinds[number, at[number]] = "stop" if trials[number].should_prune() else "continue"
        if kinds[number, at[number]] == "stop":
            study.tell(trials[number], state=optuna.trial.TrialState.PRUNED)
            at[number] = -1
    return kinds


ORACLES = {
    "none": lambda: optuna.pruners.NopPruner(),
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=250),
    "asha": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=250, reduction_factor=3),
    "hyperband": lambda: optuna.pruners.HyperbandPruner(
        min_resource=250, max_resource=1000, reduction_factor=3
    ),
    "wilcoxon": lambda: optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=2),
}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("name", ORACLES)
def test_a_stop_only_scheduler_decides_as_optuna_does(name, one_by_one):
    stops = 0
    for seed in range(4):
        values = curves(seed)
        order = np.repeat(np.arange(len(values)), len(AT))
        if not one_by_one:
            np.random.default_rng(seed).shuffle(order)
        mine = decisions(scheduler(name, min_rung=2), values, order)
        oracle = asked_of_optuna(ORACLES[name](), values, order, [100, 250, 500, 750, 1000])
        if name == "wilcoxon":  # Optuna's has no warm-up in steps
            oracle = {k: v for k, v in oracle.items() if k in mine}
        assert mine == oracle
        stops += list(mine.values()).count("stop")
    assert (stops > 0) == (name != "none")


def test_median_stops_a_trial_below_the_median_of_the_complete_ones():
    order = [n for n in range(4) for _ in range(2)]
    for value, kind in [(0.69, "stop"), (0.7, "continue")]:
        values = np.array([[0.6, 0.9], [0.7, 0.9], [0.8, 0.9], [value, 0.9]])
        rule = scheduler("median", at=(0.5, 1.0), startup_trials=3)
        assert decisions(rule, values, order)[3, 1] == kind


def test_asha_counts_its_rungs_in_budget_not_in_evaluations():
    rule = scheduler("asha", at=(0.11, 0.33, 1.0))
    values = np.array(
        [[0.9, 0.9, 0.9], [0.8, 0.8, 0.8], [0.7, 0.7, 0.7], [0.95, 0.1, 0.1], [0.96, 0.2, 0.2]]
    )
    kinds = decisions(rule, values, [n for n in range(5) for _ in range(3)])
    assert kinds[3, 2] == kinds[4, 2] == "stop"  # the second evaluation is a rung: 0.33 is 3 x 0.11


def test_the_reason_of_a_decision_has_the_rule_and_the_numbers():
    rule = scheduler("median", startup_trials=1)
    board = {0: Trial(0, "running", {1: 0.8}), 1: Trial(1, "running", {1: 0.7})}
    end(board[0], "complete")
    decision = rule.decide(board[1], board)
    assert (decision.kind, decision.reason) == ("stop", "median: place 2 of 2 at rung 1 (0.7000)")


@pytest.mark.parametrize(("settings", "says"), [({"min_rung": 6}, "expected 1 to 5"), ({"min_rung": 0}, "1 to 5"),
                                                ({"reduction": 1}, "expected 2 or more")])  # fmt: skip
def test_a_rung_that_no_trial_reaches_is_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        scheduler("promotion", **settings)


# ---- promotion ------------------------------------------------------------------------------


def board(values, states=None):
    """Trials 0, 1, ... with their values at rungs 1, 2, ..."""
    states = states or ["paused"] * len(values)
    return {
        n: Trial(n, s, dict(enumerate(v, 1)))
        for n, (v, s) in enumerate(zip(values, states, strict=True))
    }


@pytest.mark.parametrize(
    ("at", "min_rung", "rungs"),
    [
        ((0.11, 0.33, 1.0), 1, [1, 2]),
        ((0.1, 0.25, 0.5, 0.75, 1.0), 1, [1, 3]),
        ((0.1, 0.25, 0.5, 0.75, 1.0), 2, [2, 4]),
        (tuple(k / 27 for k in range(1, 28)), 3, [3, 9]),
        (tuple(k / 27 for k in range(1, 28)), 1, [1, 3, 9]),
        ((1.0,), 1, []),
    ],
)
def test_rungs_lie_where_the_budget_has_grown_by_the_reduction(at, min_rung, rungs):
    assert Promotion(at, 3, min_rung).rungs == rungs


def test_a_trial_pauses_until_its_place_is_within_the_quota():
    rule, trials = Promotion((0.11, 0.33, 1.0), 3), board([[0.95], [0.7], [0.9]])
    decision = rule.decide(trials[2], trials)
    assert (decision.kind, decision.reason) == (
        "pause",
        "place 1 of 2 sampled trials at rung 1 (0.9000), 0 may go on",
    )
    trials = board([[0.95], [0.7], [0.9], [0.8]])
    assert rule.decide(trials[2], trials).kind == "continue"
    reason = rule.decide(trials[3], trials).reason
    assert reason == "place 2 of 3 sampled trials at rung 1 (0.8000), 1 may go on"


@pytest.mark.parametrize("trials", [None, 5])
def test_the_default_configuration_runs_to_its_end_whatever_it_is_worth(trials):
    rule = Promotion((0.11, 0.33, 1.0), 3, trials=trials)
    there = board([[0.1], [0.9], [0.8], [0.7]])
    decision = rule.decide(there[0], there)
    assert decision.kind == "continue"
    assert decision.reason == "trial 0 is the default configuration and runs to its end"


def test_a_given_point_runs_to_its_end_unless_it_is_left_far_behind():
    rule, there = Promotion((0.11, 0.33, 1.0), 3, trials=5), board([[0.9], [0.88], [0.8], [0.95]])
    there[1].origin = there[2].origin = "given"
    reason = rule.decide(there[1], there).reason
    assert reason == "place 2 of 2 sampled trials at rung 1 (0.8800), 0 may go on"
    there[3].values = {1: 0.89}
    decision = rule.decide(there[1], there)
    assert decision.kind == "continue"
    assert decision.reason == "trial 1 is a given point and runs to its end"
    assert rule.decide(there[2], there).kind == "pause"


def test_a_paused_default_configuration_of_an_older_version_goes_on():
    rule, there = Promotion((0.11, 0.33, 1.0), 3), board([[0.1], [0.9], [0.8], [0.7]])
    there[1].state = "running"
    assert rule.next_paused(there) == 0
    assert rule.promotable(there).reason.endswith(
        "is the default configuration and runs to its end"
    )


def test_once_all_are_there_never_fewer_than_one_sampled_trial_goes_on():
    """A search of two trials, and one whose second rung has only one that was sampled."""
    rule, there = Promotion((0.11, 0.33, 1.0), 3, trials=2), board([[0.9], [0.8]])
    assert rule.decide(there[1], there).kind == "continue"
    rule = Promotion((0.11, 0.33, 1.0), 3, trials=4)
    there = board([[0.9, 0.91, 0.92], [0.8, 0.81], [0.6], [0.5]], ["complete", *["paused"] * 3])
    assert rule.next_paused(there) == 1
    reason = rule.promotable(there).reason
    assert reason == "place 1 of 1 sampled trials at rung 2 (0.8100), 1 may go on"


def played(trials, given, failing, seed):
    """A search by one worker on random curves, ``given`` points first; those of ``failing`` diverge on the way from
    the first rung to the second."""
    draw = np.random.default_rng(seed)
    curves = draw.uniform(0.5, 0.9, (trials, 1)) + draw.normal(0, 0.05, (trials, 3)).cumsum(axis=1)
    rule, there = Promotion((0.1, 0.3, 1.0), 3, trials=trials), Board()
    while (number := rule.next_paused(there)) is not None or len(there) < trials:
        if number is None:
            number = len(there)
            there.add(Trial(number, origin="given" if number <= given else ""))
        trial = there[number]
        while trial.state in ("waiting", "paused"):
            with there.changing(trial):
                if trial.rung == 1 and number in failing:
                    trial.state = "failed"
                    break
                trial.values = {**trial.values, trial.rung + 1: float(curves[number, trial.rung])}
            with there.changing(trial):
                trial.state = "complete" if trial.rung == 3 else "waiting"
            if trial.state == "waiting" and rule.decide(trial, there).kind == "pause":
                with there.changing(trial):
                    trial.state = "paused"
                break
    return there


@given(
    st.integers(2, 12),
    st.integers(0, 5),
    st.sets(st.integers(1, 12), max_size=4),
    st.integers(0, 999),
)
def test_in_a_search_of_any_size_the_best_sampled_trial_comes_to_its_end(
    trials, given, failing, seed
):
    there = played(trials, given, failing, seed)
    sampled = [t for t in there.values() if not t.given and t.state != "failed"]
    assert not sampled or max(sampled, key=lambda t: t.values[1]).rung >= 2
    assert not sampled or any(t.state == "complete" for t in sampled)
    assert there[0].state == "complete"


def test_a_trial_too_near_to_the_last_that_may_go_on_goes_on_too():
    values = [[0.4], [0.9], [0.5], [0.7], [0.799], [0.6], [0.8]]
    rule, there = Promotion((0.11, 0.33, 1.0), 3, trials=7), board(values)
    decision = rule.decide(there[4], there)
    assert decision.kind == "continue"
    assert decision.reason == (
        "place 3 of 6 sampled trials at rung 1 (0.7990), 2 may go on; "
        "too near to the last of them to tell"
    )
    there[4].values = {1: 0.77}
    assert rule.decide(there[4], there).kind == "pause"
    there[4].values, there[3].values = {1: 0.799}, {1: 0.7985}
    assert rule.decide(there[3], there).kind == "pause"  # one more than the quota, not two


@pytest.mark.parametrize(("stop", "waits"), [({"trials": 9}, True), ({"trials": 9, "seconds": 60.0}, False),
                                             ({"trials": 9, "target": 0.9}, False)])  # fmt: skip
def test_rungs_wait_where_nothing_but_the_number_of_trials_ends_the_search(stop, waits):
    rule = make(Config(stop=StopConfig(**stop)))
    assert (rule.trials, rule.waits) == (9, waits)
    few = board([[0.5], [0.6], [0.7], [0.4]])
    few[0].state = "complete"
    assert rule.next_paused(few) == (None if waits else 2)


def test_a_rung_waits_for_a_dozen_where_more_are_sure_to_come():
    rule = Promotion((0.11, 0.33, 1.0), 3, trials=20)
    values = [[0.5 + n / 100] for n in range(13)]
    few, enough = board(values[:12]), board(values)
    few[0].state = enough[0].state = "complete"
    assert rule.next_paused(few) is None
    assert rule.next_paused(enough) == 12
    assert Promotion((0.11, 0.33, 1.0), 3, trials=12).next_paused(board(values[:12])) == 11


def test_between_rungs_a_trial_goes_on():
    rule, trials = Promotion(AT, 3), board([[0.9, 0.9], [0.1, 0.1]])
    assert rule.decide(trials[1], trials).reason == "evaluation 2 is no rung"


def test_the_best_paused_trial_of_the_highest_rung_goes_on_first():
    rule = Promotion((0.11, 0.33, 1.0), 3)
    values = [[0.5], [0.6], [0.7], [0.81, 0.7], [0.82, 0.9], [0.83, 0.8], [0.99], [0.98], [0.97]]
    trials = board(values)
    trials[0].state = "complete"
    assert rule.next_paused(trials) == 4  # rung 2: one of three may
    reason = rule.promotable(trials).reason
    assert reason == "place 1 of 3 sampled trials at rung 2 (0.9000), 1 may go on"
    trials[4].state = "running"
    assert rule.next_paused(trials) == 6  # rung 1: three of nine may: 0.99, 0.98, 0.97
    for number in (6, 7, 8):
        trials[number].state = "running"
    assert rule.next_paused(trials) is None
    assert rule.promotable(trials) is None


def test_nothing_goes_on_before_the_quota_is_one():
    rule = Promotion((0.11, 0.33, 1.0), 3)
    trials = board([[0.5], [0.9], [0.8], [0.7]])
    trials[0].state = "complete"
    assert rule.next_paused(trials) == 1
    del trials[3]
    assert rule.next_paused(trials) is None


def test_of_two_equal_trials_the_earlier_goes_on():
    rule = Promotion((0.11, 0.33, 1.0), 3)
    assert rule.next_paused(board([[0.9], [0.9], [0.9]])) == 0


def test_pruned_trials_count_for_the_quota_and_failed_ones_do_not():
    rule, values = Promotion((0.11, 0.33, 1.0), 3), [[0.4], [0.9], [0.8], [0.7], [0.6]]
    states = ["complete", "failed", "paused", "pruned", "pruned"]
    assert rule.next_paused(board(values, states)) == 2
    states[3] = "failed"
    assert rule.next_paused(board(values, states)) is None


def search(rule, curves):
    """A search by one worker on given curves: share of the full budget, the trials that ran to their end."""
    trials, full = curves.shape
    board, spent = {}, 0
    while (number := rule.next_paused(board)) is not None or len(board) < trials:
        trial = board.setdefault(len(board) if number is None else number, Trial(len(board)))
        trial.state = "running"
        while trial.state == "running":
            trial.values = {**trial.values, trial.rung + 1: float(curves[trial.number, trial.rung])}
            spent += 1
            if trial.rung == full:
                trial.state = "complete"
            elif rule.decide(trial, board).kind == "pause":
                trial.state = "paused"
    return spent / (trials * full), {t.number for t in board.values() if t.state == "complete"}


def halving(curves, first=3, reduction=3):
    """The same with stop-only halving, as Optuna's SuccessiveHalvingPruner(min_resource=3) does it."""
    trials, full = curves.shape
    reached, spent, complete = {}, 0, set()
    for number, curve in enumerate(curves):
        for rung in (first, first * reduction):
            reached.setdefault(rung, []).append(curve[rung - 1])
            quota = max(1, len(reached[rung]) // reduction)
            if curve[rung - 1] < sorted(reached[rung], reverse=True)[quota - 1]:
                spent += rung
                break
        else:
            spent += full
            complete.add(number)
    return spent / (trials * full), complete


def synthetic(seed, noise):
    """Curves of 64 configurations over 27 epochs: they end anywhere in 0.65 ... 0.95 and get there at
    different speeds, so that early places mislead. Scaled so that stop-only halving gives what
    as measured for Optuna's: 0.27 of the budget, the best kept in 83-88 %."""
    random = np.random.default_rng(seed)
    end, speed = (
        random.uniform(0.65, 0.95, (64, 1)),
        np.exp(random.uniform(np.log(0.5), np.log(6), (64, 1))),
    )
    true = end - 0.3 * np.exp(-np.arange(1, 28) / speed)
    return true, true + random.normal(0, noise, true.shape)


@pytest.mark.parametrize(
    ("noise", "cost", "sure", "regret"), [(0.005, 0.302, 0.93, 0.0005), (0.02, 0.302, 0.85, 0.001)]
)
def test_promotion_keeps_the_best_configuration_at_a_third_of_the_budget(noise, cost, sure, regret):
    rows = {"promotion": [], "halving": []}
    for seed in range(40):
        true, seen = synthetic(seed, noise)
        end, best = true[:, -1], int(true[:, -1].argmax())
        for name, (share, ended) in {
            "promotion": search(Promotion([k / 27 for k in range(1, 28)], 3, 3, trials=64), seen),
            "halving": halving(seen),
        }.items():
            rows[name].append((share, best in ended, end[best] - max(end[n] for n in ended)))
    (share, kept, lost), (_, kept_by_halving, lost_by_halving) = (
        np.mean(rows[n], axis=0) for n in rows
    )
    assert share <= cost
    assert kept >= sure
    assert lost <= regret
    assert kept > kept_by_halving
    assert lost < lost_by_halving / 3
