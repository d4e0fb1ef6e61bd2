"""The answer of a study in sentences: what won, by how much, whether to trust it, where a plot
would mislead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from embsearch.codec import JsonObject
from embsearch.config.command import same_study
from embsearch.history import events
from embsearch.history.final_table import BEST, DEFAULT, UNTUNED, label_of
from embsearch.hpo.confirm import estimated, too_small
from embsearch.report.live import failures, short
from embsearch.report.ranges import at_end, wider
from embsearch.report.record import Course, Record
from embsearch.report.result import best_given, luck, warnings
from embsearch.report.tested_models import Models
from embsearch.tasks.catalogue import task_of
from embsearch.tasks.retrieval import POOL
from embsearch.values import Interval, primary_interval

FEW = 20  # complete trials, below which importances and interactions are guesses
FELL = 0.003  # of the objective: a smaller fall is within the noise of a few hundred queries
SMALL_TEST = 100  # queries
OTHER = {"auc": "pool_recall_10", **dict.fromkeys(POOL, "auc")}  # whose choice is told beside


@dataclass(frozen=True)
class Finding:
    """One sentence about a study, and what to do about it: an override or a command, where there is
    one.
    """

    kind: Literal["good", "note", "warning"]
    text: str
    remedy: str = ""


def headline(record: Record, models: Models | None) -> str:
    """Return the first thing a reader should know."""
    best, name = record.best, record.objective
    if best is None or best.best is None:
        return "Nothing was measured yet."
    who = f"Trial {best.number}"
    if record.result is None:
        word = "is ahead" if record.running else "was ahead when the study stopped"
        return f"{who} {word}: validation {name} {best.best:.4f}."
    won = record.tested.get(BEST)
    if won is None:
        return f"{who} won: validation {name} {best.best:.4f}."
    found, label = primary_interval(won), metric_label(record)
    ends = f"95 % {found.low:.4f} to {found.high:.4f}"
    text = f"{who} won: {won.split} {label} {found.value:.4f} ({ends})"
    gains = []
    given = best_given(record.result)
    for label in (UNTUNED, given["label"] if given else DEFAULT):
        gain = None if models is None else models.gain(BEST, label)
        if label != UNTUNED and best.trial.given:
            gains.append(f"it is the {label_of(best.trial)}")
        elif gain is not None:
            gains.append(f"{signed(gain)} over the {label}")
    if not gains:
        return f"{text}."
    return f"{text}, {', '.join(gains)}."


def findings(record: Record, models: Models | None) -> list[Finding]:
    """Return everything worth a sentence, the gravest first."""
    found = [
        *_gains(record, models),
        *_edges(record),
        *_disagreement(record, models),
        *other_choice(record),
        *by_all_rows(record),
        *by_estimate(record),
        *_luck(record),
        *unconfirmed(record),
        *_loss_falls(record),
        *_size(record, models),
        *_failures(record),
    ]
    order = {"warning": 0, "note": 1, "good": 2}
    return sorted(found, key=lambda one: order[one.kind])


def metric_label(record: Record) -> str:
    """Return the primary metric of the study's task, as tables and sentences name it."""
    return task_of(record.config).primary.label


def signed(gain: Interval) -> str:
    """Return a gain with its interval: ``+0.0133 (+0.0101 to +0.0166)``."""
    return f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"


def _gains(record: Record, models: Models | None) -> Iterator[Finding]:
    if models is None or record.best is None:
        return
    gain, metric = models.gain(BEST, UNTUNED), metric_label(record)
    if gain is not None and gain.low > 0:
        yield Finding(
            "good",
            f"Tuning helps: {signed(gain)} {metric} over the untuned encoder, and the whole 95 % interval is "
            "above 0.",
        )
    elif gain is not None:
        yield Finding(
            "warning",
            f"Not proven: {signed(gain)} {metric} over the untuned encoder, and the 95 % interval reaches 0.",
            "more test rows, or a longer search",
        )
    yield from _paid(record, models)
    for line in warnings(_rows(record), task_of(record.config)):
        yield Finding("warning", f"{line[0].upper()}{line[1:]}.")


