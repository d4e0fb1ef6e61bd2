"""The questions that a candidate must answer before it becomes champion.

Every gate is asked, also after one has refused, and what it found is kept. Those about quality are
decided on the test rows, paired: candidate and rival on the same rows and the same resamples of
whole queries. A loss refuses where it can be told from chance, a gain counts where it can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from embsearch.codec import Json
from embsearch.config.schema import PromoteConfig
from embsearch.data.dataset import Rows
from embsearch.tasks.base import Answers, AnyTask
from embsearch.values import Interval, record


@dataclass(frozen=True)
class Gate:
    """One question, its answer, and the figures behind it as plain JSON."""

    name: str
    passed: bool
    words: str
    facts: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Rival:
    """A model that the candidate is measured against, by its answers for the test rows."""

    label: str
    answers: Answers
    champion: bool = False


def quality_gates(
    task: AnyTask,
    rows: Rows,
    mine: Answers,
    rivals: Sequence[Rival],
    asked: PromoteConfig,
    seed: int = 0,
) -> list[Gate]:
    """Return the gates that the test rows decide.

    The gain is asked over every rival; ranking and segments against the last of them, which is the
    champion where there is one; the floor where there is no champion yet.
    """
    last = rivals[-1]
    found = [gain_gate(task, rows, mine, rival, asked, seed) for rival in rivals]
    if not last.champion:
        found.append(floor_gate(task, rows, mine, asked, seed))
    found.append(ranking_gate(task, rows, mine, last, asked, seed))
    found.append(segments_gate(task, rows, mine, last, asked, seed))
    return found


def gain_gate(
    task: AnyTask, rows: Rows, mine: Answers, rival: Rival, asked: PromoteConfig, seed: int = 0
) -> Gate:
    """Ask that the lower end of the primary metric's gain lies above ``promote.min_gain``."""
    gain = task.gain(rows, mine, rival.answers, asked.draws, seed)
    theirs = task.metrics(rows, rival.answers)[task.primary.name]
    visible = smallest_visible(gain)
    passed = gain.low > asked.min_gain
    words = (
        f"{gain.value:+.4f} over the {rival.label} ({theirs:.4f}), {_interval(gain)}: its lower end is "
        f"{'above' if passed else 'not above'} promote.min_gain={asked.min_gain:g}"
    )
    if not passed:
        words += f"; on these {task.describe(rows)} one passes from about "
        words += f"{visible + asked.min_gain:.4f} on"
    facts = {
        "against": rival.label,
        f"their_{task.primary.name}": theirs,
        "gain": record(gain),
        "smallest_visible": visible,
    }
    return Gate("gain", passed, words, facts)


def given_gate(
    task: AnyTask, rows: Rows, mine: Answers, given: Rival, asked: PromoteConfig, seed: int = 0
) -> Gate:
    """Ask that the candidate did not lose to the best point that its study was given, beyond
    chance.
    """
    gain = task.gain(rows, mine, given.answers, asked.draws, seed)
    words = (
        f"{gain.value:+.4f} over the {given.label}, the best that was given, {_interval(gain)}: "
    )
    if gain.low > 0:
        words += "the search found a better model"
    elif gain.high < 0:
        words += "the given point is better; promote its trial (trial=N)"
    else:
        words += "these test rows cannot tell them apart"
    return Gate("given", gain.high >= 0, words, {"against": given.label, "gain": record(gain)})


def smallest_visible(gain: Interval) -> float:
    """Return half the width of ``gain``: a gain above it is more often told from chance than not."""
    return (gain.high - gain.low) / 2


def moved_gate(mine: np.ndarray, untuned: np.ndarray) -> Gate:
    """Ask that training moved the vectors: an adapter that is not called, or lost, changes none.

    ``mine`` and ``untuned``: vectors of the same items. Of another width, they are others.
    """
    if mine.shape != untuned.shape:
        return Gate("moved", True, "vectors of another width than the untuned encoder's")
    far = float(np.abs(mine - untuned).max())
    words = f"vectors up to {far:.1e} a component from the untuned encoder's"
    if far <= RELOAD:
        words += f", not above {RELOAD:g}: training did not reach the vectors of the saved model"
    return Gate("moved", far > RELOAD, words, {"furthest": far})


def floor_gate(
    task: AnyTask, rows: Rows, mine: Answers, asked: PromoteConfig, seed: int = 0
) -> Gate:
    """Ask that a first champion's interval ends no lower than ``promote.min_auc``."""
    metric, found = task.floor(rows, mine, asked.draws, seed)
    passed = found.low >= asked.min_auc
    words = (
        f"test {metric.label} {found.value:.4f}, {_interval(found, '')}: its lower end is "
        f"{'not ' if passed else ''}below promote.min_auc={asked.min_auc:g}"
    )
    return Gate("floor", passed, words, {metric.name: record(found)})


def ranking_gate(
    task: AnyTask, rows: Rows, mine: Answers, rival: Rival, asked: PromoteConfig, seed: int = 0
) -> Gate:
    """Ask that no secondary metric lost more than chance explains, at 5 % for all together."""
    found = task.secondary_gains(rows, mine, rival.answers, asked.draws, seed)
    worse = [name for name, change in found.items() if change.high < 0]
    words = ", ".join(
        f"{name} {change.value:+.4f} ({_range(change)})" for name, change in found.items()
    )
    words = f"{words} against the {rival.label}" if words else task.no_secondary
    if worse:
        words += f": {' and '.join(worse)} lost what {task.primary.label} gained"
    return Gate(
        "ranking", not worse, words, {name: record(change) for name, change in found.items()}
    )


