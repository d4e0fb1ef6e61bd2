"""How good is the model that a search ends with? Searches played on curves of real fine-tunes.

    python benchmarks/search_quality.py                       # writes benchmarks/results/search_quality.json
    python benchmarks/search_quality.py --seeds 10 --only product,random --sets en_abtbuy

A data set's recorded curves (record_curves.py) make two worlds that know a value for every configuration: a Gaussian
process and a forest of extra trees over the configurations, both with the noise between seeds that was recorded. The
correlation of what they predict with what was measured, on configurations left out, is printed; a world below 0.8 is
left out. Searches are played in memory by the product's own policy, scheduler, sampler and space, one worker, fresh
seeds at the end included.

A search is judged by the test AUC, without noise, of the model it ends with. The given point is the known-good one of
record_curves.py, whatever the version's default is. "best possible" is the best of 5,000 draws of the space.
"share at 25 %": what the answer at a quarter of the search's texts has of the gain in validation AUC over the
untuned encoder, without noise.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from embsearch.config.load import compose
from embsearch.config.schema import Config
from embsearch.history import events
from embsearch.history.state import StudyState
from embsearch.hpo import earlier
from embsearch.hpo.scheduler import make as make_scheduler
from embsearch.hpo.space import Space, parse
from embsearch.hpo.suggest import Suggester
from embsearch.study.actions import Close, Evaluate, Log, Moment, Suggest, Train
from embsearch.study.policy import Policy
from embsearch.study.result import winner
from embsearch.values import Measurement, Segment

HERE = Path(__file__).parent
CURVES = HERE / "data" / "curves"
LEAST = 0.8  # correlation on configurations left out, below which a world says too little
WORLDS = ("process", "trees")
RANGES = {"train.lr": (1e-5, 1e-3), "train.l2": (1e-4, 1e-1), "objective.temperature": (0.01, 0.1)}
GIVEN = (  # the known-good point, where it is not the version's default
    "study.defaults=[{objective.name: infonce, objective.temperature: 0.05, train.lr: 2e-4, "
    "train.batch_size: 64}]"
)
BASE = [
    GIVEN, "model=custom", "model.path=none", "space=contrastive", "space.train.batch_size.choices=[32,64,128]",
    "space.model.freeze_layers.high=1", "train.texts=14400", "evaluate.at=[0.1,0.3,0.6,1.0]", "train.l2=0.01",
    "confirm.soup=false",  # no curve says what a mean of weights is worth
]  # fmt: skip
# What the product does of itself, and what others do.
RIVALS = {
    "random": ["sampler=random", "scheduler=none"],
    "tpe": ["sampler=tpe", "scheduler=none"],
    "random+promotion": ["sampler=random"],
    "hyperband": ["sampler=tpe", "scheduler=hyperband"],
    "tpe+promotion": ["sampler=tpe"],
    "product": [],
}


# ---- the worlds ------------------------------------------------------------------------------


def features(point: Mapping[str, Any]) -> list[float]:
    """Return a configuration as numbers from 0 to 1; a setting that its loss does not have is at the middle."""

    def log(path: str) -> float:
        if path not in point:
            return 0.5
        low, high = RANGES[path]
        return math.log(point[path] / low) / math.log(high / low)

    triplet = point["objective.name"] == "triplet"
    return [
        log("train.lr"),
        math.log2(point["train.batch_size"] / 32) / 2,
        float(triplet),
        log("objective.temperature"),
        point.get("objective.margin", 0.275) / 0.45 - 0.11,
        0.5 if triplet else float(point["objective.symmetric"]),
        log("train.l2"),
        point["train.warmup"] / 0.3,
        float(point["train.schedule"] == "cosine"),
        float(point["model.freeze_layers"]),
    ]


def logit(value: np.ndarray) -> np.ndarray:
    return np.log(value / (1 - value))


class World:
    """The curve of every configuration: validation AUC at each evaluation, and test AUC at the end."""

    def __init__(self, name: str, kind: str) -> None:
        recorded = json.loads((CURVES / f"{name}.json").read_text())
        runs = [run for run in recorded["runs"] if not run["failure"]]
        points = [recorded["configs"][run["config"]] for run in runs]
        self.name, self.kind, self.at = name, kind, recorded["at"]
        self.untuned = recorded["untuned"]["val"]["auc"]
        self.inputs = np.array([features(point) for point in points])
        curves = [[m["auc"] for m in run["val"]] + [run["test"][-1]["auc"]] for run in runs]
        self.outputs = logit(np.array(curves))
        self.groups = np.array([run["config"] for run in runs])
        self.noise = self._noise()
        self.correlation = self._correlation()
        self._models = self._fit(self.inputs, self.outputs)

    def _noise(self) -> np.ndarray:
        """Return the covariance between seeds of one configuration, in logits."""
        away, freedom = [], 0
        for group in np.unique(self.groups):
            mine = self.outputs[self.groups == group]
            if len(mine) > 1:
                away.append(mine - mine.mean(axis=0))
                freedom += len(mine) - 1
        if not away:
            raise SystemExit(
                f"{self.name}.json: no configuration has been run with several seeds yet, so the noise is not "
                "known; let record_curves.py go on with it, or leave it out with --sets"
            )
        every = np.concatenate(away)
        return every.T @ every / freedom

    def _fit(self, inputs: np.ndarray, outputs: np.ndarray) -> list[Any]:
        if self.kind == "trees":
            return [
                ExtraTreesRegressor(300, min_samples_leaf=2, random_state=0).fit(inputs, outputs)
            ]
        kernel = ConstantKernel(1.0) * Matern(np.full(inputs.shape[1], 1.0), (0.1, 30), nu=2.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [
                GaussianProcessRegressor(
                    kernel + WhiteKernel(0.01, (1e-4, 0.3)), normalize_y=True, n_restarts_optimizer=1,
                    random_state=0,
                ).fit(inputs, outputs[:, n])
                for n in range(outputs.shape[1])
            ]  # fmt: skip

    def _predict(self, models: list[Any], inputs: np.ndarray) -> np.ndarray:
        if self.kind == "trees":
            return models[0].predict(inputs)
        return np.stack([model.predict(inputs) for model in models], axis=1)

    def _correlation(self) -> float:
        """Return Spearman's of the last evaluation, each configuration predicted by the others."""
        folds = np.array([hash(int(g)) % 6 for g in self.groups])
        found = np.zeros(len(folds))
        for fold in range(6):
            out = folds == fold
            models = self._fit(self.inputs[~out], self.outputs[~out])
            found[out] = self._predict(models, self.inputs[out])[:, -2]
        return float(spearmanr(found, self.outputs[:, -2])[0])

    @cache  # noqa: B019  # a world lives as long as the process
    def _means(self, point: tuple[tuple[str, Any], ...]) -> np.ndarray:
        return self._predict(self._models, np.array([features(dict(point))]))[0]

    def curve(self, point: Mapping[str, Any], seed: Sequence[int]) -> list[float]:
        """Return what one run measures at each evaluation."""
        means = self._means(tuple(sorted(point.items())))
        noise = np.random.default_rng(seed).multivariate_normal(np.zeros(len(means)), self.noise)
        return list(1 / (1 + np.exp(-(means + noise)[:-1])))

    def gain(self, point: Mapping[str, Any], rung: int) -> float:
        """Return the gain in validation AUC over the untuned encoder at an evaluation, without noise."""
        means = self._means(tuple(sorted(point.items())))
        return float(1 / (1 + np.exp(-means[rung - 1]))) - self.untuned

    def best_possible(self, space: Space, config: Config, draws: int = 5000) -> float:
        """Return the best test AUC of random configurations."""
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        drawn = (whole(config, space.suggest(study.ask())) for _ in range(draws))
        ends = self._predict(self._models, np.array([features(one) for one in drawn]))[:, -1]
        return float(1 / (1 + np.exp(-ends.max())))

    def test(self, point: Mapping[str, Any]) -> float:
        """Return the test AUC of a configuration, without noise."""
        return float(1 / (1 + np.exp(-self._means(tuple(sorted(point.items())))[-1])))