def _paid(record: Record, models: Models) -> Iterator[Finding]:
    """Yield whether the search found more than the best that was given to it."""
    given, metric = best_given(record.result), metric_label(record)
    over = None if given is None else models.gain(BEST, given["label"])
    best = record.configuration
    if best is not None and best.trial.given:
        highest = record.state.trials.best
        text = f"The {label_of(best.trial)} won: the search found nothing better."
        if highest is not None and not highest.given:
            text += f" Trial {highest.number} had {highest.best:.4f}, which the noise between seeds explains."
        if over is not None:
            text += f" The mean of its runs gains {signed(over)} {metric} over one of them."
        yield Finding("note", text)
        return
    if given is None or over is None:
        return
    if over.low > 0:
        text = f"The search paid: {signed(over)} {metric} over the {given['label']}, the best that was given."
        yield Finding("good", text)
    else:
        yield Finding(
            "note",
            f"Against the {given['label']}, the best that was given, the gain is {signed(over)} {metric}: within "
            "what these test rows can tell apart.",
        )


def _rows(record: Record) -> list[JsonObject]:
    return [] if record.result is None else record.result["table"]


def _edges(record: Record) -> Iterator[Finding]:
    """Yield where the winner lies at the end of a range: the best may lie beyond."""
    if record.best is None:
        return
    for dimension in record.space.dimensions:
        value = record.best.trial.params.get(dimension.path)
        end = None if value is None else at_end(dimension, value)
        override = "" if end is None else wider(record, dimension, end)
        if end is not None and override:
            again = f"embsearch search {same_study(record.config)} {override} study.on_drift=extend stop.trials="
            yield Finding(
                "warning",
                f"{dimension.path}={short(value)} of the winner is at the {end} end of its range: better values may "
                "lie beyond.",
                f"{again}{record.config.stop.trials + 8}",
            )


def _disagreement(record: Record, models: Models | None) -> Iterator[Finding]:
    """Yield where the test rows do not hold what validation promised."""
    if (
        models is None
        or record.best is None
        or record.objective != task_of(record.config).primary.name
    ):
        return
    rows = {row["label"]: row for row in _rows(record)}
    given = best_given(record.result)
    for label in (given["label"] if given else DEFAULT, UNTUNED):
        gain = models.gain(BEST, label)
        if gain is None or label not in rows or (label != UNTUNED and record.best.trial.given):
            continue
        best, other = rows[BEST]["validation"], rows[label]["validation"]
        if (
            best is None or other is None
        ):  # its trial was cut short before an evaluation on all rows
            continue
        promised = best - other
        if promised > gain.high:
            yield Finding(
                "note",
                f"Validation promised {promised:+.4f} over the {label}, the test rows say {signed(gain)}: the best "
                "of many trials is partly the luckiest.",
                "study.seeds=3 compares means of several seeds",
            )
        elif label != UNTUNED:
            yield Finding(
                "good",
                f"No sign of a lucky pick: validation promised {promised:+.4f} over the {label}, the test rows say "
                f"{signed(gain)}.",
            )


def other_choice(record: Record) -> Iterator[Finding]:
    """Yield which trial recall over the pool would choose where AUC chooses, and AUC where a metric
    of the pool does, if that is another one than the winner.
    """
    mine, other = record.objective, OTHER.get(record.objective)
    names = f"val/{mine}", f"val/{other}"
    saved = [(c.number, one) for c in record.courses.values() if (one := c.saved)]
    most = max((one.rows for _, one in saved), default=0)
    values = {
        number: [one.metrics[name] for name in names]
        for number, one in saved
        if one.rows == most and names[1] in one.metrics
    }
    if other is None or record.best is None or record.best.number not in values:
        return
    best, rival = record.best.number, max(values, key=lambda number: values[number][1])
    if values[rival][1] <= values[best][1]:
        return
    shown = [
        f"trial {number} ({mine} {values[number][0]:.4f}, {other} {values[number][1]:.4f})"
        for number in (best, rival)
    ]
    yield Finding(
        "note",
        f"{mine} chose {shown[0]} on the validation rows, {other} would choose {shown[1]}.",
        f"a search by {other}: evaluate.objective={other}",
    )


