"""The study page: one HTML file that explains a study, works without a network and prints."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from embsearch import __version__
from embsearch.codec import Json, JsonObject
from embsearch.config.command import same_study
from embsearch.history import events
from embsearch.history.final_table import BEST, UNTUNED, shown
from embsearch.hpo.encoders import PATH
from embsearch.report.charts import Chart, charts
from embsearch.report.findings import findings, headline, metric_label, signed
from embsearch.report.front import WORDS, front_rows, heads
from embsearch.report.importance import Importance, importances
from embsearch.report.live import clock, reads, short, state
from embsearch.report.ranges import choices_table
from embsearch.report.record import Record
from embsearch.report.result import number, with_interval
from embsearch.report.tables import tables
from embsearch.report.tested_models import Models
from embsearch.tasks.catalogue import task_of
from embsearch.values import primary_interval

LISTED = 1000  # trials in the table of all


def study_page(record: Record, models: Models | None, vega: str) -> str:
    """Return the page as HTML.

    ``models`` None: nothing is known of single rows, and what needs them is left out. ``vega`` is
    the script that draws.
    """
    found, rung, at_rung = importances(record)
    data = tables(record, models, found)
    drawn = charts(record, data, found)
    return render(
        "study.html.j2",
        f"{record.name}: study page",
        [one for some in drawn.values() for one in some],
        data,
        vega,
        name=record.name,
        config=record.config,
        headline=headline(record, models),
        objective=record.objective,
        choices=choices_table(record),
        winner=_winner(record),
        results=list(_results(record, models)),
        encoders=list(_encoders(record)),
        front=front_rows(record),
        front_heads=heads(record),
        front_words=WORDS,
        heads=task_of(record.config).columns,
        metric=metric_label(record),
        split=next((event.split for event in record.tested.values()), ""),
        queries=_rows_in_words(models),
        findings=findings(record, models),
        commands=_commands(record, models),
        spent=_spent(record),
        charts=drawn,
        rung=rung,
        at_share=record.at_share(rung),
        at_rung=at_rung,
        importance_words=_importance_words(found),
        axes=record.space.short_names(),
        trials=list(_trials(record))[:LISTED],
        more=_more(record),
        made=list(_made(record)),
        **_moved(models),
    )


def render(
    template: str,
    title: str,
    drawn: Sequence[Chart],
    data: Json,
    vega: str,
    **words: object,
) -> str:
    """Render ``template`` with ``words`` into the common page frame, with its charts and their
    data.
    """
    return _template(template).render(**_frame(title, drawn, data, vega), **words)


@cache
def _template(name: str) -> Template:
    loader = FunctionLoader(_file)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template(name)


def _file(name: str) -> str:
    return files("embsearch.report").joinpath(name).read_text(encoding="utf-8")


def _frame(title: str, drawn: Sequence[Chart], data: Json, vega: str) -> JsonObject:
    payload = {
        "charts": [{"id": c.id, "title": c.title, "spec": c.spec} for c in drawn],
        "tables": data,
    }
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return {
        "title": title,
        "version": __version__,
        "style": _file("page.css"),
        "script": vega.replace("</script", "<\\/script"),
        "payload": text.replace("<", "\\u003c"),  # a text may hold </script>
        "draw": _file("draw.js"),
        "moment": time.strftime("%Y-%m-%d %H:%M"),
    }


def _winner(record: Record) -> str:
    if record.best is None:
        return "winner"
    winner = f"trial {record.best.number}"
    if record.result is None:
        return f"{winner} (so far)"
    return winner


def _results(record: Record, models: Models | None) -> Iterator[Json]:
    task = task_of(record.config)
    if record.result is None:
        return
    for row in record.result["table"]:
        gain = None
        if models is not None and row["label"] != BEST:
            gain = models.gain(BEST, row["label"])
        yield {
            "label": shown(row),
            "validation": number(row["validation"]),
            "primary": with_interval(primary_interval(row)),
            "gain": "" if gain is None else signed(gain),
            "metrics": [number(value) for value in task.column_values(row["test"])],
        }


def _encoders(record: Record) -> Iterator[Json]:
    """Yield what each of several searched encoders is, and what its trials reached."""
    baselines = [event for event in record.of_kind(events.Baseline) if event.encoders]
    if not baselines:
        return
    own = record.config.model.path
    for path, facts in baselines[-1].encoders.items():
        courses = [c for c in record.searched.values() if c.trial.params.get(PATH, own) == path]
        values = [course.best for course in courses if course.best is not None]
        yield {
            "path": path,
            "parameters": f"{facts['parameters']:,}",
            "milliseconds": f"{facts['milliseconds']:.2g}",
            "untuned": number(facts["metrics"].get(record.objective)),
            "best": number(max(values, default=None)),
            "trials": len(courses),
            "won": record.configuration in courses,
        }


def _rows_in_words(models: Models | None) -> str:
    if models is None:
        return ""
    groups = models.groups
    counted = ""
    if groups.name != "rows":
        counted = f"{groups.count:,} {groups.name}, "
    return f"{counted}{len(models.rows):,} "


def _commands(record: Record, models: Models | None) -> list[str]:
    again = same_study(record.config)
    if record.result is None:
        if record.running:
            return []
        return [f"embsearch search {again}"]
    lines = [f"embsearch ui {again}"]
    if models is None:
        return lines
    gain = models.gain(BEST, UNTUNED)
    if gain is None or gain.low <= 0:
        return lines
    return [f"embsearch promote {again}", *lines]


def _spent(record: Record) -> str:
    counts = Counter(course.trial.state for course in record.searched.values())
    words = ", ".join(f"{n} {name}" for name, n in counts.items())
    full = len(record.courses) * record.config.train.texts
    fresh = record.fresh_texts
    searched = record.texts - fresh
    share = ""
    if full:
        share = f", {searched / full:.0%} of what training every trial to its end would take"
    again = ""
    if fresh:
        again = f", and {fresh:,} more with fresh seeds"
    ended = ""
    if record.result is not None:
        ended = f" It ended by {record.result['why']}."
    return (
        f"{len(record.courses)} trials ({words}) in {clock(record.seconds)}, {searched:,} texts trained "
        f"on{share}{again}; scheduler {record.config.scheduler.name}, sampler {record.config.sampler.name}.{ended}"
    )


def _importance_words(found: Sequence[Importance]) -> str:
    if not found:
        return ""
    first, *rest = found
    clear = not rest or first.low > max(one.high for one in rest)
    which = "The intervals overlap: with so few trials the order of these parameters is a guess."
    if clear:
        which = f"{first.name} mattered most."
    return (
        f"{which} Bars: the share of the objective's variance that a parameter explains by itself (fANOVA); lines: "
        "the middle 80 % when the trials are drawn again. Only trials that use a parameter are asked."
    )


def _trials(record: Record) -> Iterator[Json]:
    best_first = sorted(
        record.courses.values(), key=lambda c: c.trial.best_score or (-1, -1.0), reverse=True
    )
    for course in sorted(best_first, key=lambda c: c.trial.state != "complete"):
        trial = course.trial
        params = dict.fromkeys([d.path for d in record.space.dimensions], "")
        for path in params:
            if path in trial.params:
                params[path] = short(trial.params[path])
        yield {
            "number": trial.number,
            "won": course is record.best,
            "state": state(trial),
            "best": number(trial.best),
            "rung": trial.rung,
            "texts": f"{course.texts():,}",
            "params": list(params.values()),
            "why": trial.why,
        }


def _more(record: Record) -> str:
    left = len(record.courses) - LISTED
    if left <= 0:
        return ""
    return f"{left:,} more trials are in the study's folder and in MLflow."


def _moved(models: Models | None) -> JsonObject:
    if models is None or not models.of_titles or not {UNTUNED, BEST} <= models.by_label.keys():
        return {"moved": [], "moved_words": ""}
    gained, lost = models.moved()
    if not gained and not lost:
        return {"moved": [], "moved_words": ""}
    places = models.places()
    return {
        "moved": [("Gained most", gained), ("Lost most", lost)],
        "moved_words": f"Against all titles of the {models.split} rows, {places['higher']:,} queries find their "
        f"first relevant title higher up than with the untuned encoder, {places['lower']:,} lower down, "
        f"{places['same']:,} at the same place. Titles that nobody judged for a query count as not relevant.",
    }


def _made(record: Record) -> Iterator[tuple[str, str]]:
    sessions = record.of_kind(events.Opened)
    first = sessions[0] if sessions else events.Opened(name="")
    environment = first.environment
    data = record.config.data
    yield "data", f"{', '.join(data.named)}, fingerprint {first.data[:12]}"
    if words := task_of(record.config).primary.words:
        yield metric_label(record), words
    yield "encoder", record.config.model.path
    yield (
        "validation rows",
        reads(record.readings) or "all that the search reads, at every evaluation",
    )
    yield (
        "seeds",
        f"{record.config.study.seeds} a configuration, the first {record.config.train.seed}",
    )
    machine = [str(environment[key]) for key in ("host", "platform") if environment.get(key)]
    yield "machine", ", ".join([*machine, f"{environment.get('cpus', '?')} cores"])
    commit = str(environment.get("git_commit") or "")[:12]
    if commit:
        if environment.get("git_dirty"):
            commit += ", with uncommitted changes"
        yield "code", commit
    yield "config", f"{record.folder.locked.name} beside this page; sha256 {first.config[:12]}"
    yield "sessions", str(len(sessions))
