"""The answer of a study: what fresh seeds confirm, who won, the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from embsearch.codec import JsonObject
from embsearch.config.build import to_dict
from embsearch.config.schema import Config
from embsearch.history import final_table
from embsearch.history.folder import StudyFolder
from embsearch.history.state import StudyState
from embsearch.history.trial import Run, Trial
from embsearch.hpo import budget
from embsearch.hpo.confirm import Confirmed, affordable, choose, estimated
from embsearch.hpo.earlier import told_by
from embsearch.hpo.gaussian import surrogate_of
from embsearch.hpo.promotion import SEED_NOISE, apart
from embsearch.hpo.space import parse
from embsearch.study.actions import Average
from embsearch.values import State, record

# A given point stays unless it is behind by more than so many standard errors of the difference. Measured
# (150 searches of 12 trials): 98 % of winners are no more than 0.001 test AUC below the given point instead of
# 91 %, at the same mean.
DOUBT = 0.5
JUDGED = 3  # trials that are measured on all validation rows, besides given points and soups
ESTIMATED = 100  # trials, the best by value, that the estimate compares and knows
ENDED: tuple[State, ...] = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Result:
    """The findings of a study. ``table`` rows: label, trial, metrics on validation and test rows."""

    name: str
    why: str
    best: int | None
    table: list[JsonObject]
    counts: dict[str, int]
    seconds: float
    finished: bool
    confirmed: list[JsonObject] = field(default_factory=list)  # search.confirm.Confirmed


def result_of(
    name: str,
    state: StudyState,
    why: str,
    best: Trial | None,
    found: Sequence[Confirmed],
    seconds: float,
) -> Result:
    """Return the result of a study whose test rows were read."""
    table = [_row(label, number, state) for label, number in final_table.rows(state.trials, best)]
    states = [trial.state for trial in state.trials.values()]
    counts: dict[str, int] = {one: states.count(one) for one in ENDED}
    number = None if best is None else best.number
    again = [record(one) for one in found]
    return Result(name, why, number, table, counts, seconds, finished=True, confirmed=again)


def _row(label: str, number: int | None, state: StudyState) -> JsonObject:
    tested = state.tested[label]
    if number is None:
        value = None if state.baseline is None else state.baseline.metrics.get(state.objective)
    else:
        value = state.validation(number)
    row = {
        "label": label,
        "trial": number,
        "validation": value,
        "split": tested.split,
        "test": tested.metrics,
        "auc": tested.auc,
    }
    if number is None or label != final_table.BEST:
        return row
    trial = state.trials[number]
    if trial.judged is not None:
        row["judged"] = trial.judged
    if trial.is_soup:
        return row | {"soup": trial.recipe}
    return row | {"given": final_table.label_of(trial)} if trial.given else row


def confirmed(state: StudyState, config: Config) -> list[Confirmed]:
    """Return the best configurations with the values of fresh seeds, the best by their mean first. Those of a
    study that was extended are among them with what they have."""
    if config.launcher.name == "replay":
        return []
    found = []
    for trial in by_value(state):
        runs = trial.runs[trial.searched :]
        values = tuple(_best_of(run, state) for run in runs if run.last)
        if values and trial.best is not None:
            found.append(
                Confirmed(trial.number, trial.best, values, failed=len(state.lost[trial.number]))
            )
    return sorted(found, key=lambda one: (one.failed > 0, -one.mean, one.trial))


def winner(state: StudyState, config: Config) -> Trial | None:
    """Return the model that is chosen: the best on all validation rows, where some were measured on
    them; else the best configuration's, or the soup of its runs where that measures no less than
    they do on the average.
    """
    if judged := _judged([*state.trials.values(), *state.trials.soups], config):
        return judged[0]
    best = best_configuration(state, config)
    for soup in reversed(state.trials.soups):
        if best is None or soup.averaged != best.number or soup.best is None:
            continue
        if soup.best >= fmean(_best_of(best.runs[run], state) for _, run in soup.members):
            return soup
    return best


def best_configuration(state: StudyState, config: Config) -> Trial | None:
    """Return the trial that is best by the estimate, or by values alone (``confirm.winner``). Fresh
    seeds of several are the fairest judge of these: nothing was chosen by them. All validation
    rows are a better one than some of them.
    """
    if judged := _judged(list(state.trials.values()), config):
        return judged[0]
    if not estimated(config) or len(confirmed(state, config)) > 1:
        return _by_values(state, config)
    return next(iter(by_worth(state, config, fresh=True)), None)


def by_worth(state: StudyState, config: Config, fresh: bool = False) -> list[Trial]:
    """Return the trials that were measured, the best first. Where the winner is chosen by the
    estimate, those that came to their end stand first, in its order: the highest of many noisy
    values is chosen by its noise.

    ``fresh``: what fresh seeds measured counts too; a trial that lost some of them comes last.
    """
    judged = _judged(list(state.trials.values()), config)
    first = {trial.number for trial in judged}
    return [*judged, *(t for t in _by_estimate(state, config, fresh) if t.number not in first)]


def to_judge(state: StudyState, config: Config) -> list[Trial]:
    """Return the models that are still to be measured on all validation rows: the best by the
    estimate, the given points, soups.
    """
    trials = _by_estimate(state, config, fresh=False)
    ended = [t for t in trials if t.state == "complete" or t is trials[0]]
    asked = ended[:JUDGED] + [trial for trial in ended[JUDGED:] if trial.given]
    soups = [soup for soup in state.trials.soups if soup.state == "complete"]
    return [trial for trial in (*asked, *soups) if trial.judged is None]


def _judged(models: Sequence[Trial], config: Config) -> list[Trial]:
    """Return the models that were measured on all validation rows, the best first; of equals the
    given point. None where trials are chosen by their own values alone.
    """
    if not estimated(config):
        return []
    found = [(t.judged, t) for t in models if t.judged is not None and t.judged > -math.inf]
    found.sort(key=lambda one: (-one[0], not one[1].given, one[1].number))
    return [trial for _, trial in found]


def _by_estimate(state: StudyState, config: Config, fresh: bool) -> list[Trial]:
    trials = by_value(state)
    rows = {trial.number: (trial.best_score or (0, 0.0))[0] for trial in trials}
    most = max(rows.values(), default=0)
    ended = [t for t in trials if t.state == "complete" and rows[t.number] == most][:ESTIMATED]
    # by value where a trial that was cut short is ahead, or where a setting that tells trials apart
    # is searched no longer
    alike = any(path not in config.space for trial in ended for path in trial.params)
    if not estimated(config) or len(ended) < 2 or trials[0] not in ended or alike:
        return trials
    worth = _estimates(trials[:ESTIMATED], ended, state, config, fresh)
    lost = {t.number: fresh and bool(state.lost[t.number]) for t in ended}
    ended.sort(key=lambda trial: (lost[trial.number], -worth[trial.number], trial.number))
    top = ended[0].best
    ended.sort(
        key=lambda trial: not (trial.given and trial.best == top)
    )  # a given point wins a tie
    return [*ended, *(trial for trial in trials if trial.number not in worth)]


def soup_due(state: StudyState, config: Config) -> Average | None:
    """Return the soup of the best configuration's runs, where there are several and it is not made."""
    if not config.confirm.soup:
        return None
    best = best_configuration(state, config)
    if best is None:
        return None
    runs = (0, *range(best.searched, len(best.runs)))
    runs = tuple(run for run in runs if best.ended_by_itself(run))
    members = tuple((best.number, run) for run in runs)
    if len(runs) < 2 or any(soup.members == members for soup in state.trials.soups):
        return None
    return Average(state.trials.free, best.number, runs)