def by_all_rows(record: Record) -> Iterator[Finding]:
    """Yield the models that all validation rows chose from, where trials read some of them."""
    values = {n: e.metrics[record.objective] for n, e in record.state.judged.items() if e.metrics}
    if record.result is None or not values or not estimated(record.config):
        return
    rows = max(event.rows for event in record.state.judged.values())
    each = [
        f"trial {number} {value:.4f}"
        for number, value in sorted(values.items(), key=lambda one: -one[1])
    ]
    yield Finding(
        "note",
        f"All {rows:,} validation rows chose the model, trials read fewer: {record.objective} of "
        f"{', '.join(each)}.",
    )


def by_estimate(record: Record) -> Iterator[Finding]:
    """Yield which trial has a higher value than the winner, where the estimate chose that one."""
    best = record.configuration
    if record.result is None or best is None or not estimated(record.config):
        return
    if len(record.result.get("confirmed") or []) > 1:
        return  # fresh seeds chose, and ``_luck`` says so
    if record.state.judged:
        return  # all validation rows chose, and ``by_all_rows`` says so
    values = {
        number: trial.best
        for number, trial in record.state.trials.items()
        if trial.state == "complete" and trial.best is not None
    }
    if best.number not in values:
        return
    highest = max(values, key=lambda number: values[number])
    mine, other = values[best.number], values[highest]
    if other <= mine:
        return
    yield Finding(
        "note",
        f"Trial {highest} has a higher {record.objective}, {other:.4f}. By all measurements "
        f"together trial {best.number} ({mine:.4f}) is expected to be better: the highest of many noisy "
        "values is partly luck.",
        "confirm.winner=value goes by a trial's own values alone",
    )


def _luck(record: Record) -> Iterator[Finding]:
    """Yield what fresh seeds say of the winner."""
    confirmed = (record.result or {}).get("confirmed") or []
    number = None if record.configuration is None else record.configuration.number
    lost = [event.failure for event in record.of_kind(events.Unconfirmed) if event.trial == number]
    if lost:
        yield Finding(
            "warning",
            f"Trained again, the configuration of trial {number} failed with {len(lost)} fresh seeds "
            f"({', '.join(sorted(set(lost)))}): it is fragile.",
        )
    one = next((c for c in confirmed if c["trial"] == number), None)
    if one is None:
        return
    values, mean = one["values"], fmean(one["values"])
    text = (
        f"Trained again with {len(values)} fresh seeds, trial {one['trial']}'s configuration has validation "
        f"{record.objective} {mean:.4f} ({min(values):.4f} to {max(values):.4f}) instead of {one['value']:.4f}: "
        f"{luck(one['value'] - mean)}."
    )
    highest = max(confirmed, key=lambda c: float(c["value"]))
    if highest["trial"] != one["trial"]:
        value, mean = highest["value"], fmean(highest["values"])
        text += f" Trial {highest['trial']} had {value:.4f}, and {mean:.4f} with fresh seeds."
    yield Finding("note", text)