def segments_gate(
    task: AnyTask, rows: Rows, mine: Answers, rival: Rival, asked: PromoteConfig, seed: int = 0
) -> Gate:
    """Ask that no segment lost more than ``promote.max_segment_loss``, beyond chance (5 % for all
    together).
    """
    found = task.segment_gains(rows, mine, rival.answers, asked.draws, seed)
    limit = -asked.max_segment_loss
    worse = {
        name: change for name, change in found.items() if change.value < limit and change.high < 0
    }
    if not found:
        words = "the test rows have no segments"
    elif worse:
        words = "; ".join(
            f"{name} {change.value:+.4f} ({_range(change)})" for name, change in worse.items()
        )
        words += f" against the {rival.label}: more than promote.max_segment_loss={asked.max_segment_loss:g}"
    else:
        least = min(found, key=lambda name: found[name].value)
        words = f"none of {len(found)} lost more than {asked.max_segment_loss:g} to the {rival.label}; the least, "
        words += f"{least}, {found[least].value:+.4f}"
    return Gate(
        "segments", not worse, words, {name: record(change) for name, change in found.items()}
    )


def dimension_gate(mine: int, theirs: int | None, asked: PromoteConfig) -> Gate:
    """Ask that the vectors are as wide as the champion's: an index made of the old ones takes no
    others.
    """
    if theirs is None or mine == theirs:
        return Gate(
            "dimension", True, f"{mine} wide" + ("" if theirs is None else ", as the champion's")
        )
    words = f"{mine} wide, the champion's {theirs}: "
    words += (
        "allowed"
        if asked.allow_dim_change
        else "an index of its vectors would break; promote.allow_dim_change"
    )
    return Gate("dimension", asked.allow_dim_change, words, {"width": mine, "theirs": theirs})


def speed_gate(slowdown: float, growth: float, rival: str, asked: PromoteConfig) -> Gate:
    """Ask that a text takes at most ``promote.max_slowdown`` times the rival's time, and the files
    at most ``promote.max_growth`` times its size.
    """
    words = (
        f"{slowdown:.2f} times the {rival}'s time a text and {growth:.2f} times its size; limits "
    )
    words += (
        f"promote.max_slowdown={asked.max_slowdown:g} and promote.max_growth={asked.max_growth:g}"
    )
    passed = slowdown <= asked.max_slowdown and growth <= asked.max_growth
    return Gate("speed", passed, words, {"slowdown": slowdown, "growth": growth})


def reload_gate(furthest: Mapping[str, float]) -> Gate:
    """Ask that both loaders give back the vectors that were judged.

    ``furthest``: by loader, the largest difference of a component.
    """
    words = ", ".join(f"{name} within {far:.1e}" for name, far in furthest.items())
    passed = all(far <= RELOAD for far in furthest.values())
    words = f"vectors after {words}" if passed else f"vectors after {words}, not {RELOAD:g}"
    return Gate("reload", passed, words, dict(furthest))


RELOAD = 1e-5


def leak_gate(
    share: Mapping[str, float | None], asked: PromoteConfig, amiss: str = "", lost: bool = False
) -> Gate:
    """Ask that no model was trained on rows that it is judged by here.

    ``share``: of the test rows, by model; None: the task cannot tell. ``amiss``: what is wrong with
    the list of the champion's training rows; ``lost``: nothing is left of it.
    """
    seen = {
        label: part for label, part in share.items() if part is not None and part > asked.max_leak
    }
    if seen:
        said = " and ".join(
            f"the {label} was trained on {part:.1%} of them" for label, part in seen.items()
        )
        words = f"the test rows are not held out: {said}; give other ones (data.test=FILE)"
    elif lost and asked.max_leak < 1:
        words = (
            f"nothing says that the champion was not trained on the test rows: {amiss}; restore "
            "it, or go on without with promote.max_leak=1"
        )
        return Gate("leak", False, words, dict(share))
    else:
        unknown = [label for label, part in share.items() if part is None]
        words = "no model was trained on these test rows"
        words += f", as far as known of the {unknown[0]}" if unknown else ""
        words += f" ({amiss})" if amiss else ""
    return Gate("leak", not seen, words, dict(share))


def data_gate(recorded: str, now: str, code: str) -> Gate:
    """Ask that the data are those that the study was made with, and that its code is known."""
    faults = []
    if recorded != now:
        faults.append(
            f"the study was made with data {recorded[:12]} and they are {now[:12]} now; put the files back"
        )
    if not code:
        faults.append("the study does not say which version of embsearch made it")
    words = "; ".join(faults) or f"data {now[:12]}, made by embsearch {code}"
    return Gate("data", not faults, words, {"recorded": recorded, "now": now, "code": code})


def licence_gate(name: str | None, base: str) -> Gate:
    """Ask that the licence of the base model is named: it holds for every model tuned from it."""
    if name:
        return Gate("licence", True, f"{base}: {name}", {"licence": name})
    return Gate(
        "licence",
        False,
        f"{base} names none; look it up and say promote.licence=apache-2.0, or whichever",
    )


def _interval(found: Interval, sign: str = "+") -> str:
    return f"{100 * found.level:.0f} % interval {found.low:{sign}.4f} to {found.high:{sign}.4f}"


def _range(found: Interval) -> str:
    return f"{found.low:+.4f} to {found.high:+.4f}"