def to_confirm(state: StudyState, config: Config, top: int) -> list[Trial]:
    """Return the best ``top`` trials; where there are two, the best given point is one of them."""
    trials = by_worth(state, config)
    best = trials[:top]
    given = [trial for trial in trials if trial.given]
    if top > 1 and given and not any(trial.given for trial in best):
        best[-1] = given[0]
    return best


def runs_to_confirm(state: StudyState, config: Config) -> tuple[int, int]:
    """Return how many configurations are confirmed, and by how many seeds each."""
    if config.launcher.name == "replay" or not by_value(state):
        return 0, 0
    spent = sum(trial.texts_seen * trial.searched for trial in state.trials.values())
    return affordable(config.confirm, spent, config.train.texts)


def unconfirmed(state: StudyState, config: Config) -> list[tuple[Trial, int]]:
    """Return the runs with fresh seeds, of the best configurations, that have not come to their
    end.
    """
    top, seeds = runs_to_confirm(state, config)
    return [
        (trial, seed)
        for trial in (to_confirm(state, config, top) if top else ())
        for seed in range(trial.searched, trial.searched + seeds)
        if not trial.ended_by_itself(seed) and seed not in state.lost[trial.number]
    ]


def _estimates(
    known: Sequence[Trial], asked: Sequence[Trial], state: StudyState, config: Config, fresh: bool
) -> dict[int, float]:
    """Return by number what trials are worth at their end, in logits, by all that was measured."""
    space = parse(config.space, config)
    again = [
        (trial.params, _best_of(run, state))
        for trial in known
        for run in trial.runs[trial.searched :]
        if fresh and run.last
    ]
    trials = {trial.number: trial for trial in known}
    told = told_by(space, config, state.like)
    found = surrogate_of(trials, space, config, told, again)
    ends = found.ends([space.fill(trial.params, config) for trial in asked])
    return {trial.number: float(end) for trial, end in zip(asked, ends, strict=True)}