@cache
def world(name: str, kind: str) -> World:
    return World(name, kind)


# ---- a search --------------------------------------------------------------------------------


@dataclass
class Found:
    """What a search came to: test AUC without noise, and texts in full trials.

    ``trace``: after every evaluation the texts so far, the test AUC at its end of what would be the answer then, and
    the gain in validation AUC over the untuned encoder of the model that it has by then.
    """

    test: float
    given: float  # of the best point that was given
    texts: float
    trace: list[tuple[float, float, float]]

    def answer_at(self, share: float) -> float:
        """Return what the answer after a share of all texts has of the final gain."""
        then = [gain for texts, _, gain in self.trace if texts <= share * self.texts]
        return then[-1] / self.trace[-1][2] if then else 0.0


class Search:
    """One search by one worker; a full trial takes a second."""

    def __init__(self, config: Config, of: World, seed: int) -> None:
        self.config, self.world, self.seed = config, of, seed
        scheduler = make_scheduler(config)
        self.policy = Policy(config, scheduler)
        self.state = StudyState("auc")
        self.suggester = Suggester(config, parse(config.space, config), scheduler)
        self.spent, self.trace = 0.0, []

    def play(self) -> Found:
        """Play to the end, fresh seeds included."""
        self.state.apply(events.Baseline(metrics={}))
        while True:
            match self.policy.due(self.state, Moment(self.spent, [0], ())):
                case Log(event, number):
                    self.state.apply(event, number)
                case Suggest(number):
                    made = self.suggester.suggest(number, self.state.trials)
                    created = events.Created(trial=number, params=made.params, origin=made.origin)
                    self.state.apply(created, number)
                case Train(slot, segment, fresh):
                    if not fresh:
                        self.state.apply(events.Started(segment=segment, slot=slot), segment.trial)
                    self._train(segment, fresh)
                case Evaluate() | Close():
                    best = winner(self.state, self.config)
                    given = max(
                        self.test(n) for n, trial in self.state.trials.items() if trial.given
                    )
                    return Found(self.test(best.number), given, self.spent, self.trace)
                case action:
                    raise AssertionError(f"one worker never has to {action}")

    def _train(self, segment: Segment, fresh: bool) -> None:
        number, at = segment.trial, self.config.evaluate.at
        values = self.world.curve(self.point(number), (self.seed, number, segment.seed))
        for rung in range(segment.from_checkpoint + 1, segment.until + 1):
            self.spent += at[rung - 1] - (at[rung - 2] if rung > 1 else 0.0)
            last = rung == len(at)
            measured = Measurement(
                rung=rung,
                step=rung,
                texts_seen=round(at[rung - 1] * self.config.train.texts),
                metrics={"val/auc": values[rung - 1]},
                seconds=0.0,
                last=last,
                why="budget spent" if last else "",
            )
            seeds = segment.seed + 1 if fresh else self.policy.seeds(rung)
            self.state.apply(events.evaluated(measured, segment.seed, seeds), number)
            if not fresh and (best := self.state.leader) is not None:
                gain = self.world.gain(self.point(best.number), best.rung)
                self.trace.append((self.spent, self.test(best.number), gain))

    def test(self, number: int) -> float:
        return self.world.test(self.point(number))

    def point(self, number: int) -> dict[str, Any]:
        """Return a trial's whole configuration, as the curves name it."""
        return whole(self.config, self.state.trials[number].params)


