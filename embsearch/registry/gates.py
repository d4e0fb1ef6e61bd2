"""The questions that a candidate must answer before it becomes champion.

Every gate is asked, also after one has refused, and what it found is kept. Those about quality are decided on the
test rows, paired: candidate and rival on the same rows and the same resamples of whole queries. A loss refuses where
it can be told from chance, a gain counts where it can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embsearch.config.schema import PromoteConfig
from embsearch.data.dataset import Judged
from embsearch.evaluate.auc import roc_auc
from embsearch.evaluate.bootstrap import auc_gain, auc_interval, mean_gain
from embsearch.evaluate.ranking import mrr_by_query, ndcg_by_query
from embsearch.values import Interval, record

Scores = NDArray[np.float32]  # (M,) similarity of every test row's query and title


@dataclass(frozen=True)
class Gate:
    """One question, its answer, and the figures behind it as plain JSON."""

    name: str
    passed: bool
    words: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rival:
    """A model that the candidate is measured against."""

    label: str
    scores: Scores
    champion: bool = False


def by_quality(
    rows: Judged, mine: Scores, rivals: Sequence[Rival], asked: PromoteConfig, seed: int = 0
) -> list[Gate]:
    """Gain over every rival; against the last of them, the champion where there is one, ranking and segments; the
    floor where there is no champion yet."""
    last = rivals[-1]
    found = [gain(rows, mine, rival, asked, seed) for rival in rivals]
    if not last.champion:
        found.append(floor(rows, mine, asked, seed))
    return [*found, ranking(rows, mine, last, asked, seed), segments(rows, mine, last, asked, seed)]


def gain(rows: Judged, mine: Scores, rival: Rival, asked: PromoteConfig, seed: int = 0) -> Gate:
    """Whether the lower end of the gain in AUC lies above ``promote.min_gain``."""
    found = auc_gain(mine, rival.scores, rows.relevant, rows.query, asked.draws, seed)
    theirs, visible = roc_auc(rival.scores, rows.relevant), smallest_visible(found)
    passed = found.low > asked.min_gain
    words = (
        f"{found.value:+.4f} over the {rival.label} ({theirs:.4f}), {_interval(found)}: its lower end is "
        f"{'above' if passed else 'not above'} promote.min_gain={asked.min_gain:g}"
    )
    if not passed:
        queries = int(rows.query.max()) + 1
        words += f"; on these {len(rows)} rows of {queries} queries one passes from about "
        words += f"{visible + asked.min_gain:.4f} on"
    facts = {"against": rival.label, "their_auc": theirs, "gain": record(found), "smallest_visible": visible}
    return Gate("gain", passed, words, facts)


def smallest_visible(gain: Interval) -> float:
    """The gain from which on an interval as wide as this one lies above 0 more often than not: half its width."""
    return (gain.high - gain.low) / 2


def floor(rows: Judged, mine: Scores, asked: PromoteConfig, seed: int = 0) -> Gate:
    """Whether a first champion's AUC, at the lower end of its interval, reaches ``promote.min_auc``."""
    auc = auc_interval(mine, rows.relevant, rows.query, asked.draws, seed)
    passed = auc.low >= asked.min_auc
    words = (
        f"test AUC {auc.value:.4f}, {_interval(auc, '')}: its lower end is {'not ' if passed else ''}below "
        f"promote.min_auc={asked.min_auc:g}"
    )
    return Gate("floor", passed, words, {"auc": record(auc)})


def ranking(rows: Judged, mine: Scores, rival: Rival, asked: PromoteConfig, seed: int = 0) -> Gate:
    """Whether nDCG@10 or MRR@10 say the contrary: a loss that is told from chance, at 5 % for both together."""
    by_name = {
        "ndcg_10": (ndcg_by_query(mine, rows.grade, rows.query), ndcg_by_query(rival.scores, rows.grade, rows.query)),
        "mrr_10": (
            mrr_by_query(mine, rows.relevant, rows.query),
            mrr_by_query(rival.scores, rows.relevant, rows.query),
        ),
    }
    found = {
        name: mean_gain(*columns, asked.draws, seed, level=1 - 0.05 / len(by_name))
        for name, columns in by_name.items()
        if not np.isnan(columns[0]).all()
    }
    worse = [name for name, change in found.items() if change.high < 0]
    words = ", ".join(f"{name} {change.value:+.4f} ({_range(change)})" for name, change in found.items())
    words = f"{words} against the {rival.label}" if words else "no query has a relevant title"
    if worse:
        words += f": {' and '.join(worse)} lost what AUC gained"
    return Gate("ranking", not worse, words, {name: record(change) for name, change in found.items()})


