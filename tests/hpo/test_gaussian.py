"""The surrogate is the posterior that its docstring writes down, and the sampler follows it."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

from embsearch.config.load import compose
from embsearch.errors import ConfigError
from embsearch.history.trial import Trial
from embsearch.hpo import surrogate as model
from embsearch.hpo.earlier import Earlier, told_by
from embsearch.hpo.gaussian import ExpectedImprovement, surrogate_of
from embsearch.hpo.space import parse
from embsearch.hpo.suggest import Suggester
from embsearch.hpo.surrogate import Coordinates, Measured, Surrogate, in_logits
from embsearch.values import EarlierStudy, Outcome

ROOT = Path(__file__).parents[2]
AT = (0.1, 0.3, 1.0)
WORDS = ["space=contrastive", "model=custom", "model.path=none", "evaluate.at=[0.1,0.3,1.0]"]
CONFIG = compose(WORDS)
SPACE = parse(CONFIG.space, CONFIG)


def drawn(count, seed=0):
    dice = np.random.default_rng(seed)
    return [SPACE.at(shares) for shares in dice.random((count, len(SPACE.dimensions)))]


def nothing_told(points):
    return np.zeros((len(points), 1))


def lr_told(points):
    """Two earlier studies: one holds high rates to be good, the other low ones."""
    high = np.array([math.log(point["train.lr"]) for point in points]) / 2
    return np.stack([high, -0.5 * high], axis=1)


def by_the_book(points, rungs, values, asked, scale):
    """Mean and covariance of the ends, by the formula of conditional Gaussians on all at once."""
    every, last = [*points, *asked], len(AT)
    at = np.array([*rungs, *[last] * len(asked)])
    left = 1 - np.array(AT)[at - 1]
    x, told = Coordinates(SPACE).of(every), lr_told(every)
    d = np.sqrt(5 * ((x[:, None] - x[None]) ** 2).sum(-1))
    near = (1 + d + d**2 / 3) * np.exp(-d)
    prior = model.FREE**2 * (at[:, None] == at[None])
    prior = prior + model.TRUST**2 * told @ told.T
    own = near * (model.OWN**2 + model.EARLY**2 * np.outer(left, left))
    prior = prior + scale**2 * own
    mean = np.mean(values) + told.sum(1)
    n = len(points)
    known = prior[:n, :n] + model.NOISE**2 * np.eye(n)
    ahead = prior[n:, :n] @ np.linalg.inv(known)
    return mean[n:] + ahead @ (values - mean[:n]), prior[n:, n:] - ahead @ prior[:n, n:]


def test_what_it_expects_is_the_posterior_of_its_formula():
    points, rungs = drawn(9), [1, 1, 1, 2, 2, 3, 3, 1, 2]
    values, asked = in_logits(np.linspace(0.7, 0.9, 9)), drawn(5, seed=1)
    found = Surrogate(SPACE, AT, lr_told, Measured(points, rungs, values.tolist()))
    mean, covariance = by_the_book(points, rungs, values, asked, found._scale)
    assert found.ends(asked) == pytest.approx(mean, abs=1e-8)

    tried = asked[:2]
    best = int(np.argmax(mean[:2]))
    dice = np.random.default_rng(0).multivariate_normal(mean, covariance, 400_000)
    gains = np.maximum(dice[:, 2:] - dice[:, [best]], 0).mean(axis=0)
    assert found.improvement(asked[2:], tried) == pytest.approx(gains, rel=0.03, abs=2e-4)


def test_measurements_overrule_what_earlier_studies_say():
    """They hold high rates to be good; on these data low ones are."""

    def told(points):
        gains = [0.3 * math.log10(point["train.lr"] / 1e-4) for point in points]
        return np.array(gains).reshape(-1, 1)

    low, high = (dict(SPACE.default(CONFIG), **{"train.lr": lr}) for lr in (3e-5, 7e-4))
    before = Surrogate(SPACE, AT, told, Measured([], [], [])).ends([low, high])
    assert before[1] > before[0]
    points = drawn(24)
    values = [2 - 0.3 * math.log10(point["train.lr"] / 1e-4) for point in points]
    after = Surrogate(SPACE, AT, told, Measured(points, [3] * 24, values)).ends([low, high])
    assert after[0] > after[1] + 0.1


def test_a_parameter_that_a_loss_does_not_have_makes_no_difference():
    point = dict(SPACE.default(CONFIG), **{"objective.name": "infonce"})
    other = {**point, "objective.margin": 0.17}  # of the triplet loss
    mine, with_middle = (
        Coordinates(SPACE).of([one]) for one in (point, {**point, "objective.margin": 0.275})
    )
    assert (mine == with_middle).all()
    assert (mine != Coordinates(SPACE).of([other])).any()


def test_an_awaited_configuration_is_not_suggested_again():
    points = drawn(6)
    values = in_logits(np.linspace(0.8, 0.9, 6)).tolist()
    alone = Surrogate(SPACE, AT, nothing_told, Measured(points, [3] * 6, values))
    first, promised = ExpectedImprovement(0, SPACE, alone, points).best()
    both = alone.awaiting([first])
    tried = [*points, first]
    assert both.improvement([first], tried)[0] < 0.05 * promised


@pytest.mark.parametrize("seed", range(5))
def test_suggestions_lie_in_the_space_and_are_repeated_by_their_seed(seed):
    points = drawn(8, seed)
    known = Measured(points, [1] * 8, np.linspace(0.5, 1.5, 8).tolist())
    surrogate = Surrogate(SPACE, AT, nothing_told, known)
    (first, gain), again = (
        ExpectedImprovement(seed, SPACE, surrogate, points).best() for _ in range(2)
    )
    assert (first, gain) == again
    assert SPACE.has(first)
    assert ("objective.margin" in first) == (first["objective.name"] == "triplet")


def test_what_the_parameters_broke_is_avoided_and_a_killed_trial_says_nothing():
    point = SPACE.default(CONFIG)
    others = {n: Trial(n, "paused", {1: 0.7 + n / 100}, params=p) for n, p in enumerate(drawn(6))}

    def worth(outcome):
        trial = Trial(9, "failed", params=point, outcome=outcome)
        surrogate = surrogate_of({**others, 9: trial}, SPACE, CONFIG, nothing_told)
        return surrogate.ends([point])[0]

    without = surrogate_of(others, SPACE, CONFIG, nothing_told).ends([point])[0]
    assert worth(Outcome("failed", "", failure="killed")) == pytest.approx(without)
    assert worth(Outcome("failed", "", failure="diverged")) < without - 0.01


def test_shipped_studies_know_a_good_rate_from_a_bad_one():
    told = told_by(SPACE, CONFIG)
    rates = [dict(SPACE.default(CONFIG), **{"train.lr": lr}) for lr in (1e-5, 3e-4)]
    low, high = told(rates)
    assert (high > low).all()
    assert told([SPACE.default(CONFIG)]) == pytest.approx(0)


@pytest.mark.parametrize(
    "words", [["space=lora"], ["space=static", "model.path=static"], ["objective.name=cosent"]]
)
def test_shipped_studies_say_nothing_where_the_own_point_is_outside_their_ranges(words):
    config = compose(["model=custom", "model.path=none", "space=contrastive", *words])
    if "space=static" in words or "space=lora" in words:
        space = parse(config.space, config)
    else:
        space = parse({"train.lr": {"low": 1e-5, "high": 1e-3, "log": True}}, config)
    told = told_by(space, config)
    assert not told([space.default(config)] * 3).any()


LIKE = EarlierStudy(
    "other",
    {"train.lr": {"low": 1e-6, "high": 1e-3, "log": True}},
    {"train.lr": 1e-5},
    [{"train.lr": lr} for lr in (3e-6, 1e-5, 3e-5, 1e-4, 3e-4)],
    [0.80, 0.90, 0.85, 0.75, 0.60],
)


def test_a_study_that_is_named_counts_as_much_as_all_that_are_shipped():
    rates = [dict(SPACE.default(CONFIG), **{"train.lr": lr}) for lr in (1e-5, 3e-4)]
    shipped, both = told_by(SPACE, CONFIG)(rates), told_by(SPACE, CONFIG, [LIKE])(rates)
    assert both[:, :-1] == pytest.approx(shipped / 2)
    low, high = both[:, -1]
    assert low - high == pytest.approx(math.log(0.9 / 0.1 / (0.6 / 0.4)) / 2, rel=0.25)
    assert both.sum(1)[0] > both.sum(1)[1]
    assert shipped.sum(1)[0] < shipped.sum(1)[1]


def test_a_prior_is_followed_first_and_overruled_by_trials():
    config = compose(
        [*WORDS, "+space.train.lr.prior={around: 2e-5, within: 2}", "sampler.startup_trials=0"]
    )
    space = parse(config.space, config)

    def suggested(count, lr):
        """The median rate that is suggested where so many trials say that ``lr`` is best."""
        dice = np.random.default_rng(0)
        points = [space.at(shares) for shares in dice.random((count, len(space.dimensions)))]
        values = [0.9 - 0.1 * math.log10(point["train.lr"] / lr) ** 2 for point in points]
        known = Measured(points, [3] * count, in_logits(values).tolist())
        surrogate = Surrogate(space, AT, nothing_told, known)
        found = [ExpectedImprovement(s, space, surrogate, points).best()[0] for s in range(5)]
        return np.median([point["train.lr"] for point in found])

    assert suggested(2, 5e-4) < 6e-5
    assert suggested(60, 5e-4) > 2e-4


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.lr.prior={around: 2, within: 3}", "prior.around=2: is outside"),
        (
            "train.lr.prior={around: 1e-4, within: 0.5}",
            "expected a factor, of a log range, above 1",
        ),
        ("train.lr.prior={around: 1e-4}", "expected {around: a number, within: a number}"),
        ("train.lr.prior={about: 1e-4, within: 2}", "expected {around: a number"),
        ("objective.name.prior={around: 1, within: 2}", "these choices have no order"),
    ],
)
def test_a_prior_that_cannot_be_is_refused(word, said):
    config = compose([*WORDS, f"+space.{word}"])
    with pytest.raises(ConfigError) as refused:
        parse(config.space, config)
    assert said in str(refused.value)


def test_a_prior_is_refused_where_the_sampler_does_not_know_it():
    config = compose([*WORDS, "sampler=tpe", "+space.train.lr.prior={around: 1e-4, within: 2}"])
    with pytest.raises(ConfigError, match="sampler=tpe knows no priors; use sampler=gp"):
        parse(config.space, config)


def test_the_shipped_table_is_that_of_the_recorded_curves(tmp_path, monkeypatch):
    place = ROOT / "benchmarks" / "record_curves.py"
    spec = importlib.util.spec_from_file_location("record_curves", place)
    recorder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorder)
    monkeypatch.setattr(recorder, "TABLE", tmp_path / "recorded.json")
    recorder.write_table()
    shipped = json.loads((ROOT / "embsearch" / "hpo" / "recorded.json").read_text())
    assert json.loads((tmp_path / "recorded.json").read_text()) == shipped
    assert len(shipped["values"]) == 6
    assert len(shipped["configurations"]) >= 60


def test_a_search_on_data_like_none_before_is_better_than_chance(monkeypatch):
    """Nothing is told of other data, and the best rate is 3e-5."""
    monkeypatch.setattr("embsearch.hpo.suggest.told_by", lambda space, config, like: nothing_told)
    lost = {"gp": [], "random": []}
    for sampler, found in lost.items():
        for seed in range(6):
            config = compose([*WORDS, f"sampler={sampler}", f"sampler.seed={seed}"])
            suggester = Suggester(config, SPACE, None)
            there = {}
            for number in range(16):
                params = suggester.suggest(number, there).params
                gap = abs(math.log10(params["train.lr"] / 3e-5))
                gap += 0.4 * (params["objective.name"] == "infonce")
                there[number] = Trial(number, "complete", {3: 0.95 - 0.1 * gap**2}, params=params)
            found.append(0.95 - max(trial.values[3] for trial in there.values()))
    assert np.mean(lost["gp"]) < 0.5 * np.mean(lost["random"])


def test_values_of_a_metric_beyond_0_and_1_are_taken_too():
    assert np.isfinite(in_logits([-0.2, 0.3, 0.9])).all()
    assert in_logits([0.5]) == pytest.approx(0)


def test_an_earlier_study_is_interpolated():
    points = drawn(30)
    values = [math.log(point["train.lr"]) for point in points]
    expected = Earlier(SPACE, points, [values]).expects(points)[:, 0]
    assert np.corrcoef(expected, values)[0, 1] > 0.95