def unconfirmed(record: Record) -> Iterator[Finding]:
    """Yield that a sampled winner was not trained again, and what that would cost."""
    asked = record.config.confirm
    best = record.configuration
    texts = record.texts
    if record.result is None or best is None or best.trial.given or not texts:
        return
    replayed = record.config.launcher.name == "replay"
    confirmed = [one["trial"] for one in record.result.get("confirmed") or []]
    if replayed or best.number in confirmed or not (asked.top_k and asked.seeds):
        return
    why = too_small(asked)
    if confirmed:
        others = ", ".join(f"trial {number}" for number in confirmed)
        why = f"{others} was, and fell behind"
    cost = 2 * record.config.train.texts / texts
    again = "confirm.share=null confirm.top_k=1 confirm.seeds=2"
    yield Finding(
        "note",
        f"The winner, trial {best.number}, was not trained again with fresh seeds: "
        f"{why}. Part of its lead may be luck.",
        f"embsearch search {same_study(record.config)} {again} does it, "
        f"for {cost:.0%} of the search's texts",
    )


def falling(course: Course) -> tuple[float, float] | None:
    """Return the (peak, last) objective of a trial whose loss went on falling after its objective
    had peaked.
    """
    most = max((e.rows for e in course.own), default=0)
    own = [e for e in course.own if e.rows == most]  # what fell on other rows did not fall
    if len(own) < 2 or not course.losses:
        return None
    peak = max(own, key=lambda e: e.value)
    if own[-1].value > peak.value - FELL:
        return None
    before = next((e.step for e in reversed(own) if e.step < peak.step), 0)
    earlier = [loss for step, loss in course.losses if before < step <= peak.step]
    later = [loss for step, loss in course.losses if step > peak.step]
    if not earlier or not later or sum(later) / len(later) >= sum(earlier) / len(earlier):
        return None
    return peak.value, own[-1].value


def _loss_falls(record: Record) -> Iterator[Finding]:
    found = {c.trial.number: pair for c in record.courses.values() if (pair := falling(c))}
    several = sum(len(c.own) > 1 for c in record.courses.values())
    if not found:
        return
    worst = max(found, key=lambda n: found[n][0] - found[n][1])
    mine = record.best is not None and record.best.number in found
    peak, last = found[worst]
    yield Finding(
        "warning" if mine or 3 * len(found) >= several else "note",
        f"The loss went on falling while validation {record.objective} fell in {len(found)} of {several} trials, "
        f"most in trial {worst}: {peak:.4f} to {last:.4f}. Every trial keeps the model of its best evaluation.",
        "train.patience=1 ends such trials; the guide loss-falls-metric-does-not says what to look at",
    )


def _size(record: Record, models: Models | None) -> Iterator[Finding]:
    complete = sum(c.trial.state == "complete" for c in record.searched.values())
    if record.courses and complete < FEW:
        yield Finding(
            "note",
            f"{complete} of {len(record.courses)} trials ran to their end: enough to choose a configuration, too few "
            "to say which parameter mattered.",
            "a larger stop.trials, or stop.seconds where that ended it, goes on with this study",
        )
    if (
        record.config.study.seeds == 1
        and complete > 1
        and not (record.result or {}).get("confirmed")
    ):
        yield Finding(
            "note",
            "Every configuration was trained with one seed: how far two seeds of one lie apart was not measured.",
            "study.seeds=3",
        )
    if models is None:
        return
    groups = models.groups
    given = best_given(record.result)
    against = UNTUNED
    if given and record.best and not record.best.trial.given:
        against = given["label"]
    gain = models.gain(BEST, against)
    if gain is not None:
        least = (gain.high - gain.low) / 2
        kind: Literal["note", "warning"] = "warning" if groups.count < SMALL_TEST else "note"
        yield Finding(
            kind,
            f"{groups.count:,} {models.split} {groups.name}: a difference below about {least:.4f} "
            f"{metric_label(record)} would not have been seen.",
        )
    if models.split != "test":
        yield Finding(
            "warning",
            "There are no test rows: these are the validation rows that the trials were chosen by, so every number "
            "is too good.",
            "data.test=FILE, or data.split.test=0.15",
        )


def _failures(record: Record) -> Iterator[Finding]:
    if found := failures(record.trials.values()):
        yield Finding("note", f"Failures on the way: {found}.", "embsearch status names the trials")