def segments(rows: Judged, mine: Scores, rival: Rival, asked: PromoteConfig, seed: int = 0) -> Gate:
    """Whether a segment lost more AUC than ``promote.max_segment_loss``, and not by chance (5 % for all together)."""
    of = {name: rows.segment == number for number, name in enumerate(rows.segments)}
    of = {name: here for name, here in of.items() if 0 < rows.relevant[here].sum() < here.sum()}
    found = {
        name: auc_gain(
            mine[here], rival.scores[here], rows.relevant[here], rows.query[here], asked.draws, seed,
            level=1 - 0.05 / len(of),
        )
        for name, here in of.items()
    }  # fmt: skip
    limit = -asked.max_segment_loss
    worse = {name: change for name, change in found.items() if change.value < limit and change.high < 0}
    if not found:
        words = "the test rows have no segments"
    elif worse:
        words = "; ".join(f"{name} {change.value:+.4f} ({_range(change)})" for name, change in worse.items())
        words += f" against the {rival.label}: more than promote.max_segment_loss={asked.max_segment_loss:g}"
    else:
        least = min(found, key=lambda name: found[name].value)
        words = f"none of {len(found)} lost more than {asked.max_segment_loss:g} to the {rival.label}; the least, "
        words += f"{least}, {found[least].value:+.4f}"
    return Gate("segments", not worse, words, {name: record(change) for name, change in found.items()})


def dimension(mine: int, theirs: int | None, asked: PromoteConfig) -> Gate:
    """Whether the vectors are as wide as the champion's: an index made of the old ones takes no others."""
    if theirs is None or mine == theirs:
        return Gate("dimension", True, f"{mine} wide" + ("" if theirs is None else ", as the champion's"))
    words = f"{mine} wide, the champion's {theirs}: "
    words += "allowed" if asked.allow_dim_change else "an index of its vectors would break; promote.allow_dim_change"
    return Gate("dimension", asked.allow_dim_change, words, {"width": mine, "theirs": theirs})


def speed(slowdown: float, growth: float, rival: str, asked: PromoteConfig) -> Gate:
    """Whether encoding takes at most ``promote.max_slowdown`` times as long as the rival does, and the files are at
    most ``promote.max_growth`` times as large."""
    words = f"{slowdown:.2f} times the {rival}'s time a text and {growth:.2f} times its size; limits "
    words += f"promote.max_slowdown={asked.max_slowdown:g} and promote.max_growth={asked.max_growth:g}"
    passed = slowdown <= asked.max_slowdown and growth <= asked.max_growth
    return Gate("speed", passed, words, {"slowdown": slowdown, "growth": growth})


def reload(furthest: Mapping[str, float]) -> Gate:
    """Whether both loaders give back the vectors that were judged. ``furthest``: by loader, the largest difference of
    a component."""
    words = ", ".join(f"{name} within {far:.1e}" for name, far in furthest.items())
    passed = all(far <= RELOAD for far in furthest.values())
    return Gate("reload", passed, f"vectors after {words}" + ("" if passed else f", not {RELOAD:g}"), dict(furthest))


RELOAD = 1e-5


def leak(share: Mapping[str, float | None], asked: PromoteConfig) -> Gate:
    """Whether a model was trained on rows that it is judged by here. ``share``: of the test rows, by model; None:
    unknown."""
    seen = {label: part for label, part in share.items() if part is not None and part > asked.max_leak}
    if not seen:
        unknown = [label for label, part in share.items() if part is None]
        words = "no model was trained on these test rows"
        return Gate("leak", True, words + (f", as far as known of the {unknown[0]}" if unknown else ""), dict(share))
    said = " and ".join(f"the {label} was trained on {part:.1%} of them" for label, part in seen.items())
    return Gate(
        "leak", False, f"the test rows are not held out: {said}; give other ones (data.test=FILE)", dict(share)
    )


def data(recorded: str, now: str, code: str) -> Gate:
    """Whether the data are those that the study was made with, and its code is known."""
    faults = []
    if recorded != now:
        faults.append(f"the study was made with data {recorded[:12]} and they are {now[:12]} now; put the files back")
    if not code:
        faults.append("the study does not say which version of embsearch made it")
    words = "; ".join(faults) or f"data {now[:12]}, made by embsearch {code}"
    return Gate("data", not faults, words, {"recorded": recorded, "now": now, "code": code})


def licence(name: str | None, base: str) -> Gate:
    """Whether the licence of the base model is named: what was tuned from it stands under it."""
    if name:
        return Gate("licence", True, f"{base}: {name}", {"licence": name})
    return Gate("licence", False, f"{base} names none; look it up and say promote.licence=apache-2.0, or whichever")


def _interval(found: Interval, sign: str = "+") -> str:
    return f"{100 * found.level:.0f} % interval {found.low:{sign}.4f} to {found.high:{sign}.4f}"


def _range(found: Interval) -> str:
    return f"{found.low:+.4f} to {found.high:+.4f}"