def _by_values(state: StudyState, config: Config) -> Trial | None:
    """Return the trial with the best mean of fresh seeds; where there are none, with the best value. A given point
    that is nearly as good wins: the best of many noisy values is partly luck, and nobody chose it by its value."""
    found = confirmed(state, config)
    number = choose(found)
    best = state.trials.best if number is None else state.trials[number]
    if best is None or best.given:
        return best
    again = {one.trial: one.values for one in found if not one.failed}
    runs = {t.number: again.get(t.number, (t.best or 0.0,) * t.searched) for t in by_value(state)}
    mine = runs[best.number]
    for number, theirs in runs.items():
        if state.trials[number].given and state.validation(number) is not None:
            error = SEED_NOISE * math.sqrt(1 / len(mine) + 1 / len(theirs))
            if apart(fmean(mine), fmean(theirs)) <= DOUBT * error:
                return state.trials[number]
    return best


def by_value(state: StudyState) -> list[Trial]:
    """Return the trials that were measured, the best first: by rows, then by value, wherever it was reached."""
    scored = [(trial.best_score, trial) for trial in state.trials.values()]
    found = [(score, trial) for score, trial in scored if score is not None]
    found.sort(key=lambda one: (-one[0][0], -one[0][1], one[1].number))
    return [trial for _, trial in found]


def _best_of(run: Run, state: StudyState) -> float:
    """Return the best that a run measured, of what was measured on as many rows as any."""
    rows = [reading.rows for reading in state.readings]
    if not rows:
        return max(run.values.values())
    most = max(rows[rung - 1] for rung in run.values)
    return max(value for rung, value in run.values.items() if rows[rung - 1] == most)


def nothing_left(config: Config, folder: StudyFolder, state: StudyState) -> bool:
    """Return whether neither the budget nor what confirms the best was extended since the study ended."""
    asked = folder.read_locked()["config"].get("confirm")
    older = {"winner": "value", "soup": False}  # before there was a choice
    if state.closed is None or (asked and {**older, **asked} != to_dict(config)["confirm"]):
        return False
    result = Result(**state.closed.result)
    count = sum(result.counts.values())
    gain = state.gain if result.why.startswith("stop.gain") else math.inf
    return bool(budget.spent(config.stop, count, result.seconds, state.best_value, gain))