COMMON = ["objective.name", "train.lr", "train.batch_size", "train.l2", "train.warmup", "train.schedule",
          "model.freeze_layers"]  # fmt: skip
OF_LOSS = {
    "triplet": ["objective.margin"],
    "infonce": ["objective.temperature", "objective.symmetric"],
}


def whole(config: Config, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with what a trial's parameters leave to the config."""
    every = {**vars_of("train", config.train), **vars_of("objective", config.objective),
             **vars_of("model", config.model), **params}  # fmt: skip
    return {path: every[path] for path in COMMON + OF_LOSS[every["objective.name"]]}


def vars_of(group: str, settings: Any) -> dict[str, Any]:
    return {f"{group}.{name}": value for name, value in vars(settings).items()}


# ---- many searches ---------------------------------------------------------------------------


def play(rival: str, name: str, kind: str, seed: int, trials: int) -> Found:
    words = [*BASE, *RIVALS[rival], f"seed={seed}", f"stop.trials={trials}"]
    elsewhere = earlier.recorded(without=name)  # nothing may be learnt from the set that is played
    with patch.object(earlier, "recorded", lambda: elsewhere):
        return Search(compose(words), world(name, kind), seed).play()


def summary(found: Sequence[Found], known_good: float) -> dict[str, float]:
    """Return the figures of one rival on one world."""
    return {
        "test AUC": statistics.fmean(one.test for one in found),
        "not below given": share(one.test >= one.given - 0.001 for one in found),
        "above known-good": share(one.test >= known_good + 0.003 for one in found),
        "texts": statistics.fmean(one.texts for one in found),
        **{
            f"share at {n} %": statistics.fmean(f.answer_at(n / 100) for f in found)
            for n in (25, 50, 75)
        },
        "texts to above known-good": statistics.median(
            first(one, known_good + 0.003) for one in found
        ),
    }


def share(true: Iterator[bool]) -> float:
    return statistics.fmean(map(float, true))


def first(found: Found, test: float) -> float:
    """Return the texts after which the answer is a model of so much test AUC; infinity for never."""
    return next((texts for texts, value, _ in found.trace if value >= test), math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--sets", default=",".join(sorted(p.stem for p in CURVES.glob("*.json"))))
    parser.add_argument("--only", default=",".join(RIVALS))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "search_quality.json")
    asked = parser.parse_args()
    results: dict[str, Any] = {}
    for name in asked.sets.split(","):
        for kind in WORLDS:
            here = world(name, kind)
            known_good = here.test(KNOWN_GOOD)
            config = compose(BASE)
            best = here.best_possible(parse(config.space, config), config)
            print(
                f"{name}, {kind}: {len(here.inputs)} runs, correlation {here.correlation:.2f}, known-good "
                f"{known_good:.4f}, best possible {best:.4f}, noise {math.sqrt(here.noise[-2, -2]):.3f} in logits"
            )
            if here.correlation < LEAST:
                print("  says too little: left out")
                continue
            for rival in asked.only.split(","):
                began = time.process_time()
                found = [play(rival, name, kind, seed, asked.trials) for seed in range(asked.seeds)]
                results.setdefault(rival, {})[f"{name}, {kind}"] = summary(found, known_good)
                figures = ", ".join(
                    f"{k} {v:.4f}" for k, v in results[rival][f"{name}, {kind}"].items()
                )
                print(f"  {rival}: {figures}; {time.process_time() - began:.0f} s", flush=True)
    for rival, worlds in results.items():
        keys = next(iter(worlds.values()))
        print(rival, {k: round(statistics.fmean(w[k] for w in worlds.values()), 4) for k in keys})
    never = json.dumps(results, indent=1).replace(
        "Infinity", "null"
    )  # texts to what was not reached
    asked.out.write_text(never + "\n")


KNOWN_GOOD = {
    "objective.name": "infonce", "objective.temperature": 0.05, "objective.symmetric": False, "train.lr": 2e-4,
    "train.batch_size": 64, "train.l2": 0.01, "train.warmup": 0.1, "train.schedule": "linear",
    "model.freeze_layers": 0,
}  # fmt: skip


if __name__ == "__main__":
    main()
