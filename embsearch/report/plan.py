"""The plan in plain lines, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from textwrap import wrap

from embsearch.config.schema import Config
from embsearch.hpo.confirm import affordable, too_small
from embsearch.hpo.plan import BATCH, Draw, Machine, Plan
from embsearch.report.live import clock, reads

LEFT, WIDTH = 12, 80


def lines(
    config: Config, plan: Plan, machine: Machine, verbose: bool = False, warmup: str = ""
) -> Iterator[str]:
    workers = f"{machine.workers} worker{'s' * (machine.workers > 1)}"
    yield f"plan of study {config.study.name} on this machine: {workers}"
    yield from _row("computing", f"in {machine.compute}")
    yield from _row("trials", _trials(config, plan))
    yield from _rungs(config, plan)
    if read := reads(plan.costs.readings):
        yield from _row("", f"about: {read}")
    texts = _expected(plan, lambda d: d.texts, lambda n: f"{n:,.0f}")
    yield from _row("texts", f"{texts}; {plan.most_texts:,} at worst, if no trial is held back")
    yield from _row("steps", _speeds(config, plan))
    yield from _row("time", _expected(plan, lambda d: d.seconds, clock))
    yield from _row("", _parts(plan))
    for limit in _limits(config, plan):
        yield from _row("", limit)
    yield from _row("then", _confirm(config, plan))
    yield from _row("memory", _memory(machine))
    yield from _row("", _batch(machine))
    yield from _row("disk", _disk(config, plan, machine))
    if warmup:
        yield from _row("note", warmup)
    if plan.unprobed:
        yield from _row(
            "note", f"not timed, so reckoned as the default's: {', '.join(plan.unprobed)}"
        )
    if verbose:
        seconds = (
            (f.name, getattr(plan.costs, f.name)) for f in fields(plan.costs) if f.type == "float"
        )
        yield from _row("seconds", ", ".join(f"{name} {value:.3g}" for name, value in seconds))


def _row(name: str, text: str) -> Iterator[str]:
    label = name
    for line in wrap(text, WIDTH - LEFT, break_on_hyphens=False):
        yield f"{label:{LEFT}}{line}"
        label = ""


def _expected(plan: Plan, what: Callable[[Draw], float], words: Callable[[float], str]) -> str:
    low, high = map(words, plan.likely(what))
    expected = f"{words(plan.mean(what))} expected"
    if low == high:
        return expected
    return f"{expected} ({low} to {high})"


def _trials(config: Config, plan: Plan) -> str:
    most = config.stop.trials
    trials = plan.mean(lambda d: d.trials)
    count = f"{most}"
    if round(trials) != most:
        count = f"{trials:.0f} of {most}"
    known = len(config.study.defaults)
    points = ""
    if known:
        points = f" and {known} known point{'s' * (known > 1)}"
    return f"{count}: the default{points}, then by {config.sampler.name}"


def _rungs(config: Config, plan: Plan) -> Iterator[str]:
    """Return how many trials are expected at each evaluation, and where the scheduler may hold them
    back.
    """
    rule = config.scheduler.name
    yield from _row("rungs", f"scheduler {rule}; trials expected at each evaluation:")
    for number, (share, texts) in enumerate(zip(config.evaluate.at, plan.texts, strict=True), 1):
        expected = plan.mean(lambda d, i=number - 1: d.reached[i])  # type: ignore[misc]
        low, high = plan.likely(lambda d, i=number - 1: d.reached[i])  # type: ignore[misc]
        several = ""
        if round(low) < round(high):
            several = f" ({low:.0f} to {high:.0f})"
        mark = ""
        if number in plan.rungs:
            mark = "  rung"
        yield f"{'':{LEFT}}{number}  {share:>6.1%} {texts:>11,} texts {expected:>6.1f} trials{several}{mark}"


def _speeds(config: Config, plan: Plan) -> str:
    words = []
    for speed in plan.costs.speeds:
        size = int(speed.params.get(BATCH) or config.train.batch_size)
        name = f"batch {size}"
        if speed.path != BATCH:
            name = f"{speed.path}={speed.params[speed.path]}"
        words.append(f"{name} {speed.step:.2g} s")
    return f"{', '.join(words)}, with every worker at work"


def _parts(plan: Plan) -> str:
    costs = plan.costs
    whole = plan.mean(lambda d: d.training + d.measuring)
    training = plan.mean(lambda d: d.training) / whole
    on = ""
    if reads(costs.readings):
        on = ", on all rows"
    return (
        f"start-up {clock(costs.command + costs.load)}, final test {clock(plan.final)}; between them training "
        f"{training:.0%}, evaluating and saving {1 - training:.0%} ({costs.measure:.1f} s each{on})"
    )


def _confirm(config: Config, plan: Plan) -> str:
    """Return the cost of training the best once more."""
    spent = plan.mean(lambda d: d.texts)
    top, seeds = affordable(config.confirm, round(spent), config.train.texts)
    if not top:
        return f"the best are not trained again: {too_small(config.confirm)}"
    texts = top * seeds * config.train.texts
    which = "the best one"
    if top > 1:
        which = f"the best {top}"
    more = clock(plan.mean(lambda d: d.seconds) * texts / spent)
    return (
        f"{which} again with {seeds} fresh seed{'s' * (seeds > 1)}: {texts:,} texts, "
        f"about {more} more (confirm.share={config.confirm.share})"
    )


def _limits(config: Config, plan: Plan) -> Iterator[str]:
    stop = config.stop
    cut = sum(draw.why.startswith("stop.seconds") for draw in plan.draws)
    if stop.seconds is not None:
        often = {0: "will not end it", len(plan.draws): "will end it"}
        words = often.get(cut, f"ends it in {cut} of {len(plan.draws)} draws")
        yield f"stop.seconds={stop.seconds:g} {words}"
    if stop.target is not None:
        yield f"stop.target={stop.target:g} may end it earlier, not before {clock(plan.earliest)}"
    if config.train.patience:
        yield f"train.patience={config.train.patience} may end trials earlier; not reckoned with"


def _memory(machine: Machine) -> str:
    count = machine.workers
    words = f"{size(machine.peak)} a worker"
    if machine.available:
        words += f", {size(machine.peak * count)} of {size(machine.available)} available"
    if machine.gpu:
        shared = f"{size(machine.gpu * machine.per_gpu)} of {size(machine.gpu_total)}"
        words += f"; GPU {size(machine.gpu)} a worker, {shared}"
    advice = "DOES NOT FIT; fewer workers, or gradients cached (train.cache_gradients=always, train.chunk_tokens)"
    if not machine.available and machine.fits:
        return f"{words}, on each node as often as it has workers"
    if machine.fits:
        return f"{words}: fits"
    return f"{words}: {advice}"


def _batch(machine: Machine) -> str:
    cached = f"gradients of the last {machine.cached} are cached"
    if not machine.cached:
        cached = "all kept at once, no gradient cache"
    elif machine.cached == machine.chunks:
        cached = "gradients of all are cached"
    halved = ""
    if machine.halved:
        halved = " (halved until they fitted)"
    chunks = f"{machine.chunks} chunk{'s' * (machine.chunks > 1)}"
    return (
        f"the longest batch of {machine.batch}: {machine.texts} texts, {machine.distinct} distinct, "
        f"{machine.tokens:,} tokens in {chunks}{halved}, {cached}"
    )


def _disk(config: Config, plan: Plan, machine: Machine) -> str:
    models = max(draw.reached[0] for draw in plan.draws)
    kept = max(draw.kept for draw in plan.draws) * config.study.seeds
    models += kept - kept // config.study.seeds  # the other seeds' own, gone when the trial ends
    need = models * machine.model + kept * machine.checkpoint
    where = ""
    if config.track.mlflow and config.track.uri is None:
        where = ", which MLflow links"
    elif config.track.mlflow:
        where = f", and those MLflow keeps (track.model_artifacts={config.track.model_artifacts}) where it lies"
    fits = ""
    if need >= machine.free:
        fits = ": DOES NOT FIT"
    return (
        f"{size(need)}: {models} models of {size(machine.model)}{where}; at most {kept} checkpoints of "
        f"{size(machine.checkpoint)}, gone when trials end; {size(machine.free)} free{fits}"
    )


def size(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000  # type: ignore[assignment]
    if count < 100:
        return f"{count:.1f} GB"
    return f"{count:,.0f} GB"
